//! How many clients and requests there is room for. Where files run out nothing is accepted any more, not even the question
//! whether the process lives, and calls of other processes fail: the public listener takes no more than leaves room for
//! these.

use crate::settings::{FrontSettings, GatewaySettings};

/// Files that are not for clients: listeners, those who ask for health and metrics, other processes, the log.
const RESERVED: u64 = 128;

/// Lowers the connections and requests that are admitted to what fits under the limit of open files. Each connection may
/// need another one to core-manager, for a socket. Each place for a request needs two: one for a request that waits, one
/// for an answer that is under way; with those that rest they are no more.
pub fn fit(front: &mut FrontSettings, gateway: &mut GatewaySettings, files: Option<u64>) {
    let Some(files) = files else { return };
    let room = usize::try_from(files.saturating_sub(RESERVED)).unwrap_or(usize::MAX);
    if front.connections.saturating_add(gateway.concurrency) <= room / 2 {
        return;
    }
    // A quarter of the room is enough for many more clients than fit into the rest.
    gateway.concurrency = gateway.concurrency.min(room / 8).max(1);
    let connections = (room / 2).saturating_sub(gateway.concurrency).max(1);
    if connections < front.connections {
        front.connections = connections;
        // One address alone must not take all that is left. Behind proxies it is requests that are counted.
        if front.per_address > 0 && front.trusted_hops == 0 {
            front.per_address = front.per_address.min((connections / 2).max(1));
        }
    }
    tracing::warn!(
        files,
        connections = front.connections,
        per_address = front.per_address,
        concurrency = gateway.concurrency,
        "no more connections and requests are admitted than this, whatever EDGE_CONNECTIONS and GATEWAY_CONCURRENCY say: \
         the limit of open files is too low"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn fitted(variables: &[(&str, &str)], files: Option<u64>) -> (usize, usize, usize) {
        let required = [
            ("JWT_SECRET_KEY", "01234567890123456789012345678901"),
            ("INTERNAL_GRPC_TOKEN", "01234567890123456789012345678901"),
            ("CORE_MANAGER_URL", "http://127.0.0.1:1"),
            ("ALLOWED_ORIGINS", "https://app.example.com"),
        ];
        let values = required.iter().chain(variables).map(|(name, value)| ((*name).into(), (*value).into()));
        let mut settings = chassis::settings::load_from(values, Settings::read).expect("settings");
        fit(&mut settings.front, &mut settings.gateway, files);
        (settings.front.connections, settings.front.per_address, settings.gateway.concurrency)
    }

    #[test]
    fn no_more_are_admitted_than_there_are_files_for() {
        assert_eq!(fitted(&[], None), (20_000, 1000, 1024));
        assert_eq!(fitted(&[], Some(42_176)), (20_000, 1000, 1024));
        assert_eq!(fitted(&[], Some(42_174)), (19_999, 1000, 1024));
        assert_eq!(fitted(&[], Some(1024)), (336, 168, 112));
        assert_eq!(fitted(&[("EDGE_PER_ADDRESS", "0")], Some(1024)), (336, 0, 112));
        assert_eq!(fitted(&[("TRUSTED_PROXY_HOPS", "1")], Some(1024)), (336, 1000, 112));
        assert_eq!(fitted(&[("EDGE_CONNECTIONS", "100")], Some(1024)), (100, 1000, 112));
        assert_eq!(fitted(&[("GATEWAY_CONCURRENCY", "8")], Some(1024)), (440, 220, 8));
        assert_eq!(fitted(&[], Some(0)), (1, 1, 1));
    }
}
