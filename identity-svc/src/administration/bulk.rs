//! One change to many accounts. Each is a transaction of its own, and one that is refused does not stop the others.

use std::str::FromStr;

use chassis::mysql::{failed, transaction};
use contract::identity::{
    ApproveTierChangeRequest, ApproveTierChangeResponse, ChangeUsersRequest, ChangeUsersResponse, RefusedUser,
};
use contract::{ErrorCode, Failure, Outcome, Tier};
use serde_json::json;

use super::change::{self, Change};
use super::{Actor, reason};
use crate::accounts;
use crate::audit::{self, Action};
use crate::identity::{Identity, id};

/// Most accounts of one call, so that it ends well before its deadline.
const MOST: usize = 100;

#[derive(Clone, Copy)]
enum Operation {
    Activate,
    Deactivate,
    Delete,
}

impl FromStr for Operation {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "activate" => Ok(Operation::Activate),
            "deactivate" => Ok(Operation::Deactivate),
            "delete" => Ok(Operation::Delete),
            _ => Err("must be one of activate, deactivate, delete"),
        }
    }
}

/// Changes many accounts.
///
/// # Errors
/// AUTH004, REQ001.
pub async fn change(
    identity: &Identity,
    actor: &Actor,
    request: ChangeUsersRequest,
) -> Outcome<ChangeUsersResponse> {
    check(identity, actor, &request.user_ids).await?;
    let operation: Operation =
        request.operation.parse().map_err(|fault| Failure::field("operation", fault))?;
    let reason = reason(&request.reason)?;
    let mut all = Results::default();
    for user_id in request.user_ids {
        if all.stopped_at(&user_id) {
            continue;
        }
        let done = match operation {
            Operation::Activate => set_active(identity, actor, &user_id, true, reason).await,
            Operation::Deactivate => set_active(identity, actor, &user_id, false, reason).await,
            Operation::Delete => change::remove(identity, actor, &user_id, reason).await,
        };
        all.add(user_id, done);
    }
    Ok(ChangeUsersResponse { succeeded: all.succeeded, refused: all.refused })
}

async fn set_active(
    identity: &Identity,
    actor: &Actor,
    user_id: &str,
    is_active: bool,
    reason: Option<&str>,
) -> Outcome<()> {
    let change = Change { is_active: Some(is_active), ..Change::default() };
    change::apply(identity, actor, user_id, change, reason).await
}

/// Keeps in the log who has tiers changed, and why, before they are.
///
/// # Errors
/// AUTH004, REQ001.
pub async fn approve_tier(
    identity: &Identity,
    actor: &Actor,
    request: ApproveTierChangeRequest,
) -> Outcome<ApproveTierChangeResponse> {
    check(identity, actor, &request.user_ids).await?;
    let tier: Tier = request.tier.parse().map_err(|fault| Failure::field("tier", fault))?;
    let reason = reason(&request.reason)?;
    let mut all = Results::default();
    for user_id in request.user_ids {
        if all.stopped_at(&user_id) {
            continue;
        }
        let approved = approve_one(identity, actor, &user_id, tier, request.upgrades_only, reason).await;
        all.add(user_id, approved);
    }
    Ok(ApproveTierChangeResponse { approved: all.succeeded, refused: all.refused })
}

async fn approve_one(
    identity: &Identity,
    actor: &Actor,
    user_id: &str,
    tier: Tier,
    upgrades_only: bool,
    reason: Option<&str>,
) -> Outcome<()> {
    let given = (actor, user_id, reason);
    transaction(&identity.pool, "approve_tier", given, move |tx, (actor, user_id, reason)| {
        Box::pin(async move {
            actor.must_administer(tx).await?;
            accounts::lock(tx, user_id).await?;
            let before = accounts::find(tx, user_id).await?.tier;
            if upgrades_only && before > tier {
                return Err(Failure::field("tier", format!("would lower the tier, which is {before}"))
                    .saying("An upgrade cannot lower the tier"));
            }
            let mut details = json!({ "from": before, "to": tier });
            if let Some(reason) = reason {
                details["reason"] = json!(reason);
            }
            audit::record(tx, actor.by(), Action::TierChangeApproved, Some(user_id), None, details).await
        })
    })
    .await
}

async fn check(identity: &Identity, actor: &Actor, user_ids: &[String]) -> Outcome<()> {
    if !(1..=MOST).contains(&user_ids.len()) {
        return Err(Failure::field("user_ids", format!("must have 1 to {MOST} ids")));
    }
    for user_id in user_ids {
        id("user_ids", user_id)?;
    }
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    actor.must_administer(&mut connection).await
}

/// What came of each account.
#[derive(Default)]
struct Results {
    succeeded: Vec<String>,
    refused: Vec<RefusedUser>,
    /// What would refuse all that follow as well: the database is away, or the actor no longer an administrator.
    stopped: Option<(ErrorCode, String)>,
}

impl Results {
    /// Whether there is no point in trying this one; it is then refused.
    fn stopped_at(&mut self, user_id: &str) -> bool {
        let Some((code, message)) = &self.stopped else { return false };
        let (code, message) = (code.name().to_owned(), message.clone());
        self.refused.push(RefusedUser { user_id: user_id.to_owned(), code, message });
        true
    }

    fn add(&mut self, user_id: String, done: Outcome<()>) {
        let Err(failure) = done else {
            self.succeeded.push(user_id);
            return;
        };
        let (code, message) = (failure.code(), failure.message().to_owned());
        let is_its_own = matches!(
            code,
            ErrorCode::UserNotFound | ErrorCode::LastAdministrator | ErrorCode::InvalidRequest
        );
        if !is_its_own {
            tracing::warn!(cause = ?failure.cause(), "a change of many accounts stops: {failure}");
            self.stopped = Some((code, message.clone()));
        }
        self.refused.push(RefusedUser { user_id, code: code.name().to_owned(), message });
    }
}
