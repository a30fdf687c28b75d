//! Lines on their way to standard output. A write for each would be a system call for each request: they gather for a
//! few milliseconds and leave together. Warnings and errors leave at once, with all that came before them.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line may wait, and what a killed process loses at most.
const GATHER: Duration = Duration::from_millis(20);
/// Who writes more than this meanwhile waits until standard output has taken it, in bytes.
const MOST: usize = 256 * 1024;

/// Where lines go. Cheap to clone.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    gathered: Mutex<Vec<u8>>,
    /// The first line of a batch has come.
    begun: Condvar,
    /// Held while a batch is written, so that batches keep their order.
    output: Mutex<()>,
}

impl Lines {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn start() -> io::Result<Self> {
        let shared = Shared { gathered: Mutex::default(), begun: Condvar::new(), output: Mutex::default() };
        let lines = Lines(Arc::new(shared));
        let writer = lines.clone();
        thread::Builder::new().name("logs".to_owned()).spawn(move || writer.run())?;
        Ok(lines)
    }

    fn run(&self) {
        loop {
            let empty = self.0.begun.wait_while(lock(&self.0.gathered), |gathered| gathered.is_empty());
            drop(empty);
            thread::sleep(GATHER);
            self.flush();
        }
    }

    /// Writes what has gathered. A standard output that is closed loses it: there is nowhere to say so.
    pub fn flush(&self) {
        let output = lock(&self.0.output);
        let batch = std::mem::take(&mut *lock(&self.0.gathered));
        let _ = io::stdout().write_all(&batch).and_then(|()| io::stdout().flush());
        drop(output);
    }

    /// Adds a line; with `at_once` it leaves with all that came before it.
    pub fn write(&self, line: &[u8], at_once: bool) {
        if self.gather(line) > MOST || at_once {
            self.flush();
        }
    }

    fn gather(&self, line: &[u8]) -> usize {
        let mut gathered = lock(&self.0.gathered);
        if gathered.is_empty() {
            self.0.begun.notify_one();
        }
        gathered.extend_from_slice(line);
        gathered.len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes one line.
pub struct Line {
    lines: Lines,
    at_once: bool,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.write(line, self.at_once);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line { lines: self.clone(), at_once: true }
    }

    fn make_writer_for(&self, event: &Metadata<'_>) -> Line {
        Line { lines: self.clone(), at_once: *event.level() <= Level::WARN }
    }
}
