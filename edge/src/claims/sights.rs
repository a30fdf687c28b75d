//! Which access tokens this edge has seen. The first sight of a token proves that the answer that carried it has
//! arrived, which decides whether its parent refresh token may be presented again; identity-svc is told at once, but
//! no request waits for that.

use std::sync::LazyLock;
use std::time::Duration;

use chassis::grpc::InternalChannel;
use contract::identity::auth_service_client::AuthServiceClient;
use contract::identity::{ReportTokenUseRequest, TokenUse};
use contract::token::Claims;
use foldhash::fast::RandomState;
use prometheus::IntCounter;
use tokio::sync::mpsc;

/// Most tokens that are remembered; further ones are reported at each sight.
const MOST: usize = 1_000_000;
/// Reports that wait while one is on its way.
const WAITING: usize = 8192;
/// Most uses in one report, as identity-svc takes them.
const BATCH: usize = 1000;
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// The least time between two reports, so that many tokens share one. The first is told at once.
const GATHER: Duration = Duration::from_millis(5);

/// The tokens that this edge has seen.
pub struct Sights {
    /// `jti` and the second in which it can be forgotten.
    seen: papaya::HashMap<String, i64, RandomState>,
    report: mpsc::Sender<TokenUse>,
}

impl Sights {
    /// The table, and what [`tell`] takes the reports from.
    pub fn new() -> (Self, mpsc::Receiver<TokenUse>) {
        let (report, reports) = mpsc::channel(WAITING);
        (Sights { seen: papaya::HashMap::default(), report }, reports)
    }

    /// Notes the sight of a token.
    pub fn note(&self, claims: &Claims) {
        let seen = self.seen.pin();
        if seen.contains_key(&claims.jti) {
            return;
        }
        if seen.len() < MOST {
            seen.insert(claims.jti.clone(), claims.exp);
        }
        let at = Some(contract::to_timestamp(chassis::clock::now()));
        // A report that finds no room is lost: the parent then counts as unused for the rest of its short window.
        if self.report.try_send(TokenUse { token_id: claims.jti.clone(), at }).is_err() {
            LOST.inc();
        }
    }

    /// Drops tokens that have expired.
    pub fn forget(&self, now: i64) {
        self.seen.pin().retain(|_, expires| *expires > now);
    }
}

/// Tells identity-svc of first sights for as long as the process lives, as many at once as have gathered.
pub async fn tell(mut reports: mpsc::Receiver<TokenUse>, channel: InternalChannel) {
    let mut client = AuthServiceClient::new(channel);
    let mut uses = Vec::new();
    while reports.recv_many(&mut uses, BATCH).await > 0 {
        let count = uses.len() as u64;
        let mut request = tonic::Request::new(ReportTokenUseRequest { uses: std::mem::take(&mut uses) });
        request.set_timeout(REPORT_TIMEOUT);
        if let Err(status) = client.report_token_use(request).await {
            LOST.inc_by(count);
            tracing::debug!(%status, "first sights of tokens were not told");
        }
        tokio::time::sleep(GATHER).await;
    }
}

static LOST: LazyLock<IntCounter> = LazyLock::new(|| {
    prometheus::register_int_counter!(
        "edge_token_uses_lost_total",
        "First sights of access tokens that could not be told to identity-svc"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
