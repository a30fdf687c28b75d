//! What MySQL keeps for the services, as small tables in memory with the rules of their statements: transactions are
//! atomic, keys unique, a conditional UPDATE says how many rows it met. The tests of this crate run the processes on a
//! simulated network over these tables; the tests of the services play the same random histories on the real SQL, so that
//! the two cannot drift apart.

pub mod accounts;
pub mod outbox;
pub mod quota;
