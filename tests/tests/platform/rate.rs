//! How many requests a minute the tiers admit.

use std::time::{Duration, Instant, SystemTime};

use e2e::{Client, Plan, Redis, Reply, Sandbox, Socket, User, until};
use futures_util::future::join_all;
use http::{HeaderMap, Method};
use serde_json::json;

const READ: &str = "/api/v1/personas/instances";

/// So few that a bucket gains nothing worth mentioning while a test empties it: one in five seconds.
const FEW: usize = 12;

async fn limited(replicas: usize, more: &[(&'static str, String)]) -> Sandbox {
    let mut settings = vec![("RATE_LIMITS", format!("free={FEW},basic=600"))];
    settings.extend_from_slice(more);
    Sandbox::planned(Plan { replicas, settings, ..Plan::default() }).await
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// `r` of `RateLimit`.
fn left(reply: &Reply) -> u32 {
    let text = header(&reply.headers, "ratelimit");
    let parts = text.split(';').find_map(|part| part.strip_prefix("r="));
    parts.and_then(|left| left.parse().ok()).unwrap_or_else(|| panic!("no RateLimit: {reply:?}"))
}

/// Sends so many at once, in turn to each edge, and gives how many were admitted.
async fn admitted_of(edges: &[Client], user: &User, requests: usize) -> usize {
    let all = (0..requests).map(|one| edges[one % edges.len()].get(READ, &user.token));
    let replies = join_all(all).await;
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        reply.must_fail(429, "RATE001");
    }
    replies.iter().filter(|reply| reply.status == 200).count()
}

#[tokio::test]
async fn a_tier_admits_as_many_as_it_says_and_tells_when_the_next_one_is() {
    let sandbox = limited(1, &[]).await;
    let (user, other, edge) = (sandbox.register().await, sandbox.register().await, sandbox.edge());
    for (one, path) in [READ, "/api/v1/projects"].into_iter().cycle().take(FEW).enumerate() {
        let reply = edge.get(path, &user.token).await;
        assert_eq!(left(&reply) as usize, FEW - 1 - one, "{reply:?}");
        assert_eq!(header(&reply.headers, "ratelimit-policy"), format!("\"free\";q={FEW};w=60"));
        reply.must_be(200);
    }
    let origin = [("origin", "https://app.example.com")];
    let refused = edge.send(Method::GET, READ, Some(&user.token), &origin, None).await;
    refused.must_fail(429, "RATE001");
    let details = &refused.body["error"]["details"];
    assert_eq!((&details["tier"], &details["limit"]), (&json!("free"), &json!(FEW)));
    let wait: u64 = header(&refused.headers, "retry-after").parse().expect("seconds");
    assert!((1..=5).contains(&wait), "{wait}");
    assert_eq!(header(&refused.headers, "ratelimit"), format!("\"free\";r=0;t={wait}"));
    let exposed = header(&refused.headers, "access-control-expose-headers");
    for name in ["RateLimit", "RateLimit-Policy", "Retry-After"] {
        assert!(exposed.split(", ").any(|exposed| exposed == name), "{exposed}");
    }

    edge.get(READ, &other.token).await.must_be(200);
    tokio::time::sleep(Duration::from_secs(wait)).await;
    edge.get(READ, &user.token).await.must_be(200);
}

#[tokio::test]
async fn what_needs_no_token_is_not_counted_and_signing_out_is_always_possible() {
    let sandbox = limited(1, &[]).await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    assert_eq!(admitted_of(&sandbox.edges, &user, 2 * FEW).await, FEW);
    let asks = [("origin", "https://app.example.com"), ("access-control-request-method", "GET")];
    for _ in 0..2 * FEW {
        let health = edge.open_get("/health").await;
        assert!(!health.headers.contains_key("ratelimit"));
        health.must_be(200);
        edge.open_get("/api/v1/subscription/tiers").await.must_be(200);
        edge.send(Method::OPTIONS, READ, None, &asks, None).await.must_be(204);
    }
    edge.open_get(READ).await.must_fail(401, "AUTH003");
    assert_eq!(Socket::open(edge.authority(), &[("authorization", &bearer(&user))]).await.err(), Some(429));
    edge.post("/api/v1/auth/logout", &user.token, json!({})).await.must_be(200);
}

fn bearer(user: &User) -> String {
    format!("Bearer {}", user.token)
}

#[tokio::test]
async fn whoever_uses_up_an_accounts_rate_cannot_keep_its_owner_from_ending_them() {
    let sandbox = limited(1, &[]).await;
    let (edge, user) = (sandbox.edge(), sandbox.register().await);
    let made = edge.post("/api/v1/user/api-keys", &user.token, json!({ "name": "stolen" })).await;
    let made = made.must_be(201);
    let (id, key) = (made["id"].as_str().expect("an id"), made["key"].as_str().expect("a key"));
    until("nothing is left", async || edge.get(READ, key).await.code() == "RATE001").await;
    let owner = sandbox.log_in(&user).await;
    until("nor for the owner", async || edge.get(READ, &owner.token).await.code() == "RATE001").await;
    let passwords = json!({ "current_password": user.password, "new_password": "another horse battery" });
    edge.post("/api/v1/user/password", &owner.token, passwords).await.must_be(200);
    assert_eq!(edge.delete(&format!("/api/v1/user/api-keys/{id}"), &owner.token).await.status, 204);
    until("the key is refused", async || edge.get(READ, key).await.code() == "AUTH003").await;
    // Little of it: no way round the rate.
    let list = async || edge.get("/api/v1/user/api-keys", &owner.token).await;
    until("that is used up, too", async || list().await.code() == "RATE001").await;
}

#[tokio::test]
async fn a_request_counts_once_and_messages_on_a_socket_do_not() {
    let sandbox = limited(1, &[]).await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let before = left(&edge.get(READ, &user.token).await);
    let key = [("idempotency-key", "once")];
    let made = edge.send(Method::POST, READ, Some(&user.token), &key, Some(&json!({ "name": "p" }))).await;
    assert_eq!(left(&made), before - 1, "{made:?}");
    made.must_be(201);
    let mut socket = sandbox.socket(&user).await;
    for id in 0..2 * FEW {
        socket.send(json!({ "type": "ping", "id": id.to_string() })).await;
        assert_eq!(socket.next().await["type"], "pong");
    }
    assert_eq!(left(&edge.get(READ, &user.token).await), before - 3, "the handshake and this request");
}

#[tokio::test]
async fn an_upgrade_raises_the_limit_of_the_token_that_is_already_issued() {
    let sandbox = limited(1, &[]).await;
    let (admin, user, edge) = (sandbox.administrator().await, sandbox.register().await, sandbox.edge());
    assert_eq!(admitted_of(&sandbox.edges, &user, 2 * FEW).await, FEW);
    let path = format!("/api/v1/admin/subscriptions/{}", user.id);
    edge.put(&path, &admin.token, json!({ "tier": "basic" })).await.must_be(200);
    until("the next request is admitted", async || edge.get(READ, &user.token).await.status == 200).await;
    let reply = edge.get(READ, &user.token).await;
    assert_eq!(header(&reply.headers, "ratelimit-policy"), "\"basic\";q=600;w=60");
    assert!(left(&reply) > 500, "what was used stays used, and no more: {reply:?}");
    edge.put(&path, &admin.token, json!({ "tier": "enterprise" })).await.must_be(200);
    until("nothing is said of a limit where there is none", async || {
        !edge.get(READ, &user.token).await.headers.contains_key("ratelimit")
    })
    .await;
}

/// With a deadline that a busy machine keeps too, as it is the count that is looked at.
fn through(redis: &Redis) -> [(&'static str, String); 2] {
    [("RATE_LIMIT_REDIS_URL", redis.url()), ("RATE_LIMIT_REDIS_TIMEOUT_MS", "1000".to_owned())]
}

#[tokio::test]
async fn edges_count_together_through_redis() {
    let redis = Redis::start().await;
    let sandbox = limited(2, &through(&redis)).await;
    for _ in 0..5 {
        let user = sandbox.register().await;
        assert_eq!(admitted_of(&sandbox.edges, &user, 60).await, FEW);
    }
    let user = sandbox.register().await;
    let first = left(&sandbox.edges[0].get(READ, &user.token).await);
    assert_eq!(left(&sandbox.edges[1].get(READ, &user.token).await), first - 1);
}

#[tokio::test]
async fn a_clock_of_redis_that_goes_back_locks_nobody_out() {
    let redis = Redis::start().await;
    let sandbox = limited(1, &through(&redis)).await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    edge.get(READ, &user.token).await.must_be(200);
    // As if it had been counted an hour later than it is now.
    let later = SystemTime::now() + Duration::from_secs(3600);
    let later = later.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros();
    redis.command(&format!("SET rate:{} \"{later} {FEW}\"", user.id));
    let refused = edge.get(READ, &user.token).await;
    refused.must_fail(429, "RATE001");
    let wait: u64 = header(&refused.headers, "retry-after").parse().expect("seconds");
    assert!((1..=5).contains(&wait), "{wait}");
    tokio::time::sleep(Duration::from_secs(wait)).await;
    edge.get(READ, &user.token).await.must_be(200);
}

#[tokio::test]
async fn without_redis_each_edge_counts_by_itself() {
    let sandbox = limited(2, &[]).await;
    let user = sandbox.register().await;
    assert_eq!(admitted_of(&sandbox.edges, &user, 60).await, 2 * FEW);
}

#[tokio::test]
async fn a_redis_that_hangs_or_dies_is_no_outage_and_counts_again_when_it_is_back() {
    let mut redis = Redis::start().await;
    let sandbox = limited(2, &[("RATE_LIMIT_REDIS_URL", redis.url())]).await;
    let slowest = async |what: &str| {
        let user = sandbox.register().await;
        let mut times = Vec::new();
        for edge in sandbox.edges.iter().cycle().take(FEW) {
            let started = Instant::now();
            edge.get(READ, &user.token).await.must_be(200);
            times.push(started.elapsed());
        }
        let slowest = times.into_iter().max().expect("times");
        println!("{what}: the slowest of {FEW} requests took {slowest:?}");
        assert!(slowest < Duration::from_millis(500), "{what}: {slowest:?}");
    };
    slowest("Redis answers").await;
    redis.freeze();
    slowest("Redis hangs").await;
    redis.thaw();
    redis.kill();
    slowest("Redis is gone").await;
    redis.restart().await;
    let since = Instant::now();
    until("the edges count together again", async || {
        let user = sandbox.register().await;
        let first = left(&sandbox.edges[0].get(READ, &user.token).await);
        left(&sandbox.edges[1].get(READ, &user.token).await) == first - 1
    })
    .await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}
