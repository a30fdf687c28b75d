//! The connection to Stripe's API. <https://docs.stripe.com/api>

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use chassis::traces;
use contract::{ErrorCode, Failure};
use form_urlencoded::Serializer;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prometheus::IntCounterVec;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing::Instrument;
use uuid::Uuid;

/// Stripe's name in error details.
pub const STRIPE: &str = "stripe";

/// What the objects look like that are read here.
const VERSION: &str = "2025-03-31.basil";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPTS: u32 = 2;
const PAUSE: Duration = Duration::from_millis(200);
/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Where the API is: a URL without a path.
#[derive(Clone, Debug)]
pub struct ApiUrl(String);

impl FromStr for ApiUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| "must be a URL")?;
        let local = matches!(uri.host(), Some("127.0.0.1" | "localhost"));
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if local => {}
            _ => return Err("must begin with https://; the key would travel in the clear"),
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err("must have no path");
        }
        Ok(ApiUrl(text.trim_end_matches('/').to_owned()))
    }
}

/// Why a call did not succeed.
pub enum Fault {
    /// Stripe is away, too slow or too busy: GW001 or GW002.
    Away(Failure),
    /// Stripe refuses, and says why.
    Refused { call: &'static str, status: StatusCode, why: Why },
}

/// What Stripe says of a refusal.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Why {
    r#type: String,
    code: String,
    param: String,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str([&*self.r#type, &self.code, &self.param].join(" ").trim())
    }
}

impl Fault {
    /// Whether Stripe has no such object as this parameter names.
    pub fn misses(&self, param: &str) -> bool {
        matches!(self, Fault::Refused { why, .. } if why.code == "resource_missing" && why.param == param)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Away(failure) => failure,
            Fault::Refused { call, status, why } => {
                Failure::internal(format!("Stripe refuses to {call}: {status} {why}"))
            }
        }
    }
}

/// The parameters of a call, in the order in which they are sent.
#[derive(Default)]
pub struct Form(String);

impl Form {
    /// Adds a parameter.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0 = Serializer::for_suffix(self.0, 0).append_pair(name, value).finish();
        self
    }
}

pub struct Stripe {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: ApiUrl,
    authorization: HeaderValue,
}

/// One call, as it is repeated.
struct Call<'a> {
    /// What it is for, in the log and in metrics.
    name: &'static str,
    method: Method,
    path: &'a str,
    form: Form,
    /// Has Stripe do once what it is asked for several times.
    key: String,
}

