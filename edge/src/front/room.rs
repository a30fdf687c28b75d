//! How many clients there is room for. Where files run out nothing is accepted any more, not even the question whether
//! the process lives, and calls of other processes fail: the public listener takes no more than leaves room for these.

use crate::settings::FrontSettings;

/// Files that are not for clients: listeners, those who ask for health and metrics, other processes, the log.
const RESERVED: u64 = 128;

/// Lowers the connections that are admitted to what fits under the limit of open files. Each may need another one to
/// core-manager.
pub fn fit(settings: &mut FrontSettings, files: Option<u64>) {
    let Some(files) = files else { return };
    let room = usize::try_from(files.saturating_sub(RESERVED) / 2).unwrap_or(usize::MAX).max(1);
    if settings.connections <= room {
        return;
    }
    settings.connections = room;
    // One address alone must not take all that is left. Behind proxies it is requests that are counted.
    if settings.per_address > 0 && settings.trusted_hops == 0 {
        settings.per_address = settings.per_address.min((room / 2).max(1));
    }
    tracing::warn!(
        files,
        connections = settings.connections,
        per_address = settings.per_address,
        "fewer connections are admitted than EDGE_CONNECTIONS says: the limit of open files is too low"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn fitted(variables: &[(&str, &str)], files: Option<u64>) -> (usize, usize) {
        let required = [
            ("JWT_SECRET_KEY", "01234567890123456789012345678901"),
            ("INTERNAL_GRPC_TOKEN", "01234567890123456789012345678901"),
            ("CORE_MANAGER_URL", "http://127.0.0.1:1"),
            ("ALLOWED_ORIGINS", "https://app.example.com"),
        ];
        let values = required.iter().chain(variables).map(|(name, value)| ((*name).into(), (*value).into()));
        let mut settings = chassis::settings::load_from(values, Settings::read).expect("settings").front;
        fit(&mut settings, files);
        (settings.connections, settings.per_address)
    }

    #[test]
    fn no_more_are_admitted_than_there_are_files_for() {
        assert_eq!(fitted(&[], None), (20_000, 1000));
        assert_eq!(fitted(&[], Some(40_128)), (20_000, 1000));
        assert_eq!(fitted(&[], Some(40_126)), (19_999, 1000));
        assert_eq!(fitted(&[], Some(1024)), (448, 224));
        assert_eq!(fitted(&[("EDGE_PER_ADDRESS", "0")], Some(1024)), (448, 0));
        assert_eq!(fitted(&[("TRUSTED_PROXY_HOPS", "1")], Some(1024)), (448, 1000));
        assert_eq!(fitted(&[], Some(0)), (1, 1));
    }
}
