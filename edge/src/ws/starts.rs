//! What becomes of the workflows that were started on a socket. The `id` of a start is its idempotency key: it is
//! taken, with a place of the quota, before core-manager hears of the start. core-manager's first status makes the
//! place count and is kept as the answer to a start that is sent again; its refusal gives both back. Without an answer
//! the place is free when its time is over, and the id stands for a start of which nobody knows whether it took effect.

use std::collections::HashMap;
use std::time::Duration;

use contract::subscription::begin_response::Answer as Begun;
use contract::subscription::{AbandonRequest, BeginRequest, FinishRequest, Finished};
use contract::{ErrorCode, Failure, Outcome, Resource};
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use crate::claims::Caller;
use crate::front::RequestContext;
use crate::gateway::quota::{self, Reservation, Reserved};
use crate::gateway::upstream_away;
use crate::services::{Services, from_subscription, present};

/// Most workflows of one socket that have not ended.
const MOST: usize = 256;
/// Largest `result` that is kept for a start that is sent again, in bytes.
const LARGEST_RESULT: usize = 16 * 1024;
/// Keeps the ids apart from the `Idempotency-Key` of requests: no header has a line break.
const KEY_PREFIX: &str = "start_workflow\n";

/// A start whose id and place are taken.
pub struct Start {
    services: Services,
    context: RequestContext,
    user_id: String,
    key: String,
    runner: String,
    /// Until it counts.
    reservation: Option<Reservation>,
}

/// What is to be done with a start.
pub enum Admission {
    New(Start),
    /// It has passed before; this is its `data` as far as it is known.
    Repeated(Value),
}

/// The start of a workflow as its id and data make it.
#[derive(Debug)]
pub struct Wanted {
    pub id: String,
    pub project_id: String,
    /// SHA-256 of the data, however its keys are ordered.
    pub fingerprint: Vec<u8>,
}

impl Wanted {
    pub fn new(id: &str, project_id: String, data: &Value) -> Self {
        // serde_json writes objects in the order of their keys.
        let fingerprint = digest(&SHA256, data.to_string().as_bytes()).as_ref().to_vec();
        Wanted { id: id.to_owned(), project_id, fingerprint }
    }

    /// Takes the id and a place of the quota for as long as `life`.
    ///
    /// # Errors
    /// REQ001 when the id was used with other data; SUB002 with resource, limit and used; GW001.
    pub async fn admit(
        self,
        caller: &Caller,
        services: &Services,
        context: &RequestContext,
        life: Duration,
    ) -> Outcome<Admission> {
        let (user_id, key) = (caller.user_id().to_owned(), format!("{KEY_PREFIX}{}", self.id));
        let begin = BeginRequest {
            user_id: user_id.clone(),
            idempotency_key: key.clone(),
            fingerprint: self.fingerprint,
            lease_seconds: i32::try_from(life.as_secs()).unwrap_or(i32::MAX),
            // core-manager is not asked twice for what it may have started.
            repeatable: false,
        };
        let begun = from_subscription(services.idempotency().begin(context.call(begin)).await);
        let runner = match present(begun.map_err(name_the_id)?.answer)? {
            Begun::Proceed(proceed) => proceed.runner,
            Begun::Running(_) => {
                let starting = json!({ "status": "in_progress", "step": "starting", "progress": 0.0 });
                return Ok(Admission::Repeated(starting));
            }
            Begun::Unknown(_) => {
                return Err(upstream_away().saying(
                    "Whether the first start with this id took effect is not known; see what runs before sending it \
                     with another id",
                ));
            }
            Begun::Finished(finished) => {
                let kept = serde_json::from_slice(&finished.body).map_err(Failure::internal)?;
                return Ok(Admission::Repeated(kept));
            }
        };
        let place = Uuid::now_v7().to_string();
        let reserved = match quota::reserve(Resource::Content, place, caller, services, context, life).await {
            Ok(Reserved::New(reservation)) => Ok(reservation),
            Ok(Reserved::Before) => Err(Failure::internal("a new key was used before")),
            Err(failure) => Err(failure),
        };
        let (services, context) = (services.clone(), context.clone());
        match reserved {
            Ok(reservation) => {
                let reservation = Some(reservation);
                Ok(Admission::New(Start { services, context, user_id, key, runner, reservation }))
            }
            Err(failure) => {
                abandon(services, context, user_id, key, runner).await;
                Err(failure)
            }
        }
    }
}

