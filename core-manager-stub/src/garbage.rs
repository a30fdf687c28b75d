//! What no HTTP server would say. It is written past hyper, and the connection closed after it.

use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// The most that is said of what has no end, in bytes.
const MOST: usize = 1024 * 1024;

/// What is said instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Garbage {
    /// No HTTP at all.
    Noise,
    /// A chunk whose size is none, after a good head.
    ChunkSize,
    /// Two lengths that contradict each other.
    Lengths,
    /// A head that does not end.
    EndlessHead,
    /// A header whose name has a control character.
    ControlName,
    /// Informational answers without end, and no final one.
    Flood,
    /// Frames that are none, after the handshake of a WebSocket.
    Frames,
    /// Each time another one of those that stand where an answer is expected.
    Any,
}

const ANSWERS: [Garbage; 6] = [
    Garbage::Noise,
    Garbage::Lengths,
    Garbage::ControlName,
    Garbage::ChunkSize,
    Garbage::EndlessHead,
    Garbage::Flood,
];

impl FromStr for Garbage {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "noise" => Ok(Garbage::Noise),
            "chunk-size" => Ok(Garbage::ChunkSize),
            "lengths" => Ok(Garbage::Lengths),
            "endless-head" => Ok(Garbage::EndlessHead),
            "control-name" => Ok(Garbage::ControlName),
            "flood" => Ok(Garbage::Flood),
            "any" => Ok(Garbage::Any),
            "frames" => Ok(Garbage::Frames),
            _ => Err(()),
        }
    }
}

impl Garbage {
    /// What is said once, and what is said after it for as long as it is taken.
    fn words(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Garbage::Noise => (b"\x16\x03\x01\x02\0 this is no HTTP\r\n\r\n", b""),
            Garbage::ChunkSize => {
                (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\nhello\r\n", b"")
            }
            Garbage::Lengths => {
                (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 40\r\n\r\nok", b"")
            }
            Garbage::EndlessHead => (b"HTTP/1.1 200 OK\r\nx-long: ", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            Garbage::ControlName => (b"HTTP/1.1 200 OK\r\nx-\x01\x7f: 1\r\ncontent-length: 2\r\n\r\nok", b""),
            Garbage::Flood => (b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
            Garbage::Any => {
                static TURN: AtomicUsize = AtomicUsize::new(0);
                ANSWERS[TURN.fetch_add(1, Relaxed) % ANSWERS.len()].words()
            }
            // Reserved bits and an operation that does not exist.
            Garbage::Frames => (b"\xf3\x05frame", b""),
        }
    }

    /// Says it, and closes the connection.
    pub async fn say(self, mut stream: TcpStream) {
        let (once, again) = self.words();
        // Whoever has heard enough breaks off.
        let mut is_heard = stream.write_all(once).await.is_ok();
        let again = again.repeat((16 * 1024) / again.len().max(1));
        let mut said = 0;
        while is_heard && !again.is_empty() && said < MOST {
            is_heard = stream.write_all(&again).await.is_ok();
            said += again.len();
        }
    }
}
