//! A stand-in for Stripe: it refuses what Stripe refuses, keeps what it is told, and can be told what its users and
//! the banks do.

mod api;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use ring::hmac::{self, HMAC_SHA256};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::client::{Client, Reply};

const KEY: &str = "sk_test_0123456789abcdef0123456789abcdef";
/// The secret that events are signed with.
pub const WEBHOOK_SECRET: &str = "whsec_0123456789abcdef0123456789abcdef";

/// How long an event may take until it is acknowledged.
const PATIENCE: Duration = Duration::from_secs(60);
const MONTH: i64 = 30 * 24 * 3600;

/// Stripe, on a port of this machine. Cheap to clone.
#[derive(Clone)]
pub struct FakeStripe {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

/// How the stand-in treats calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Mood {
    #[default]
    Fine,
    /// Every answer is 503.
    Away,
    /// Nothing is answered.
    Silent,
    /// Does what the next call asks for and answers 500; then it is fine again.
    LosesAnAnswer,
    /// Answers what was true when it was asked, up to so many milliseconds later.
    Slow(u64),
}

#[derive(Default)]
struct State {
    mood: Mood,
    serial: u64,
    customers: BTreeMap<String, Value>,
    subscriptions: BTreeMap<String, Value>,
    sessions: BTreeMap<String, Value>,
    prices: BTreeMap<String, Value>,
    /// What was answered to each idempotency key, and to which request.
    answers: HashMap<String, (String, api::Answer)>,
    calls: Vec<String>,
    /// Whether a deleted customer has a list of nothing rather than none.
    lists_the_deleted: bool,
    /// What no call may name.
    refused: Vec<String>,
}

impl State {
    fn id(&mut self, prefix: &str) -> String {
        self.serial += 1;
        format!("{prefix}_{:06}", self.serial)
    }
}

/// What Stripe tells, as it is sent.
#[derive(Clone, Debug)]
pub struct StripeEvent {
    pub body: String,
}

impl StripeEvent {
    /// The `Stripe-Signature` for it.
    pub fn signature(&self, secret: &str, at: i64) -> String {
        let key = hmac::Key::new(HMAC_SHA256, secret.as_bytes());
        let tag = hmac::sign(&key, format!("{at}.{}", self.body).as_bytes());
        format!("t={at},v1={}", hex::encode(tag))
    }

    /// Sends it once, with a signature of now.
    pub async fn send(&self, edge: &Client) -> Option<Reply> {
        self.send_signed(edge, &self.signature(WEBHOOK_SECRET, now())).await
    }

    /// Sends it once, with this signature.
    pub async fn send_signed(&self, edge: &Client, signature: &str) -> Option<Reply> {
        let headers = [("stripe-signature", signature), ("content-type", "application/json")];
        edge.try_post_bytes("/webhooks/stripe", &headers, self.body.as_bytes()).await
    }

