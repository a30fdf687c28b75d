use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An HTTP client of one server.
#[derive(Clone)]
pub struct Client {
    base: String,
    inner: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
    /// `Null` when the body is no JSON.
    pub body: Value,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The code of the error, or an empty text.
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    /// Checks an error: its status, its code, and the shape that every error has.
    #[track_caller]
    pub fn must_fail(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.code()), (status, code), "{self:?}");
        let id = self.headers.get("x-request-id").and_then(|id| id.to_str().ok());
        assert_eq!(self.body["request_id"].as_str(), id, "{self:?}");
        assert!(self.body["error"]["message"].is_string(), "{self:?}");
    }

    /// Checks a success and gives the body.
    #[track_caller]
    pub fn must_be(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self.body
    }
}

impl Client {
    pub fn new(base: impl Into<String>) -> Self {
        let inner = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        Client { base: base.into(), inner }
    }

    /// `host:port`.
    pub fn authority(&self) -> &str {
        self.base.strip_prefix("http://").unwrap_or(&self.base)
    }

    /// Sends a request and reads the answer; gives `None` when the answer breaks off.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Option<Reply> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        self.answer(request.body(Full::new(body)).expect("a request")).await
    }

    /// Sends a form whose parts each have a name, a file name if they are a file, and a text.
    pub async fn post_form(
        &self,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        parts: &[(&str, Option<&str>, &str)],
    ) -> Reply {
        const BOUNDARY: &str = "the-boundary-of-the-parts";
        let mut body = String::new();
        for (name, file, text) in parts {
            let file = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
            body += &format!(
                "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"{file}\r\n\r\n{text}\r\n"
            );
        }
        body += &format!("--{BOUNDARY}--\r\n");
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = self.answer(request.body(Full::new(body.into())).expect("a request")).await;
        reply.unwrap_or_else(|| panic!("POST {path} got no whole answer"))
    }

    /// Sends bytes as they are; gives `None` when the answer breaks off.
    pub async fn try_post_bytes(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Reply> {
        let mut request = Request::builder().method(Method::POST).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::copy_from_slice(body));
        self.answer(request.body(body).expect("a request")).await
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Option<Reply> {
        let response = self.inner.request(request).await.ok()?;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.ok()?.to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Some(Reply { status: parts.status, headers: parts.headers, bytes, body })
    }

    /// Sends a request that must be answered.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Reply {
        let reply = self.try_send(method.clone(), path, token, headers, body).await;
        reply.unwrap_or_else(|| panic!("{method} {path} got no whole answer"))
    }

    pub async fn get(&self, path: &str, token: &str) -> Reply {
        self.send(Method::GET, path, Some(token), &[], None).await
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> Reply {
        self.send(Method::POST, path, Some(token), &[], Some(&body)).await
    }

    pub async fn put(&self, path: &str, token: &str, body: Value) -> Reply {
        self.send(Method::PUT, path, Some(token), &[], Some(&body)).await
    }

    pub async fn delete(&self, path: &str, token: &str) -> Reply {
        self.send(Method::DELETE, path, Some(token), &[], None).await
    }

    /// Without a token.
    pub async fn open_get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, None, &[], None).await
    }

    /// Without a token.
    pub async fn open_post(&self, path: &str, body: Value) -> Reply {
        self.send(Method::POST, path, None, &[], Some(&body)).await
    }
}

/// Sends bytes as they are and gives the whole answer as text. For what no honest client would send.
pub async fn raw(authority: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(authority).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
