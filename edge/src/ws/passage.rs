//! The way of one message to core-manager: checked by the services, then carried by a leg that may have to be opened.
//! It is a task of the loop, which obeys everything else meanwhile.

use std::pin::Pin;
use std::sync::Arc;

use contract::identity::GetProjectRequest;
use contract::{Failure, Outcome};

use super::Sockets;
use super::admission::{Admission, Start};
use super::session::Passing;
use super::upstream::Leg;
use crate::claims::{Caller, Intent};
use crate::front::RequestContext;
use crate::services::from_identity;

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A message that may pass.
pub struct Parcel {
    pub id: String,
    pub text: String,
    /// The start that it is.
    pub start: Option<Box<Start>>,
    /// Who says it, with the claims that core-manager is to be told.
    pub caller: Caller,
}

/// What the services said of a message that is to pass.
pub enum Verdict {
    Passes(Parcel),
    /// It is a start that has passed before; where the workflow stands.
    Repeated(String, serde_json::Value),
    Refused(String, Failure),
}

/// A message on its way.
pub enum Passage {
    Check(Task<Verdict>),
    Open(Task<(Parcel, Outcome<Box<Leg>>)>),
}

/// A step that is done.
pub enum Step {
    Checked(Verdict),
    Opened(Parcel, Outcome<Box<Leg>>),
}

impl Passage {
    pub fn check(
        sockets: Arc<Sockets>,
        caller: Caller,
        context: RequestContext,
        passing: Passing,
    ) -> Passage {
        Passage::Check(Box::pin(async move {
            let Passing { id, start, text } = passing;
            // What identity-svc confirms may be newer than what this edge has heard.
            let caller = match sockets.authenticator.confirm(caller, Intent::Act).await {
                Ok(caller) => caller,
                Err(failure) => return Verdict::Refused(id, failure),
            };
            let Some(wanted) = start else {
                return Verdict::Passes(Parcel { id, text, start: None, caller });
            };
            let admitted = async {
                must_own(&sockets, &caller, &context, &wanted.project_id).await?;
                let life = sockets.gateway.reservation_life();
                wanted.admit(&caller, &sockets.services, &context, life).await
            };
            match admitted.await {
                Ok(Admission::New(start)) => Verdict::Passes(Parcel { id, text, start: Some(start), caller }),
                Ok(Admission::Repeated(state)) => Verdict::Repeated(id, state),
                Err(failure) => Verdict::Refused(id, failure),
            }
        }))
    }

    /// Opens a leg in the name of who says the message.
    pub fn open(sockets: &Sockets, context: RequestContext, parcel: Parcel) -> Passage {
        let (gateway, caller) = (sockets.gateway.clone(), parcel.caller.clone());
        Passage::Open(Box::pin(async move { (parcel, Leg::open(gateway, caller, context).await) }))
    }

    pub async fn step(&mut self) -> Step {
        match self {
            Passage::Check(task) => Step::Checked(task.await),
            Passage::Open(task) => {
                let (parcel, leg) = task.await;
                Step::Opened(parcel, leg)
            }
        }
    }

    /// The socket has ended before the message left: what was taken for it is given back.
    pub async fn give_up(mut self) {
        let start = match self.step().await {
            Step::Checked(Verdict::Passes(parcel)) | Step::Opened(parcel, _) => parcel.start,
            Step::Checked(Verdict::Repeated(..) | Verdict::Refused(..)) => None,
        };
        if let Some(mut start) = start {
            start.withdraw().await;
        }
    }
}

/// Whoever manages all projects sees more of them than may be started on.
async fn must_own(
    sockets: &Sockets,
    caller: &Caller,
    context: &RequestContext,
    project_id: &str,
) -> Outcome<()> {
    let (actor_id, project_id) = (caller.user_id().to_owned(), project_id.to_owned());
    let request = GetProjectRequest { actor_id, project_id, own_only: true };
    from_identity(sockets.services.projects().get_project(context.call(request)).await).map(drop)
}
