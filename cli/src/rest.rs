//! The REST routes of the edge, as somebody.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use crate::environment;
use crate::http::{Answer, Http, Silence};
use crate::output::Fault;

/// How long an answer may take; the gateway has 30 seconds.
const LIMIT: Duration = Duration::from_secs(60);

const JSON: &str = "application/json";

/// The edge and who asks it. Cheap to clone.
#[derive(Clone)]
pub struct Rest {
    edge: String,
    token: SecretString,
    http: Http,
}

impl Rest {
    /// As `PERSONA_EDGE`, `PERSONA_TOKEN` and `PERSONA_CA_FILE` have it.
    ///
    /// # Errors
    /// When there is no token, or a file cannot be read.
    pub fn from_environment() -> Result<Self, Fault> {
        let token = environment::token()?.ok_or_else(|| {
            Fault::Usage(
                "PERSONA_TOKEN must be an access token or API key (PERSONA_TOKEN_FILE a file with it)"
                    .to_owned(),
            )
        })?;
        Rest::of(token)
    }

    /// With this token.
    ///
    /// # Errors
    /// When the authorities cannot be read, or `PERSONA_EDGE` is no URL that a token may go to.
    pub fn of(token: SecretString) -> Result<Self, Fault> {
        let edge = environment::edge()?;
        let http = Http::new(environment::authority().as_deref());
        let http = http.map_err(|fault| Fault::Usage(format!("PERSONA_CA_FILE: {fault}")))?;
        Ok(Rest { edge, token, http })
    }

    /// Where the edge is.
    pub fn edge(&self) -> &str {
        &self.edge
    }

    /// # Errors
    /// When the edge does not answer, or refuses.
    pub async fn get(&self, path: &str) -> Result<Value, Fault> {
        self.call(Method::GET, path, None).await
    }

    /// # Errors
    /// As [`Rest::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// # Errors
    /// As [`Rest::get`].
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        self.call(Method::PUT, path, Some(body)).await
    }

    /// # Errors
    /// As [`Rest::get`].
    pub async fn delete(&self, path: &str) -> Result<Value, Fault> {
        self.call(Method::DELETE, path, None).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Fault> {
        accepted(&self.ask(method, path, body).await?, path)
    }

    /// Gives the answer whatever it is.
    ///
    /// # Errors
    /// When there is none.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Fault> {
        let media_type = body.map(|_| JSON);
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = self.request(method, path, media_type, bytes)?;
        self.http.send(request, LIMIT).await.map_err(|silence| self.away(&silence))
    }

    /// Sends a body of another type and reads the answer; it may take long.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub async fn upload(
        &self,
        path: &str,
        media_type: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Value, Fault> {
        let request = self.request(Method::POST, path, Some(media_type), body)?;
        let answer = self.http.send(request, limit).await.map_err(|silence| self.away(&silence))?;
        accepted(&answer, path)
    }

    /// Gives an answer of a media type that has begun, to be read as it comes.
    ///
    /// # Errors
    /// When there is none, or a refusal.
    pub async fn stream(
        &self,
        path: &str,
        body: &Value,
        media_type: &str,
    ) -> Result<Response<Incoming>, Fault> {
        let bytes = Bytes::from(body.to_string());
        let request = self.request(Method::POST, path, Some(JSON), bytes)?;
        let response = self.http.begin(request, LIMIT).await.map_err(|silence| self.away(&silence))?;
        let told = response.headers().get(CONTENT_TYPE);
        let is_meant = told.is_some_and(|told| told.as_bytes().starts_with(media_type.as_bytes()));
        match response.status() {
            status if !status.is_success() => {
                let (parts, body) = response.into_parts();
                let body = body.collect().await.map_err(Fault::said)?.to_bytes();
                Err(refusal(&Answer { status: parts.status, headers: parts.headers, body }, path))
            }
            status if !is_meant => Err(stranger(path, status)),
            _ => Ok(response),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        media_type: Option<&str>,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Fault> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.edge));
        request = request.header(USER_AGENT, concat!("persona/", env!("CARGO_PKG_VERSION")));
        let mut token = HeaderValue::from_str(&format!("Bearer {}", self.token.expose_secret()))
            .map_err(|_| Fault::Usage("the token has characters that no token has".to_owned()))?;
        token.set_sensitive(true);
        request = request.header(AUTHORIZATION, token);
        if let Some(media_type) = media_type {
            request = request.header(CONTENT_TYPE, media_type);
        }
        request.body(Full::new(body)).map_err(|error| Fault::Usage(format!("{}{path}: {error}", self.edge)))
    }

    fn away(&self, silence: &Silence) -> Fault {
        let says = format!("{} (PERSONA_EDGE): {silence}", self.edge);
        Fault::Unanswered { says, after: silence.may_pass.then_some(Duration::ZERO) }
    }
}

