//! The limits of the public listener that clients ran into, for operators to see which ones bite.

use std::sync::LazyLock;

use prometheus::IntCounterVec;

/// A limit of the public listener.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// Connections of all clients.
    Connections,
    /// File descriptors of the process.
    Descriptors,
    /// What one address may hold at once.
    PerAddress,
    /// The time in which headers must have arrived.
    HeaderTime,
    /// The size or number of headers.
    HeaderSize,
    /// The time between requests.
    Idle,
    /// The time in which more of a body must come, or of an answer be taken.
    Stall,
    /// The size of a body.
    BodySize,
    /// The time in which a body that is taken in whole must have come.
    BodyTime,
    /// The memory for such bodies.
    BodyRoom,
    /// Uploads to core-manager that must be waited for.
    Uploads,
    /// Answers of core-manager that hold a connection to it.
    Answers,
    /// Calls to our services at once.
    Calls,
    /// How deep JSON may nest.
    JsonDepth,
    /// Requests of HTTP/2 that were given up.
    Http2Resets,
    /// Frames of HTTP/2 that lead to nothing.
    Http2Frames,
}

impl Limit {
    fn name(self) -> &'static str {
        match self {
            Limit::Connections => "connections",
            Limit::Descriptors => "descriptors",
            Limit::PerAddress => "per_address",
            Limit::HeaderTime => "header_time",
            Limit::HeaderSize => "header_size",
            Limit::Idle => "idle",
            Limit::Stall => "stall",
            Limit::BodySize => "body_size",
            Limit::BodyTime => "body_time",
            Limit::BodyRoom => "body_room",
            Limit::Uploads => "uploads",
            Limit::Answers => "answers",
            Limit::Calls => "calls",
            Limit::JsonDepth => "json_depth",
            Limit::Http2Resets => "http2_resets",
            Limit::Http2Frames => "http2_frames",
        }
    }

    /// Counts that a client ran into it.
    pub fn bites(self) {
        BITTEN.with_label_values(&[self.name()]).inc();
    }
}

static BITTEN: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "edge_limits_total",
        "Connections and requests that ran into a limit of the public listener",
        &["limit"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
