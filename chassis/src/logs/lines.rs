//! Lines on their way to standard output. A write for each would be a system call for each request: they gather for a
//! few milliseconds and leave together. Warnings and errors leave at once, with all that came before them. One thread
//! alone writes, and nobody waits for it: a standard output that nobody reads must not stop a process. What it does not
//! take is counted, and lost.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line may wait, and what a killed process loses at most.
const GATHER: Duration = Duration::from_millis(20);
/// What may wait while standard output takes nothing, in bytes: a second of the most that an edge writes.
const MOST: usize = 4 * 1024 * 1024;

/// Where lines go. Cheap to clone.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    gathered: Mutex<Gathered>,
    /// The first line of a batch has come, or one that is not to wait.
    begun: Condvar,
    /// A batch has been written.
    written: Condvar,
}

#[derive(Default)]
struct Gathered {
    lines: Vec<u8>,
    /// One of them is not to wait.
    is_urgent: bool,
    /// A batch is being written.
    is_writing: bool,
}

impl Lines {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn start() -> io::Result<Self> {
        LazyLock::force(&LOST);
        let lines = Lines(Arc::default());
        let writer = lines.clone();
        thread::Builder::new().name("logs".to_owned()).spawn(move || writer.run(io::stdout()))?;
        Ok(lines)
    }

    fn run(&self, mut output: impl Write) {
        loop {
            let batch = self.next();
            if output.write_all(&batch).and_then(|()| output.flush()).is_err() {
                // Some of them may have left.
                let lines = batch.iter().filter(|byte| **byte == b'\n').count();
                LOST.inc_by(lines as u64);
            }
            lock(&self.0.gathered).is_writing = false;
            self.0.written.notify_all();
        }
    }

    /// Waits for lines, and a little longer for more of them.
    fn next(&self) -> Vec<u8> {
        let Shared { gathered, begun, .. } = &*self.0;
        let gathered = begun.wait_while(lock(gathered), |gathered| gathered.lines.is_empty());
        let gathered = gathered.unwrap_or_else(PoisonError::into_inner);
        let waited = begun.wait_timeout_while(gathered, GATHER, |gathered| !gathered.is_urgent);
        let (mut gathered, _) = waited.unwrap_or_else(PoisonError::into_inner);
        gathered.is_urgent = false;
        gathered.is_writing = true;
        std::mem::take(&mut gathered.lines)
    }

    /// Waits until all is written, for at most `limit`.
    pub fn finish(&self, limit: Duration) {
        let mut gathered = lock(&self.0.gathered);
        gathered.is_urgent = true;
        self.0.begun.notify_one();
        let is_left = |gathered: &mut Gathered| gathered.is_writing || !gathered.lines.is_empty();
        drop(self.0.written.wait_timeout_while(gathered, limit, is_left));
    }

    /// Adds a line; with `at_once` it leaves with all that came before it.
    pub fn write(&self, line: &[u8], at_once: bool) {
        let mut gathered = lock(&self.0.gathered);
        if gathered.lines.len() + line.len() > MOST {
            drop(gathered);
            LOST.inc();
            return;
        }
        if gathered.lines.is_empty() || at_once {
            gathered.is_urgent |= at_once;
            self.0.begun.notify_one();
        }
        gathered.lines.extend_from_slice(line);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

static LOST: LazyLock<IntCounter> = LazyLock::new(|| {
    prometheus::register_int_counter!(
        "log_lines_lost_total",
        "Lines of the log that standard output did not take, or not in time"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Instant;

    use super::*;

    /// An output that takes a batch when it is let.
    struct Slow {
        may_take: Receiver<()>,
        taken: Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.may_take.recv().map_err(io::Error::other)?;
            self.taken.send(bytes.to_owned()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Lines, Sender<()>, Receiver<Vec<u8>>) {
        let (let_take, may_take) = channel();
        let (taken, takes) = channel();
        let lines = Lines(Arc::default());
        let writer = lines.clone();
        thread::spawn(move || writer.run(Slow { may_take, taken }));
        (lines, let_take, takes)
    }

    #[test]
    fn nobody_waits_for_an_output_that_takes_nothing_and_what_it_does_not_take_is_counted() {
        let (lines, let_take, takes) = slow();
        lines.write(b"first\n", true);
        while !lock(&lines.0.gathered).is_writing {
            thread::yield_now();
        }
        let lost = LOST.get();
        let line = vec![b'x'; MOST / 4];
        for _ in 0..6 {
            lines.write(&line, true);
        }
        assert_eq!(LOST.get() - lost, 2);
        let started = Instant::now();
        lines.finish(Duration::from_millis(50));
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());

        for _ in 0..2 {
            let_take.send(()).expect("the writer");
        }
        lines.finish(Duration::from_secs(60));
        assert_eq!(takes.recv().expect("a batch"), b"first\n");
        assert_eq!(takes.recv().expect("a batch").len(), MOST);

        // Closed.
        drop(let_take);
        let lost = LOST.get();
        for line in [b"second\n", b"third.\n"] {
            lines.write(line, true);
            lines.finish(Duration::from_secs(60));
        }
        assert_eq!(LOST.get() - lost, 2);
    }
}