/// subscription-svc speaks of the header that keys usually come in.
fn name_the_id(failure: Failure) -> Failure {
    if failure.code() == ErrorCode::InvalidRequest {
        return Failure::field("id", "was used for another start within the last 24 hours");
    }
    failure
}

impl Start {
    /// core-manager has not started it, and will not.
    pub async fn withdraw(self) {
        let Start { services, context, user_id, key, runner, reservation } = self;
        if let Some(reservation) = reservation {
            reservation.release().await;
        }
        abandon(services, context, user_id, key, runner).await;
    }

    /// Settles the start by what core-manager says of it, until it has ended or nothing more can be heard.
    pub async fn follow(mut self, mut news: watch::Receiver<News>) {
        while news.changed().await.is_ok() {
            let told = news.borrow_and_update().clone();
            match told {
                News::Awaited => {}
                News::Refused => return self.withdraw().await,
                News::Runs(data) => self.settle(Some(&data)).await,
                News::Ended(data) => return self.settle(Some(&data)).await,
            }
        }
        if self.reservation.is_some() {
            self.settle(None).await;
        }
    }

    /// Counts the start, and keeps where it stands; without a word of core-manager nobody knows.
    async fn settle(&mut self, data: Option<&Value>) {
        if data.is_some()
            && let Some(reservation) = self.reservation.take()
        {
            reservation.commit().await;
        }
        let request = FinishRequest {
            user_id: self.user_id.clone(),
            idempotency_key: self.key.clone(),
            runner: self.runner.clone(),
            answer: data.map(kept),
        };
        quota::persist(self.context.clone(), "state of a workflow", |context| {
            let (mut keys, request) = (self.services.idempotency(), request.clone());
            async move { keys.finish(context.call(request)).await.map(drop) }
        })
        .await;
    }
}

/// Frees the id, so that the start may be sent again.
async fn abandon(
    services: Services,
    context: RequestContext,
    user_id: String,
    idempotency_key: String,
    runner: String,
) {
    let request = AbandonRequest { user_id, idempotency_key, runner };
    quota::persist(context, "refusal of a start", move |context| {
        let (mut keys, request) = (services.idempotency(), request.clone());
        async move { keys.abandon(context.call(request)).await.map(drop) }
    })
    .await;
}

/// A state as it is kept.
fn kept(data: &Value) -> Finished {
    Finished { status: 200, content_type: "application/json".to_owned(), body: data.to_string().into_bytes() }
}

/// What core-manager has said of a start.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    Awaited,
    Refused,
    /// The `data` of the first status.
    Runs(Value),
    /// The `data` of the last one.
    Ended(Value),
}

/// The workflows of a socket that have not ended, by the ids of their starts.
#[derive(Default)]
pub struct Starts(HashMap<String, watch::Sender<News>>);

/// A message of core-manager, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    correlation_id: Value,
    #[serde(default)]
    data: Value,
}

impl Starts {
    /// Whether one more may be followed.
    ///
    /// # Errors
    /// GW003.
    pub fn admit(&self) -> Outcome<()> {
        if self.0.len() < MOST {
            return Ok(());
        }
        let failure = Failure::new(ErrorCode::Overloaded).retry_after(Duration::from_secs(1));
        Err(failure.saying(format!("At most {MOST} workflows of one socket may run at once")))
    }

    /// From now on there may be news of this start.
    pub fn expect(&mut self, id: String) -> watch::Receiver<News> {
        let (sender, receiver) = watch::channel(News::Awaited);
        self.0.insert(id, sender);
        receiver
    }

    /// Whether core-manager still owes the first word on a start.
    pub fn are_awaited(&self) -> bool {
        self.0.values().any(|news| *news.borrow() == News::Awaited)
    }

    /// Hears a text of core-manager. Gives whether it is a message at all.
    pub fn hear(&mut self, text: &str) -> bool {
        if !text.trim_start().starts_with('{') {
            return false;
        }
        let Ok(message) = serde_json::from_str::<Message>(text) else { return false };
        let Some(id) = message.correlation_id.as_str() else { return true };
        let Some(news) = self.0.get(id) else { return true };
        let is_first = *news.borrow() == News::Awaited;
        let ends = match message.kind.as_str() {
            "error" if is_first => {
                news.send_replace(News::Refused);
                true
            }
            "workflow_status" if matches!(message.data["status"].as_str(), Some("completed" | "failed")) => {
                news.send_replace(News::Ended(state(message.data)));
                true
            }
            "workflow_status" if is_first => {
                news.send_replace(News::Runs(state(message.data)));
                false
            }
            _ => false,
        };
        if ends {
            self.0.remove(message.correlation_id.as_str().unwrap_or_default());
        }
        true
    }
}

