//! What is shown: colours where they are wanted, and steps with their durations.

use std::future::Future;
use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::Outcome;

/// ANSI colours that can be read on light and dark ground.
#[derive(Clone, Copy)]
pub enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Blue = 34,
    Magenta = 35,
    Cyan = 36,
}

/// Whether somebody looks at it.
pub fn is_watched() -> bool {
    static WATCHED: LazyLock<bool> =
        LazyLock::new(|| std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    *WATCHED
}

/// The text in colour on a terminal, as it is elsewhere.
pub fn paint(colour: Colour, text: &str) -> String {
    if is_watched() { format!("\x1b[{}m{text}\x1b[0m", colour as u8) } else { text.to_owned() }
}

/// Does a step under a title and says how long it took.
pub async fn step<T>(title: &str, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    println!("{}", paint(Colour::Cyan, &format!("▶ {title}")));
    let started = Instant::now();
    let outcome = work.await;
    let took = seconds(started.elapsed());
    match &outcome {
        Ok(_) => println!("{}", paint(Colour::Green, &format!("✓ {title} ({took})\n"))),
        Err(_) => println!("{}", paint(Colour::Red, &format!("✗ {title} ({took})\n"))),
    }
    outcome
}

pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
