//! Our processes on a network that delays, reorders, loses and cuts, with deaths and restarts, one seed after the other:
//! the same seed gives the same history. What is real and what is a model stands in `docs/decisions.md`.

#[macro_use]
mod unused;

mod callers;
mod faults;
mod history;
mod network;
mod outbox;
mod quota;
mod seeds;
mod watch;
