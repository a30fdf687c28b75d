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

use super::caller::identity_away;
use crate::front::Client;
use crate::places::{Place, Places, Slot};
use crate::services::IDENTITY;

/// Most keys that are remembered, at about 1 KB each.
const MOST: usize = 16_384;
/// Questions to identity-svc at once about keys that nobody has shown before: a flood of made-up ones must not become one of
/// questions, and an address has a share.
const UNKNOWN_AT_ONCE: usize = 64;
/// Questions at once about keys that were good: no flood of others gets in their way.
const KNOWN_AT_ONCE: usize = 32;
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a refusal is remembered, so that a client which goes on with a dead key does not cost a question each time.
const REFUSED_FOR: Duration = Duration::from_secs(1);

pub struct ApiKeys {
    tokens: Cache<String, Arc<str>>,
    refused: Cache<String, (Instant, ErrorCode)>,
    /// Those that were good when they were asked about last.
    good: Cache<String, ()>,
    unknown: Places,
    known: Places,
    identity: ApiKeyServiceClient<InternalChannel>,
}

impl ApiKeys {
    pub fn new(identity: InternalChannel) -> Self {
        ApiKeys {
            tokens: Cache::new(MOST),
            refused: Cache::new(MOST),
            good: Cache::new(MOST),
            unknown: Places::new(UNKNOWN_AT_ONCE),
            known: Places::new(KNOWN_AT_ONCE),
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
    pub async fn redeem(&self, key: &str, former: Option<&Arc<str>>, client: &Client) -> Outcome<Arc<str>> {
        if !api_key::is_well_formed(key) {
            return Err(Failure::new(ErrorCode::TokenInvalid).saying("The API key is not valid"));
        }
        if let Some((_, code)) = self.refused.get(key).filter(|(at, _)| at.elapsed() < REFUSED_FOR) {
            return Err(Failure::new(code).saying("The API key is not valid any more"));
        }
        if let Some(former) = former {
            self.tokens.remove_if(key, |token| Arc::ptr_eq(token, former));
        }
        let ask = async {
            let _place = self.place(key, client)?;
            self.ask(key).await
        };
        self.tokens.get_or_insert_async(key, ask).await
    }

    fn place(&self, key: &str, client: &Client) -> Outcome<Place> {
        let places = if self.good.get(key).is_some() { &self.known } else { &self.unknown };
        places.take(Slot::of(&client.household())).map_err(|short| {
            REDEEMED.with_label_values(&["overloaded"]).inc();
            short.into()
        })
    }

    async fn ask(&self, key: &str) -> Outcome<Arc<str>> {
        let mut request = tonic::Request::new(RedeemApiKeyRequest { key: key.to_owned() });
        request.set_timeout(ASK_TIMEOUT);
        match self.identity.clone().redeem_api_key(request).await {
            Ok(answer) => {
                REDEEMED.with_label_values(&["redeemed"]).inc();
                self.good.insert(key.to_owned(), ());
                Ok(answer.into_inner().access_token.into())
            }
            Err(status) => {
                let failure = Failure::from_status(status, IDENTITY);
                if matches!(failure.code(), ErrorCode::TokenInvalid | ErrorCode::TokenExpired) {
                    REDEEMED.with_label_values(&["refused"]).inc();
                    self.good.remove(key);
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::services::tests::nowhere;

    #[tokio::test]
    async fn whoever_shows_made_up_keys_leaves_places_to_others_and_to_keys_that_were_good() {
        let keys = ApiKeys::new(nowhere());
        let [one, other] = ["192.0.2.1", "192.0.2.2"]
            .map(|address| Client::new(address.parse::<IpAddr>().expect("an address")));
        keys.good.insert("good".to_owned(), ());
        let taken: Vec<_> = std::iter::from_fn(|| keys.place("made up", &one).ok()).collect();
        assert_eq!(taken.len(), UNKNOWN_AT_ONCE / 2);
        assert!(keys.place("unknown", &other).is_ok() && keys.place("good", &one).is_ok());
    }
}
