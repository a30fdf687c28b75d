//! Changes of subscriptions by administrators, which subscription-svc makes: whether the acting account may, and who it
//! was.

use chassis::mysql::transaction;
use contract::identity::ApproveSubscriptionChangeRequest;
use contract::{ADMINISTER_SUBSCRIPTIONS, ErrorCode, Failure, Outcome};
use serde_json::{Map, Value, json};

use super::Actor;
use crate::accounts;
use crate::audit::{self, Action};
use crate::identity::{Identity, id};

/// Longest value of a changed field that is kept, in characters.
const MAX_VALUE: usize = 100;
const MAX_CHANGES: usize = 20;

/// Checks that the acting account may administer subscriptions as it is now, and keeps what it is about to change.
///
/// # Errors
/// AUTH004; REQ001; USER001 when there is no such account to change.
pub async fn approve(identity: &Identity, request: ApproveSubscriptionChangeRequest) -> Outcome<()> {
    let ApproveSubscriptionChangeRequest { actor_id, device, user_id, changes } = request;
    let actor = Actor::of(actor_id, device)?;
    id("user_id", &user_id)?;
    if changes.len() > MAX_CHANGES {
        return Err(Failure::field("changes", format!("must be at most {MAX_CHANGES}")));
    }
    let cut = |text: String| text.chars().take(MAX_VALUE).collect::<String>();
    let details: Map<String, Value> =
        changes.into_iter().map(|change| (cut(change.field), json!(cut(change.value)))).collect();
    let given = (&actor, &user_id, Value::Object(details));
    transaction(&identity.pool, "approve_subscription", given, |tx, (actor, user_id, details)| {
        Box::pin(async move {
            let may = match accounts::find(tx, &actor.id).await {
                Ok(account) => account.is_active && account.holds(ADMINISTER_SUBSCRIPTIONS),
                Err(failure) if failure.code() == ErrorCode::UserNotFound => false,
                Err(failure) => return Err(failure),
            };
            if !may {
                return Err(Failure::new(ErrorCode::Forbidden));
            }
            accounts::lock(tx, user_id).await?;
            if details.as_object().is_some_and(Map::is_empty) {
                return Ok(());
            }
            let approved = Action::SubscriptionChangeApproved;
            audit::record(tx, actor.by(), approved, Some(user_id), None, details.clone()).await
        })
    })
    .await
}
