//! Listeners of a process.

use std::net::SocketAddr;

use tokio::net::TcpListener;

/// Listens on the address that a setting names.
///
/// # Errors
/// Why it cannot, with the setting and its value: the system names neither.
pub async fn bind(setting: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| format!("{setting}={address}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_cannot_listen_is_told_on_what_and_by_which_setting() {
        let first = bind("EDGE_LISTEN", ([127, 0, 0, 1], 0).into()).await.expect("a port");
        let taken = first.local_addr().expect("an address");
        let fault = bind("EDGE_LISTEN", taken).await.expect_err("it is taken");
        assert!(fault.starts_with(&format!("EDGE_LISTEN={taken}: ")), "{fault}");
    }
}
