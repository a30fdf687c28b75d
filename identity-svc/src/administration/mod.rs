//! Administration of users: what an administrator sees and does. Each slice re-checks the acting account, since the
//! edge is not the only caller, and keeps what was done in the audit log.

pub mod api_keys;
pub mod audit;
pub mod bulk;
pub mod change;
pub mod export;
mod filter;
pub mod import;
pub mod list;
pub mod permissions;
mod phc;
pub mod sessions;
pub mod subscriptions;
#[cfg(test)]
mod tests;

use chassis::mysql::failed;
use contract::identity::Device;
use contract::{ErrorCode, Failure, Outcome, Role};
use sqlx::MySqlConnection;

use crate::audit::By;
use crate::identity::id;
use crate::sign_in::known_device;

/// Most characters of the reason that an administrator gives.
const MAX_REASON: usize = 500;

/// The account that acts, and from where.
pub struct Actor {
    id: String,
    device: Device,
}

impl Actor {
    /// # Errors
    /// REQ001 when the id is none.
    pub fn of(actor_id: String, device: Option<Device>) -> Outcome<Actor> {
        id("actor_id", &actor_id)?;
        Ok(Actor { id: actor_id, device: known_device(device) })
    }

    fn by(&self) -> By<'_> {
        By::user(&self.id, Some(&self.device))
    }

    /// Checks that the account is an active administrator at this moment.
    ///
    /// # Errors
    /// AUTH004.
    pub async fn must_administer(&self, connection: &mut MySqlConnection) -> Outcome<()> {
        let role = sqlx::query_scalar!("SELECT role FROM users WHERE id = ? AND is_active = TRUE", self.id)
            .fetch_optional(connection)
            .await
            .map_err(failed)?;
        if role.is_some_and(|role| role == Role::Admin.name()) {
            Ok(())
        } else {
            Err(Failure::new(ErrorCode::Forbidden))
        }
    }
}

/// The reason that was given, if any.
fn reason(text: &str) -> Outcome<Option<&str>> {
    if text.chars().count() > MAX_REASON {
        return Err(Failure::field("reason", format!("must have at most {MAX_REASON} characters")));
    }
    Ok((!text.is_empty()).then_some(text))
}