/// The fields of a status, without a result that is too large to keep.
fn state(data: Value) -> Value {
    let Value::Object(mut data) = data else { return json!({ "status": "in_progress" }) };
    let mut state = Map::new();
    for name in ["status", "step", "progress", "result"] {
        if let Some(value) = data.remove(name)
            && (name != "result" || value.to_string().len() <= LARGEST_RESULT)
        {
            state.insert(name.to_owned(), value);
        }
    }
    Value::Object(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: &str, id: &str, data: Value) -> String {
        json!({ "type": kind, "id": "1", "correlation_id": id, "data": data }).to_string()
    }

    #[test]
    fn the_first_and_the_last_status_of_a_workflow_are_news_and_what_is_between_is_not() {
        let mut starts = Starts::default();
        let mut news = starts.expect("w".to_owned());
        assert!(starts.are_awaited());
        let status =
            |status: &str, step| said("workflow_status", "w", json!({ "status": status, "step": step }));
        assert!(starts.hear(&status("in_progress", 1)));
        assert_eq!(*news.borrow_and_update(), News::Runs(json!({ "status": "in_progress", "step": 1 })));
        assert!(!starts.are_awaited());
        starts.hear(&status("in_progress", 2));
        assert!(!news.has_changed().expect("followed"));
        starts.hear(&status("completed", 3));
        assert_eq!(*news.borrow(), News::Ended(json!({ "status": "completed", "step": 3 })));
        assert!(starts.0.is_empty());
    }

    #[test]
    fn an_error_refuses_a_start_that_has_not_begun_and_no_other() {
        let mut starts = Starts::default();
        let (refused, runs) = (starts.expect("a".to_owned()), starts.expect("b".to_owned()));
        starts.hear(&said("workflow_status", "b", json!({ "status": "in_progress" })));
        starts.hear(&said("error", "a", Value::Null));
        starts.hear(&said("error", "b", Value::Null));
        assert_eq!(*refused.borrow(), News::Refused);
        assert!(matches!(*runs.borrow(), News::Runs(_)));
        assert_eq!(starts.0.len(), 1);
    }

    #[test]
    fn what_is_no_message_is_no_news() {
        let mut starts = Starts::default();
        let news = starts.expect("w".to_owned());
        for text in ["", "x", "1", "[]", r#"["error","w",{}]"#, r#"{"type":1}"#] {
            assert!(!starts.hear(text), "{text}");
        }
        for text in [r#"{"type":"error"}"#, r#"{"type":"error","correlation_id":7}"#] {
            assert!(starts.hear(text), "{text}");
        }
        assert_eq!(*news.borrow(), News::Awaited);
    }

    #[test]
    fn a_large_result_is_left_out_of_what_is_kept() {
        let result = "x".repeat(LARGEST_RESULT);
        let state = state(json!({ "status": "completed", "result": result, "more": 1 }));
        assert_eq!(state, json!({ "status": "completed" }));
    }

    #[test]
    fn the_order_of_keys_makes_no_other_start() {
        let fingerprint = |text: &str| {
            Wanted::new("w", String::new(), &serde_json::from_str(text).expect("JSON")).fingerprint
        };
        assert_eq!(fingerprint(r#"{"a":1,"b":{"c":2,"d":3}}"#), fingerprint(r#"{"b":{"d":3,"c":2}, "a":1}"#));
        assert_ne!(fingerprint(r#"{"a":1}"#), fingerprint(r#"{"a":2}"#));
    }

    #[test]
    fn only_so_many_workflows_of_one_socket_run_at_once() {
        let mut starts = Starts::default();
        let news: Vec<_> = (0..MOST).map(|one| starts.expect(one.to_string())).collect();
        assert_eq!(starts.admit().expect_err("too many").code(), ErrorCode::Overloaded);
        starts.hear(&said("error", "7", Value::Null));
        assert!(starts.admit().is_ok());
        drop(news);
    }
}
