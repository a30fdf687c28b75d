//! The part of Stripe's API that the platform uses, as strict as the real one.

use std::collections::BTreeMap;

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::{Value, json};

use super::{FakeStripe, KEY, Mood, State, now};

pub type Answer = (StatusCode, Value);
type Form = BTreeMap<String, String>;

fn refuse(status: u16, code: &str, message: impl Into<String>) -> Answer {
    let error = json!({ "type": "invalid_request_error", "code": code, "message": message.into() });
    (StatusCode::from_u16(status).expect("a status"), json!({ "error": error }))
}

fn missing(what: &str) -> Answer {
    refuse(404, "resource_missing", format!("No such {what}"))
}

/// What an object that is asked for by a parameter gets.
fn missing_by(param: &str) -> Answer {
    let (_, mut refusal) = refuse(400, "resource_missing", format!("No such {param}"));
    refusal["error"]["param"] = json!(param);
    (StatusCode::BAD_REQUEST, refusal)
}

fn is_there(state: &State, customer: &str) -> bool {
    state.customers.get(customer).is_some_and(|customer| customer["deleted"] != true)
}

pub async fn serve(
    Extract(stripe): Extract<FakeStripe>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (status, answer) = {
        let mut state = stripe.state();
        state.calls.push(format!("{method} {}", uri.path()));
        match state.mood {
            Mood::Away => refuse(503, "", "away"),
            Mood::LosesAnAnswer => {
                state.mood = Mood::Fine;
                once(&mut state, &method, &uri, &headers, &body);
                refuse(500, "", "lost")
            }
            _ => once(&mut state, &method, &uri, &headers, &body),
        }
    };
    tokio::time::sleep(stripe.delay()).await;
    (status, axum::Json(answer)).into_response()
}

/// What every call must have; one with an idempotency key is done once.
fn once(state: &mut State, method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Answer {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if header("authorization") != format!("Bearer {KEY}") {
        return refuse(401, "", "Invalid API Key provided");
    }
    if header("stripe-version") != "2025-03-31.basil" {
        return refuse(400, "", "another version of the API is asked for");
    }
    let form = |bytes: &[u8]| form_urlencoded::parse(bytes).into_owned().collect::<Form>();
    if *method != Method::POST {
        return route(state, method, uri.path(), &form(uri.query().unwrap_or_default().as_bytes()));
    }
    if header("content-type") != "application/x-www-form-urlencoded" {
        return refuse(400, "", "not a form");
    }
    let key = header("idempotency-key").to_owned();
    if key.is_empty() || key.len() > 255 {
        return refuse(400, "", "no idempotency key");
    }
    let request = format!("{uri} {}", String::from_utf8_lossy(body));
    if let Some((first, answer)) = state.answers.get(&key) {
        return if *first == request {
            answer.clone()
        } else {
            refuse(400, "idempotency_error", "another request")
        };
    }
    let answer = route(state, method, uri.path(), &form(body));
    state.answers.insert(key, (request, answer.clone()));
    answer
}

fn route(state: &mut State, method: &Method, path: &str, form: &Form) -> Answer {
    let is_named = |text: &String| path.contains(text) || form.values().any(|value| value.contains(text));
    if state.refused.iter().any(is_named) {
        return refuse(400, "refused", "not this one");
    }
    let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
    match (method.as_str(), parts.as_slice()) {
        ("POST", ["customers"]) => make_customer(state, form),
        ("GET", ["customers", id]) => state
            .customers
            .get(*id)
            .map_or_else(|| missing("customer"), |found| (StatusCode::OK, found.clone())),
        ("DELETE", ["customers", id]) => delete_customer(state, id),
        ("GET", ["prices"]) => prices(state, form),
        ("POST", ["checkout", "sessions"]) => make_session(state, form),
        ("GET", ["checkout", "sessions", id]) => {
            let session = state.sessions.get(*id);
            session.map_or_else(|| missing("checkout.session"), |found| (StatusCode::OK, found.clone()))
        }
        ("POST", ["checkout", "sessions", id, "expire"]) => expire_session(state, id),
        ("POST", ["billing_portal", "sessions"]) => open_portal(state, form),
        ("GET", ["subscriptions"]) => subscriptions(state, form),
        ("POST", ["subscriptions", id]) => cancel(state, id, form),
        ("DELETE", ["subscriptions", id]) => end(state, id),
        _ => refuse(404, "", format!("Unrecognized request URL ({method}: {path})")),
    }
}

/// Stripe refuses parameters that it does not know.
fn unknown(form: &Form, known: &[&str]) -> Option<Answer> {
    let other = form.keys().find(|name| !known.contains(&name.as_str()))?;
    Some(refuse(400, "parameter_unknown", format!("Received unknown parameter: {other}")))
}

fn list(data: Vec<Value>) -> Answer {
    (StatusCode::OK, json!({ "object": "list", "has_more": false, "data": data }))
}

fn get<'a>(form: &'a Form, name: &str) -> &'a str {
    form.get(name).map(String::as_str).unwrap_or_default()
}

fn make_customer(state: &mut State, form: &Form) -> Answer {
    if let Some(refusal) = unknown(form, &["email", "metadata[user_id]"]) {
        return refusal;
    }
    let id = state.id("cus");
    let metadata = json!({ "user_id": get(form, "metadata[user_id]") });
    let customer =
        json!({ "id": id, "object": "customer", "email": get(form, "email"), "metadata": metadata });
    state.customers.insert(id, customer.clone());
    (StatusCode::OK, customer)
}

