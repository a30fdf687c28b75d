//! What the parts of the hot path take by themselves: `cargo bench -p edge`. What a whole request takes is counted by
//! `cargo xtask instructions`.

use axum::body::Body;
use axum::extract::Request;
use contract::token::{Algorithm, Claims, ISSUER, KeyPair, Signer, SigningKey, Verifier, VerifyingKey};
use contract::{Role, Tier};
use divan::{Bencher, black_box};
use edge::hot_path::{Caller, Envelope, Match, RouteTable, check_path, context, from_upstream, to_upstream};
use futures_util::FutureExt;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method};

/// Many times for each sample: one time takes less than looking at the clock.
fn main() {
    divan::Divan::default().sample_size(200).config_with_args().main();
}

const PATH: &str = "/api/v1/personas/instances/0199c0de-0000-7000-8000-000000000001";
const AUDIENCE: &str = "persona-platform";
/// Seconds since 1970, in the life of the token.
const NOW: i64 = 1_000;

fn claims() -> Claims {
    let user = "0199c0de-0000-7000-8000-000000000002".to_owned();
    Claims {
        iss: ISSUER.to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: user.clone(),
        jti: "0199c0de-0000-7000-8000-000000000003".to_owned(),
        iat: NOW,
        nbf: NOW,
        exp: NOW + 900,
        sid: "0199c0de-0000-7000-8000-000000000004".to_owned(),
        ver: 1,
        user_id: user,
        email: "ada@example.com".to_owned(),
        client_id: "web".to_owned(),
        role: Role::User,
        tier: Tier::Premium,
        permissions: vec!["personas.create".to_owned(), "personas.delete".to_owned()],
        scope: None,
        key_exp: None,
    }
}

/// The first sight of a token; later ones are looked up.
fn verify(bencher: Bencher<'_, '_>, signing: SigningKey, verifying: VerifyingKey) {
    let token = Signer::new(signing).sign(&claims()).expect("a token");
    let verifier = Verifier::new(vec![verifying], AUDIENCE);
    assert_eq!(verifier.verify(&token, NOW), Ok(claims()));
    bencher.bench(|| verifier.verify(black_box(&token), NOW));
}

#[divan::bench]
fn verify_hs256(bencher: Bencher<'_, '_>) {
    let secret = "a secret of at least thirty-two bytes".to_owned().into();
    verify(bencher, SigningKey::hs256(&secret), VerifyingKey::hs256(&secret));
}

#[divan::bench]
fn verify_eddsa(bencher: Bencher<'_, '_>) {
    let pair = KeyPair::generate("1", Algorithm::EdDsa).expect("a key pair");
    verify(bencher, pair.signing_key().expect("a key"), pair.verifying_key().expect("a key"));
}

#[divan::bench]
fn check_a_plain_path(bencher: Bencher<'_, '_>) {
    assert!(check_path(PATH).is_ok());
    bencher.bench(|| check_path(black_box(PATH)).is_ok());
}

#[divan::bench]
fn check_an_encoded_path(bencher: Bencher<'_, '_>) {
    let path = "/api/v1/personas/instances/caf%C3%A9%20au%20lait";
    assert!(check_path(path).is_ok());
    bencher.bench(|| check_path(black_box(path)).is_ok());
}

#[divan::bench]
fn find_a_route(bencher: Bencher<'_, '_>) {
    let table = RouteTable::new(Vec::new());
    let is_found = |method: &Method, path: &str| matches!(table.find(method, path), Match::Route(_));
    assert!(is_found(&Method::GET, PATH));
    bencher.bench(|| is_found(black_box(&Method::GET), black_box(PATH)));
}

#[divan::bench]
fn find_no_route(bencher: Bencher<'_, '_>) {
    let table = RouteTable::new(Vec::new());
    let is_absent = |path: &str| matches!(table.find(&Method::GET, path), Match::None);
    assert!(is_absent("/api/v1/personas/nothing"));
    bencher.bench(|| is_absent(black_box("/api/v1/personas/nothing")));
}

/// A request as a browser's script sends it, with a header that could be forged.
fn request() -> Request {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = PATH.parse().expect("a path");
    let token = HeaderValue::from_maybe_shared("Bearer ".to_owned() + &"x".repeat(600)).expect("a header");
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("api.example.com"));
    headers.insert(USER_AGENT, HeaderValue::from_static("Mozilla/5.0 (X11; Linux x86_64)"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert("accept-encoding", HeaderValue::from_static("gzip, br"));
    headers.insert("accept-language", HeaderValue::from_static("en"));
    headers.insert("origin", HeaderValue::from_static("https://app.example.com"));
    headers.insert("x-user-role", HeaderValue::from_static("admin"));
    headers.insert(AUTHORIZATION, token);
    request
}

#[divan::bench]
fn scrub_and_add_headers(bencher: Bencher<'_, '_>) {
    let context = context(request()).now_or_never().expect("at once").expect("a context");
    let caller = Caller::new(claims());
    let forward = |mut request: Request| {
        let outcome = to_upstream(&mut request, &caller, &context, false);
        (request, outcome.is_ok())
    };
    let (forwarded, is_good) = forward(request());
    assert!(is_good && forwarded.headers()["x-user-role"] == "user");
    bencher.with_inputs(request).bench_values(forward);
}

#[divan::bench]
fn scrub_an_answer(bencher: Bencher<'_, '_>) {
    let answer = || {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("content-length", HeaderValue::from_static("1024"));
        headers.insert("date", HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"));
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
        headers
    };
    bencher.with_inputs(answer).bench_values(|mut headers| {
        from_upstream(&mut headers);
        headers
    });
}

#[divan::bench(args = [200, 16_384])]
fn parse_an_envelope(bencher: Bencher<'_, '_>, bytes: usize) {
    let (head, tail) = (r#"{"type":"note","id":"0199c0de","data":{"text":""#, r#""}}"#);
    let text = format!("{head}{}{tail}", "x".repeat(bytes - head.len() - tail.len()));
    assert!(Envelope::parse(&text).is_ok());
    bencher.bench(|| Envelope::parse(black_box(&text)));
}
