//! File descriptors. A process is started with a low limit for the sake of programs that use `select`; one that serves
//! takes what it may have.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files to the most that is allowed. Called before anything else.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        // Logs have not started, and it works all the same.
        eprintln!("the limit of open files stays as it is: {error}");
    }
}

/// How many files the process may have open; `None` is any number.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Whether something failed because the process, or the system, has no further one.
pub fn are_spent(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