/// What an answer says that is as it should be.
fn accepted(answer: &Answer, path: &str) -> Result<Value, Fault> {
    if !answer.status.is_success() {
        return Err(refusal(answer, path));
    }
    if answer.status == StatusCode::NO_CONTENT {
        return Ok(Value::Null);
    }
    let object = serde_json::from_slice::<Map<String, Value>>(&answer.body);
    object.map(Value::Object).map_err(|_| stranger(path, answer.status))
}

/// A part that an answer of the platform has.
///
/// # Errors
/// When it is not there: then somebody else has answered.
pub fn part<'a>(answer: &'a Value, name: &str) -> Result<&'a Value, Fault> {
    answer.get(name).ok_or_else(|| not_ours(format!("the answer has no {name}")))
}

/// Some other server has answered.
fn stranger(path: &str, status: StatusCode) -> Fault {
    not_ours(format!("{path}: {status}"))
}

/// The fault of an answer that the platform does not give.
pub fn not_ours(what: String) -> Fault {
    let says = format!(
        "{what}, which is no answer of the platform: correct PERSONA_EDGE, or use its version of persona"
    );
    Fault::Unanswered { says, after: None }
}

/// An answer that is not as it should be. What is not of the platform, such as a proxy before it, has no code of its.
fn refusal(answer: &Answer, path: &str) -> Fault {
    use StatusCode as S;
    let mut body = answer.json();
    let wait = answer.header("retry-after").parse::<u64>().ok();
    if body["error"]["code"].is_string() {
        if let Some(seconds) = wait {
            body["error"]["retry_after"] = json!(seconds);
        }
        return Fault::Refused(body);
    }
    let wait = wait.map(Duration::from_secs);
    let after = match answer.status {
        S::TOO_MANY_REQUESTS => wait,
        S::BAD_GATEWAY | S::SERVICE_UNAVAILABLE | S::GATEWAY_TIMEOUT => Some(wait.unwrap_or_default()),
        _ => None,
    };
    Fault::Unanswered { says: format!("{path}: {}", answer.status), after }
}

/// A query of the parameters that are there; nothing when none is.
pub fn query(parameters: &[(&str, Option<String>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let query = query.finish();
    if query.is_empty() { query } else { format!("?{query}") }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http::header::RETRY_AFTER;

    use super::*;

    #[test]
    fn a_query_has_what_is_there_and_escapes_it() {
        assert_eq!(query(&[("a", None), ("email", Some("a+b&c@x".to_owned()))]), "?email=a%2Bb%26c%40x");
        assert_eq!(query(&[("a", None)]), "");
    }

    fn answer(status: u16, body: &str) -> Answer {
        let (status, body) = (StatusCode::from_u16(status).expect("a status"), body.to_owned().into());
        Answer { status, headers: HeaderMap::new(), body }
    }

    #[test]
    fn what_is_not_an_answer_of_the_platform_is_told_by_its_status() {
        let after = |status, wait: Option<&'static str>| {
            let mut answer = answer(status, "<html>");
            answer.headers.extend(wait.map(|wait| (RETRY_AFTER, HeaderValue::from_static(wait))));
            match refusal(&answer, "/x") {
                Fault::Unanswered { says, after } if says.starts_with(&format!("/x: {status} ")) => after,
                other => panic!("{other}"),
            }
        };
        assert_eq!(
            (after(502, None), after(503, Some("7"))),
            (Some(Duration::ZERO), Some(Duration::from_secs(7)))
        );
        assert_eq!((after(429, Some("7")), after(429, None)), (Some(Duration::from_secs(7)), None));
        assert_eq!((after(404, Some("7")), after(301, None), after(500, None)), (None, None, None));
        let ours = r#"{"error":{"code":"GW001","message":"away"}}"#;
        assert_eq!(refusal(&answer(502, ours), "/x").code(), "GW001");
    }

    #[test]
    fn a_success_of_another_server_is_none() {
        for (status, body) in [(200, "<html>"), (200, ""), (202, "[]"), (200, "\"well\"")] {
            let fault = accepted(&answer(status, body), "/x").expect_err("a fault");
            assert!(fault.code() == "CLI003" && fault.to_string().contains("PERSONA_EDGE"), "{fault}");
        }
        assert_eq!(accepted(&answer(204, ""), "/x").expect("nothing"), Value::Null);
        let users = accepted(&answer(200, r#"{"users":[]}"#), "/x").expect("an answer");
        assert!(part(&users, "users").is_ok() && part(&users, "sessions").is_err());
    }
}