impl Stripe {
    /// Connections are made when they are needed.
    pub fn new(url: ApiUrl, key: &SecretString) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.enforce_http(false);
        let tls = HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(tls.wrap_connector(tcp));
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))
            // A key with a control character cannot be sent; Stripe then says that there is none.
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
        authorization.set_sensitive(true);
        Stripe { client, url, authorization }
    }

    /// Reads an object.
    ///
    /// # Errors
    /// GW001, GW002; SRV001 when Stripe refuses.
    pub async fn get<T: DeserializeOwned>(
        &self,
        name: &'static str,
        path: &str,
        query: Form,
    ) -> Result<T, Fault> {
        let path = if query.0.is_empty() { path.to_owned() } else { format!("{path}?{}", query.0) };
        let call = Call { name, method: Method::GET, path: &path, form: Form::default(), key: String::new() };
        self.send(call).await
    }

    /// Makes or changes an object, once however often it is tried.
    ///
    /// # Errors
    /// As [`get`](Stripe::get).
    pub async fn post<T: DeserializeOwned>(
        &self,
        name: &'static str,
        path: &str,
        form: Form,
    ) -> Result<T, Fault> {
        self.post_once(name, path, form, Uuid::now_v7().to_string()).await
    }

    /// As [`post`](Stripe::post), and once for all calls with this key in a day.
    ///
    /// # Errors
    /// As [`get`](Stripe::get).
    pub async fn post_once<T: DeserializeOwned>(
        &self,
        name: &'static str,
        path: &str,
        form: Form,
        key: String,
    ) -> Result<T, Fault> {
        self.send(Call { name, method: Method::POST, path, form, key }).await
    }

    /// Ends or deletes an object. One that is not there is as good as deleted.
    ///
    /// # Errors
    /// As [`get`](Stripe::get).
    pub async fn delete(&self, name: &'static str, path: &str) -> Result<(), Fault> {
        let call = Call { name, method: Method::DELETE, path, form: Form::default(), key: String::new() };
        match self.send::<serde::de::IgnoredAny>(call).await {
            Err(Fault::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    async fn send<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, Fault> {
        let mut attempt = 1;
        loop {
            let span = tracing::info_span!(
                target: traces::TARGET,
                "stripe",
                otel.name = call.name,
                otel.kind = "client",
                http.request.method = call.method.as_str()
            );
            let outcome = self.send_once(&call).instrument(span).await;
            let result = match &outcome {
                Ok(_) => "answered",
                Err(Fault::Refused { .. }) => "refused",
                Err(Fault::Away(_)) => "away",
            };
            CALLS.with_label_values(&[call.name, result]).inc();
            match outcome {
                Err(Fault::Away(_)) if attempt < ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn send_once<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, Fault> {
        let exchange = async {
            let response = self.client.request(self.request(call)?).await.map_err(away)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(away)?;
            Ok((status, body.to_bytes()))
        };
        let answer = tokio::time::timeout(TIMEOUT, exchange).await;
        let (status, body) = answer.unwrap_or_else(|_| {
            Err(Fault::Away(Failure::new(ErrorCode::Timeout).with_fact("service", STRIPE)))
        })?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| Fault::Refused {
                call: call.name,
                status,
                why: Why { r#type: format!("an answer of another kind: {error}"), ..Why::default() },
            });
        }
        Err(refusal(call.name, status, &body))
    }

    fn request(&self, call: &Call<'_>) -> Result<Request<Full<Bytes>>, Fault> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{}", self.url.0, call.path))
            .header(AUTHORIZATION, self.authorization.clone())
            .header("stripe-version", VERSION);
        if call.method == Method::POST {
            request = request
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header("idempotency-key", &call.key);
        }
        let body = Full::new(Bytes::copy_from_slice(call.form.0.as_bytes()));
        request.body(body).map_err(|error| Fault::Away(Failure::internal(error)))
    }
}

fn away(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fault {
    Fault::Away(Failure::new(ErrorCode::Unavailable).with_fact("service", STRIPE).because(error))
}

/// What an error of Stripe's means. Nothing else of its body may reach a log.
fn refusal(call: &'static str, status: StatusCode, body: &[u8]) -> Fault {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Body {
        error: Why,
    }
    let why = serde_json::from_slice::<Body>(body).unwrap_or_default().error;
    match status {
        // Busy, or still at the first call with the same key.
        StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS => away(format!("{call}: {status} {why}")),
        _ if status.is_server_error() => away(format!("{call}: {status} {why}")),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            tracing::error!(%status, code = why.code, "Stripe does not accept STRIPE_SECRET_KEY");
            Fault::Away(Failure::new(ErrorCode::BillingNotConfigured))
        }
        _ => Fault::Refused { call, status, why },
    }
}

static CALLS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "stripe_calls_total",
        "Calls to Stripe by what they are for and what came of them",
        &["call", "result"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_never_travels_in_the_clear() {
        for good in ["https://api.stripe.com", "https://api.stripe.com/", "http://127.0.0.1:12111"] {
            assert!(good.parse::<ApiUrl>().is_ok(), "{good}");
        }
        for bad in
            ["http://api.stripe.com", "api.stripe.com", "https://api.stripe.com/v1", "http://127.0.0.1.x.org"]
        {
            assert!(bad.parse::<ApiUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parameters_are_encoded() {
        let form = Form::default().with("items[0][price]", "p 1").with("a", "&=").with("a", "ü");
        assert_eq!(form.0, "items%5B0%5D%5Bprice%5D=p+1&a=%26%3D&a=%C3%BC");
    }
}
