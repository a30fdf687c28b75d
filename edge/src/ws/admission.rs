//! What a start of a workflow takes before core-manager hears of it: its `id`, which is its idempotency key, and a place
//! of the quota. core-manager's first status makes the place count and is kept as the answer to a start that is sent
//! again; its refusal gives both back. Until then the place is renewed. Once there can be no answer it is free when its
//! time is over, and the id stands for a start of which nobody knows whether it took effect.

use std::time::Duration;

use contract::subscription::begin_response::Answer as Begun;
use contract::subscription::{AbandonRequest, BeginRequest, FinishRequest, Finished};
use contract::{ErrorCode, Failure, Outcome, Resource};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::sync::watch::error::RecvError;
use uuid::Uuid;

use super::starts::News;
use crate::claims::Caller;
use crate::front::RequestContext;
use crate::gateway::quota::{self, Reservation, Reserved};
use crate::gateway::upstream_away;
use crate::services::{Services, from_subscription, present};

/// Keeps the ids apart from the `Idempotency-Key` of requests: no header has a line break.
const KEY_PREFIX: &str = "start_workflow\n";

/// A start whose id and place are taken.
pub struct Start {
    services: Services,
    context: RequestContext,
    /// With this the id was taken.
    begin: BeginRequest,
    runner: String,
    reservation: Reservation,
    place: Place,
}

/// What has become of a start's place of the quota.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Taken,
    GivenBack,
    Counts,
}

/// What is to be done with a start.
pub enum Admission {
    New(Box<Start>),
    /// It has passed before; this is its `data` as far as it is known.
    Repeated(Value),
}

/// The start of a workflow as its id and data make it.
#[derive(Debug)]
pub struct Wanted {
    pub id: String,
    pub project_id: String,
    /// SHA-256 of the data, however its keys are ordered.
    fingerprint: Vec<u8>,
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
        let begin = BeginRequest {
            user_id: caller.user_id().to_owned(),
            idempotency_key: format!("{KEY_PREFIX}{}", self.id),
            fingerprint: self.fingerprint,
            lease_seconds: i32::try_from(life.as_secs()).unwrap_or(i32::MAX),
            // core-manager is not asked twice for what it may have started.
            repeatable: false,
        };
        let begun = from_subscription(services.idempotency().begin(context.call(begin.clone())).await);
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
                let place = Place::Taken;
                let start = Start { services, context, begin, runner, reservation, place };
                Ok(Admission::New(Box::new(start)))
            }
            Err(failure) => {
                abandon(&services, context, &begin, &runner).await;
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
    /// core-manager has not started it, as far as it says.
    pub async fn withdraw(&mut self) {
        self.place = Place::GivenBack;
        self.reservation.release().await;
        abandon(&self.services, self.context.clone(), &self.begin, &self.runner).await;
    }

    /// Settles the start by what core-manager says of it, until it has ended or nothing more can be heard. A refused
    /// one that reports all the same has started.
    pub async fn follow(mut self, mut news: watch::Receiver<News>) {
        while self.next(&mut news).await.is_ok() {
            let told = news.borrow_and_update().clone();
            match told {
                News::Awaited => {}
                News::Refused => self.withdraw().await,
                News::Runs(data) => self.settle(Some(&data)).await,
                News::Ended(data) => return self.settle(Some(&data)).await,
            }
        }
        if self.place == Place::Taken {
            self.settle(None).await;
        }
    }

    /// Waits for news; until there are any the place stays taken.
    async fn next(&self, news: &mut watch::Receiver<News>) -> Result<(), RecvError> {
        match self.place {
            Place::Taken => self.reservation.during(news.changed()).await,
            Place::GivenBack | Place::Counts => news.changed().await,
        }
    }

    /// Counts the start, and keeps where it stands; without a word of core-manager nobody knows.
    async fn settle(&mut self, data: Option<&Value>) {
        if data.is_some() && self.place != Place::Counts {
            let before = std::mem::replace(&mut self.place, Place::Counts);
            // The id first: whoever sends the start again when it counts is not to start another.
            if before == Place::GivenBack {
                self.take_the_id_again().await;
            }
            self.reservation.commit().await;
        }
        let request = FinishRequest {
            user_id: self.begin.user_id.clone(),
            idempotency_key: self.begin.idempotency_key.clone(),
            runner: self.runner.clone(),
            answer: data.map(kept),
        };
        quota::persist(self.context.clone(), "state of a workflow", |context| {
            let (mut keys, request) = (self.services.idempotency(), request.clone());
            async move { keys.finish(context.last_call(request)).await.map(drop) }
        })
        .await;
    }

    /// Unless another start has it by now, which then stays what the id stands for.
    async fn take_the_id_again(&mut self) {
        let begun = self.services.idempotency().begin(self.context.last_call(self.begin.clone())).await;
        match begun.map(|answer| answer.into_inner().answer) {
            Ok(Some(Begun::Proceed(proceed))) => self.runner = proceed.runner,
            Ok(_) => {}
            Err(status) => {
                tracing::warn!(request_id = self.context.id(), %status, "the id of a start stays free")
            }
        }
    }
}

/// Frees the id, so that the start may be sent again.
async fn abandon(services: &Services, context: RequestContext, begin: &BeginRequest, runner: &str) {
    let request = AbandonRequest {
        user_id: begin.user_id.clone(),
        idempotency_key: begin.idempotency_key.clone(),
        runner: runner.to_owned(),
    };
    quota::persist(context, "refusal of a start", |context| {
        let (mut keys, request) = (services.idempotency(), request.clone());
        async move { keys.abandon(context.last_call(request)).await.map(drop) }
    })
    .await;
}

/// A state as it is kept.
fn kept(data: &Value) -> Finished {
    Finished { status: 200, headers: None, body: data.to_string().into_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_keys_makes_no_other_start() {
        let fingerprint = |text: &str| {
            Wanted::new("w", String::new(), &serde_json::from_str(text).expect("JSON")).fingerprint
        };
        assert_eq!(fingerprint(r#"{"a":1,"b":{"c":2,"d":3}}"#), fingerprint(r#"{"b":{"d":3,"c":2}, "a":1}"#));
        assert_ne!(fingerprint(r#"{"a":1}"#), fingerprint(r#"{"a":2}"#));
    }
}
