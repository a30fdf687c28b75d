//! API keys that this edge has seen, each with an access token that stands for it. From there on a key is served as that
//! token is: its expiry, the keys of tokens and the live claims decide on every sight.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use chassis::grpc::InternalChannel;
use contract::identity::RedeemApiKeyRequest;
use contract::identity::api_key_service_client::ApiKeyServiceClient;
use contract::{ErrorCode, Failure, Outcome, api_key};
use prometheus::IntCounterVec;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use super::caller::identity_away;
use crate::services::IDENTITY;

/// Most keys that are remembered, at about 1 KB each.
const MOST: usize = 16_384;
/// Questions to identity-svc at once: a flood of made-up keys must not become one of questions.
const AT_ONCE: usize = 32;
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a refusal is remembered, so that a client which goes on with a dead key does not cost a question each time.
const REFUSED_FOR: Duration = Duration::from_secs(1);

pub struct ApiKeys {
    tokens: Cache<String, Arc<str>>,
    refused: Cache<String, (Instant, ErrorCode)>,
    asking: Semaphore,
    identity: ApiKeyServiceClient<InternalChannel>,
}

impl ApiKeys {
    pub fn new(identity: InternalChannel) -> Self {
        ApiKeys {
            tokens: Cache::new(MOST),
            refused: Cache::new(MOST),
            asking: Semaphore::new(AT_ONCE),
            identity: ApiKeyServiceClient::new(identity),
        }
    }

    /// The token that stands for a key, if it is known.
    pub fn known(&self, key: &str) -> Option<Arc<str>> {
        self.tokens.get(key)
    }

    /// Another token for a key than the one that is no longer good, if there was one. Requests with one key wait for one
    /// answer.
    ///
    /// # Errors
    /// AUTH002 when the key has expired; AUTH003; GW001; GW003 when too many unknown keys are shown at once.
    pub async fn redeem(&self, key: &str, former: Option<&Arc<str>>) -> Outcome<Arc<str>> {
        if !api_key::is_well_formed(key) {
            return Err(Failure::new(ErrorCode::TokenInvalid).saying("The API key is not valid"));
        }
        if let Some((_, code)) = self.refused.get(key).filter(|(at, _)| at.elapsed() < REFUSED_FOR) {
            return Err(Failure::new(code).saying("The API key is not valid any more"));
        }
        if let Some(former) = former {
            self.tokens.remove_if(key, |token| Arc::ptr_eq(token, former));
        }
        self.tokens.get_or_insert_async(key, self.ask(key)).await
    }

    async fn ask(&self, key: &str) -> Outcome<Arc<str>> {
        let Ok(_turn) = self.asking.try_acquire() else {
            REDEEMED.with_label_values(&["overloaded"]).inc();
            return Err(Failure::new(ErrorCode::Overloaded).retry_after(Duration::from_secs(1)));
        };
        let mut request = tonic::Request::new(RedeemApiKeyRequest { key: key.to_owned() });
        request.set_timeout(ASK_TIMEOUT);
        match self.identity.clone().redeem_api_key(request).await {
            Ok(answer) => {
                REDEEMED.with_label_values(&["redeemed"]).inc();
                Ok(answer.into_inner().access_token.into())
            }
            Err(status) => {
                let failure = Failure::from_status(status, IDENTITY);
                if matches!(failure.code(), ErrorCode::TokenInvalid | ErrorCode::TokenExpired) {
                    REDEEMED.with_label_values(&["refused"]).inc();
                    self.refused.insert(key.to_owned(), (Instant::now(), failure.code()));
                    return Err(failure);
                }
                REDEEMED.with_label_values(&["away"]).inc();
                Err(identity_away().because(failure))
            }
        }
    }
}

static REDEEMED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "edge_api_keys_redeemed_total",
        "Questions to identity-svc what an API key stands for: redeemed, refused, away, overloaded",
        &["outcome"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