pub fn delete_customer(state: &mut State, id: &str) -> Answer {
    if !is_there(state, id) {
        return missing("customer");
    }
    let remains = json!({ "id": id, "object": "customer", "deleted": true });
    state.customers.insert(id.to_owned(), remains.clone());
    for subscription in state.subscriptions.values_mut().filter(|one| one["customer"] == id) {
        subscription["status"] = json!("canceled");
    }
    (StatusCode::OK, remains)
}

fn prices(state: &State, form: &Form) -> Answer {
    if let Some(refusal) = unknown(form, &["lookup_keys[]", "active", "limit"]) {
        return refusal;
    }
    let wanted =
        |price: &&Value| price["lookup_key"] == get(form, "lookup_keys[]") && price["active"] == true;
    list(state.prices.values().filter(wanted).cloned().collect())
}

fn make_session(state: &mut State, form: &Form) -> Answer {
    let known = [
        "mode",
        "customer",
        "client_reference_id",
        "line_items[0][price]",
        "line_items[0][quantity]",
        "subscription_data[metadata][user_id]",
        "success_url",
        "cancel_url",
    ];
    if let Some(refusal) = unknown(form, &known) {
        return refusal;
    }
    let (customer, price) = (get(form, "customer"), get(form, "line_items[0][price]"));
    if !is_there(state, customer) {
        return missing_by("customer");
    }
    if !state.prices.contains_key(price) {
        return missing_by("line_items[0][price]");
    }
    let urls = ["success_url", "cancel_url"].map(|name| get(form, name));
    if get(form, "mode") != "subscription"
        || get(form, "line_items[0][quantity]") != "1"
        || urls.iter().any(|url| !url.starts_with("https://"))
    {
        return refuse(400, "parameter_invalid", "mode, quantity or URLs");
    }
    let id = state.id("cs");
    let session = json!({
        "id": id, "object": "checkout.session", "mode": "subscription", "status": "open", "customer": customer,
        "client_reference_id": get(form, "client_reference_id"), "price": price, "created": now(),
        "expires_at": now() + 24 * 3600, "url": format!("https://checkout.stripe.com/c/pay/{id}"),
    });
    state.sessions.insert(id, session.clone());
    (StatusCode::OK, session)
}

fn expire_session(state: &mut State, id: &str) -> Answer {
    let Some(session) = state.sessions.get_mut(id) else { return missing("checkout.session") };
    if session["status"] != "open" {
        return refuse(400, "", "Only Checkout Sessions with a status of open can be expired");
    }
    session["status"] = json!("expired");
    session["url"] = Value::Null;
    (StatusCode::OK, session.clone())
}

fn open_portal(state: &mut State, form: &Form) -> Answer {
    const FLOW: &str = "flow_data[subscription_update_confirm]";
    let field = |rest: &str| format!("{FLOW}{rest}");
    let fields = [
        field("[subscription]"),
        field("[items][0][id]"),
        field("[items][0][price]"),
        field("[items][0][quantity]"),
    ];
    let mut known: Vec<&str> = fields.iter().map(String::as_str).collect();
    known.extend(["customer", "return_url", "flow_data[type]", "flow_data[after_completion][type]"]);
    known.push("flow_data[after_completion][redirect][return_url]");
    if let Some(refusal) = unknown(form, &known) {
        return refusal;
    }
    let customer = get(form, "customer");
    if !is_there(state, customer) {
        return missing_by("customer");
    }
    if get(form, "flow_data[type]") == "subscription_update_confirm" {
        let Some(subscription) = state.subscriptions.get(get(form, &fields[0])) else {
            return missing("subscription");
        };
        let item = &subscription["items"]["data"][0];
        if subscription["customer"] != customer
            || item["id"] != get(form, &fields[1])
            || item["price"]["id"] == get(form, &fields[2])
            || !state.prices.contains_key(get(form, &fields[2]))
        {
            return refuse(400, "", "nothing that this customer could confirm");
        }
    }
    let id = state.id("bps");
    let url = format!("https://billing.stripe.com/p/session/{id}");
    (
        StatusCode::OK,
        json!({ "id": id, "object": "billing_portal.session", "created": now(), "url": url, "flow": form }),
    )
}

fn subscriptions(state: &State, form: &Form) -> Answer {
    if let Some(refusal) = unknown(form, &["customer", "limit"]) {
        return refusal;
    }
    if !is_there(state, get(form, "customer")) && !state.lists_the_deleted {
        return missing_by("customer");
    }
    let of_customer = |one: &&Value| one["customer"] == get(form, "customer") && one["status"] != "canceled";
    list(state.subscriptions.values().filter(of_customer).cloned().collect())
}

fn cancel(state: &mut State, id: &str, form: &Form) -> Answer {
    if let Some(refusal) = unknown(form, &["cancel_at_period_end"]) {
        return refusal;
    }
    match state.subscriptions.get_mut(id) {
        Some(subscription) if subscription["status"] != "canceled" => {
            subscription["cancel_at_period_end"] = json!(true);
            subscription["canceled_at"] = json!(now());
            (StatusCode::OK, subscription.clone())
        }
        _ => missing("subscription"),
    }
}

fn end(state: &mut State, id: &str) -> Answer {
    match state.subscriptions.get_mut(id) {
        Some(subscription) if subscription["status"] != "canceled" => {
            subscription["status"] = json!("canceled");
            (StatusCode::OK, subscription.clone())
        }
        _ => missing("subscription"),
    }
}
