//! The REST routes of the edge, as somebody.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::http::{Answer, Http};
use crate::output::Fault;

/// Where the edge is when nobody says.
const HERE: &str = "http://localhost:8081";
/// How long an answer may take; the gateway has 30 seconds.
const LIMIT: Duration = Duration::from_secs(60);

const JSON: &str = "application/json";

/// The edge and who asks it. Cheap to clone.
#[derive(Clone)]
pub struct Rest {
    edge: String,
    token: Option<SecretString>,
    http: Http,
}

impl Rest {
    /// As `PERSONA_EDGE`, `PERSONA_TOKEN` and `PERSONA_CA_FILE` have it.
    ///
    /// # Errors
    /// When there is no token, or a file cannot be read.
    pub fn from_environment() -> Result<Self, Fault> {
        let token = token()?.ok_or_else(|| {
            Fault::Usage(
                "PERSONA_TOKEN must be an access token or API key (PERSONA_TOKEN_FILE a file with it)"
                    .to_owned(),
            )
        })?;
        Rest::of(Some(token))
    }

    /// With this token, or none.
    ///
    /// # Errors
    /// When the authorities cannot be read, or `PERSONA_EDGE` is no URL.
    pub fn of(token: Option<SecretString>) -> Result<Self, Fault> {
        let edge = variable("PERSONA_EDGE").unwrap_or_else(|| HERE.to_owned());
        let edge = edge.trim_end_matches('/').to_owned();
        if !["http://", "https://"].iter().any(|scheme| edge.starts_with(scheme)) {
            return Err(Fault::Usage(format!("PERSONA_EDGE: {edge}: must be such as {HERE}")));
        }
        let authority = variable("PERSONA_CA_FILE").map(PathBuf::from);
        let http = Http::new(authority.as_deref()).map_err(Fault::Said)?;
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
        self.http.send(request, LIMIT).await.map_err(|fault| self.away(&fault))
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
        let answer = self.http.send(request, limit).await.map_err(|fault| self.away(&fault))?;
        accepted(&answer, path)
    }

    /// Gives an answer that has begun, to be read as it comes.
    ///
    /// # Errors
    /// When there is none, or a refusal.
    pub async fn stream(&self, path: &str, body: &Value) -> Result<Response<Incoming>, Fault> {
        let bytes = Bytes::from(body.to_string());
        let request = self.request(Method::POST, path, Some(JSON), bytes)?;
        let response = self.http.begin(request, LIMIT).await.map_err(|fault| self.away(&fault))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| self.away(&error.to_string()))?.to_bytes();
        Err(refusal(&Answer { status: parts.status, headers: parts.headers, body }, path))
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
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
                .map_err(|_| Fault::Usage("the token has characters that no token has".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(media_type) = media_type {
            request = request.header(CONTENT_TYPE, media_type);
        }
        request.body(Full::new(body)).map_err(|error| Fault::Usage(format!("{}{path}: {error}", self.edge)))
    }

    fn away(&self, fault: &str) -> Fault {
        Fault::said(format!("{} (PERSONA_EDGE): {fault}", self.edge))
    }
}

/// What an answer says that is as it should be.
fn accepted(answer: &Answer, path: &str) -> Result<Value, Fault> {
    if answer.status.is_success() { Ok(answer.json()) } else { Err(refusal(answer, path)) }
}

/// An answer that is not as it should be. What is not of the platform, such as a proxy before it, has no code.
fn refusal(answer: &Answer, path: &str) -> Fault {
    let body = answer.json();
    if body["error"]["code"].is_string() {
        let mut body = body;
        if let Ok(seconds) = answer.header("retry-after").parse::<u64>() {
            body["error"]["retry_after"] = json!(seconds);
        }
        return Fault::Refused(body);
    }
    Fault::said(format!("{path}: {}", answer.status))
}

/// The token of the environment, if there is one.
///
/// # Errors
/// When its file cannot be read.
pub fn token() -> Result<Option<SecretString>, Fault> {
    if let Some(token) = variable("PERSONA_TOKEN") {
        return Ok(Some(token.into()));
    }
    let Some(path) = variable("PERSONA_TOKEN_FILE") else { return Ok(None) };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Fault::Usage(format!("PERSONA_TOKEN_FILE: {path}: {error}")))?;
    Ok(Some(text.trim().to_owned().into()))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
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
    use http::{HeaderMap, StatusCode};

    use super::*;

    #[test]
    fn a_query_has_what_is_there_and_escapes_it() {
        assert_eq!(query(&[("a", None), ("email", Some("a+b&c@x".to_owned()))]), "?email=a%2Bb%26c%40x");
        assert_eq!(query(&[("a", None)]), "");
    }

    #[test]
    fn what_is_not_an_answer_of_the_platform_is_told_by_its_status() {
        let answer = |body: &str| Answer {
            status: StatusCode::BAD_GATEWAY,
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        assert_eq!(refusal(&answer("<html>"), "/x").to_string(), "/x: 502 Bad Gateway");
        let ours = r#"{"error":{"code":"GW001","message":"away"}}"#;
        assert_eq!(refusal(&answer(ours), "/x").code(), Some("GW001"));
    }
}