    /// Sends it until it is acknowledged, as Stripe does.
    pub async fn deliver(&self, edge: &Client) {
        let started = Instant::now();
        while self.send(edge).await.is_none_or(|reply| reply.status != 200) {
            assert!(started.elapsed() < PATIENCE, "an event was not acknowledged within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("a time")
}

impl FakeStripe {
    /// Stripe with a price for each tier and interval under its lookup key.
    pub async fn start() -> FakeStripe {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stripe = FakeStripe { address, state: Arc::default() };
        for tier in ["basic", "premium", "enterprise"] {
            for interval in ["month", "year"] {
                let (id, key) = (format!("price_{tier}_{interval}_1"), format!("{tier}_{interval}"));
                let price = json!({ "id": id, "object": "price", "active": true, "lookup_key": key });
                stripe.state().prices.insert(id, price);
            }
        }
        let router = Router::new().fallback(api::serve).with_state(stripe.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        stripe
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    /// The settings with which a platform uses it.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("STRIPE_SECRET_KEY", KEY.to_owned()),
            ("STRIPE_WEBHOOK_SECRETS", WEBHOOK_SECRET.to_owned()),
            ("STRIPE_API_URL", format!("http://{}", self.address)),
            ("STRIPE_SUCCESS_URL", "https://app.example.com/paid?id={CHECKOUT_SESSION_ID}".to_owned()),
            ("STRIPE_CANCEL_URL", "https://app.example.com/plans".to_owned()),
        ]
    }

    pub fn set_mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// Somebody deletes a customer at Stripe; gives the event that tells of it. Lists of its subscriptions are refused
    /// then, or empty.
    pub fn delete_customer(&self, id: &str, is_listed: bool) -> StripeEvent {
        let mut state = self.state();
        state.lists_the_deleted = is_listed;
        let customer = state.customers[id].clone();
        api::delete_customer(&mut state, id);
        drop(state);
        self.event("customer.deleted", &customer)
    }

    /// Makes it another account, which has never had this customer.
    pub fn never_had(&self, id: &str) {
        self.state().customers.remove(id);
    }

    /// Refuses all calls that have this in their path or parameters.
    pub fn refuse(&self, text: &str) {
        self.state().refused.push(text.to_owned());
    }

    /// Refuses nothing any more.
    pub fn relent(&self) {
        self.state().refused.clear();
    }

    /// The calls so far, each `METHOD /path`.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// The customer that was made for a user.
    pub fn customer_of(&self, user_id: &str) -> Value {
        let state = self.state();
        let found: Vec<_> =
            state.customers.values().filter(|one| one["metadata"]["user_id"] == user_id).collect();
        assert_eq!(found.len(), 1, "a user is made a customer once: {found:?}");
        found[0].clone()
    }

    /// The subscription as it is now.
    pub fn subscription(&self, id: &str) -> Value {
        self.state().subscriptions[id].clone()
    }

    /// The page as it is now.
    pub fn session(&self, id: &str) -> Value {
        self.state().sessions[id].clone()
    }

    /// The customer pays on an open page of Checkout; gives the id of the subscription that this begins.
    pub fn pay(&self, session_id: &str) -> String {
        let mut state = self.state();
        let session = state.sessions.get_mut(session_id).expect("a page");
        assert_eq!(session["status"], "open", "nobody can pay on this page");
        session["status"] = json!("complete");
        let (customer, price) = (session["customer"].clone(), session["price"].clone());
        let id = state.id("sub");
        let subscription = subscription(&id, &customer, &state.prices[price.as_str().expect("an id")]);
        state.subscriptions.insert(id.clone(), subscription);
        id
    }

    /// A customer without Checkout: made for a user, with a subscription for a tier by the month.
    pub fn subscribe(&self, customer: &Value, tier: &str) -> String {
        let mut state = self.state();
        let id = state.id("sub");
        let price = state.prices[&format!("price_{tier}_month_1")].clone();
        let subscription = subscription(&id, &customer["id"], &price);
        state.subscriptions.insert(id.clone(), subscription);
        id
    }

    /// Has something happen to a subscription; gives it as it is then.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut state = self.state();
        let subscription = state.subscriptions.get_mut(id).expect("a subscription");
        change(subscription);
        subscription.clone()
    }

    /// Moves a subscription to the monthly price of a tier; gives it as it is then.
    pub fn put_on(&self, id: &str, tier: &str) -> Value {
        let price = self.state().prices[&format!("price_{tier}_month_1")].clone();
        self.change(id, |subscription| subscription["items"]["data"][0]["price"] = price)
    }

    /// Raises the price of a plan: the lookup key goes to a new price, the old one stays for whoever pays it.
    pub fn raise_price(&self, lookup_key: &str) {
        let mut state = self.state();
        let (old, new) = (format!("price_{lookup_key}_1"), format!("price_{lookup_key}_2"));
        let mut price = state.prices[&old].clone();
        price["id"] = json!(new);
        state.prices.insert(new, price);
        state.prices.get_mut(&old).expect("a price")["lookup_key"] = Value::Null;
        for subscription in state.subscriptions.values_mut() {
            let sold = &mut subscription["items"]["data"][0]["price"];
            if sold["id"] == old.as_str() {
                sold["lookup_key"] = Value::Null;
            }
        }
    }

    /// An event about an object, as it is in the event.
    pub fn event(&self, kind: &str, object: &Value) -> StripeEvent {
        let id = self.state().id("evt");
        let event = json!({
            "id": id, "object": "event", "api_version": "2024-06-20", "created": now(), "type": kind,
            "data": { "object": object },
        });
        StripeEvent { body: event.to_string() }
    }

    /// The event that a subscription has changed.
    pub fn updated(&self, id: &str) -> StripeEvent {
        self.event("customer.subscription.updated", &self.subscription(id))
    }

    /// How long the next answer is held back.
    fn delay(&self) -> Duration {
        let mut state = self.state();
        state.serial += 1;
        match state.mood {
            Mood::Silent => Duration::from_secs(600),
            // Spread without a pattern that calls could follow (Fibonacci hashing).
            Mood::Slow(most) => {
                let spread = state.serial.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
                Duration::from_millis(spread % (most + 1))
            }
            _ => Duration::ZERO,
        }
    }
}

fn subscription(id: &str, customer: &Value, price: &Value) -> Value {
    let now = now();
    json!({
        "id": id, "object": "subscription", "customer": customer, "status": "active", "created": now,
        "start_date": now, "cancel_at": null, "cancel_at_period_end": false, "canceled_at": null,
        "trial_end": null, "default_payment_method": "pm_card",
        "items": { "object": "list", "data": [{
            "id": format!("si_{id}"), "price": price, "quantity": 1,
            "current_period_start": now, "current_period_end": now + MONTH,
        }] },
    })
}
