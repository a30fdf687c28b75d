//! How a socket ends: why, with which code, and with its last word.

use std::sync::LazyLock;
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use prometheus::IntCounterVec;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::meter::{Metered, TooManyFrames};
use super::session::close;
use super::side::Side;

/// How long the client has to answer our close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The client's side.
pub type Client = Side<Metered<TokioIo<Upgraded>>>;

/// Why the loop ends.
pub enum End {
    Close(u16, &'static str),
    /// The client has closed.
    Left,
    /// The client has gone without a word.
    Gone,
}

/// The close code for what the client did wrong.
pub fn fault(error: &Error) -> End {
    match error {
        Error::Capacity(_) => End::Close(close::TOO_BIG, "the message is too big"),
        Error::Utf8(_) => End::Close(close::BAD_UTF8, "not UTF-8"),
        Error::Io(error) if error.get_ref().is_some_and(|cause| cause.is::<TooManyFrames>()) => {
            End::Close(close::POLICY, "too many messages")
        }
        Error::Protocol(_) => End::Close(close::PROTOCOL_ERROR, "protocol error"),
        _ => End::Gone,
    }
}

/// Says why, and waits a little for the client's own close, so that the reason is not lost with the connection.
pub async fn finish(mut client: Client, end: End) {
    count(&end);
    let farewell = async {
        match end {
            End::Gone => {}
            End::Left => client.close(None).await,
            End::Close(code, reason) => {
                let is_broken = client.is_over();
                client.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).await;
                if is_broken {
                    // What the client still sends is no longer understood.
                    let _ = client.connection().leave().await;
                }
            }
        }
    };
    // A client that does not answer is dropped all the same.
    let _ = timeout(CLOSE_TIMEOUT, farewell).await;
}

fn count(end: &End) {
    // The codes are ours alone.
    match end {
        End::Close(code, _) => ENDS.with_label_values(&[code.to_string().as_str()]).inc(),
        End::Left => ENDS.with_label_values(&["left"]).inc(),
        End::Gone => ENDS.with_label_values(&["gone"]).inc(),
    }
}

static ENDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "edge_websocket_ends_total",
        "WebSockets that ended, by the code that we closed them with; left when the client closed, gone without a word",
        &["code"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
