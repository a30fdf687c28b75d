//! Looks at what a customer has at Stripe and takes it over. Events, cancellations and the sweep all end here, so that
//! the order in which anything arrives does not matter: it is always the newest state that is taken.

use chassis::clock::now;
use chassis::mysql::{failed, transaction};
use chrono::{DateTime, Utc};
use contract::{ErrorCode, Failure, Outcome};
use sqlx::MySqlConnection;

use super::objects::{List, Subscription as Paid};
use super::standing::{self, Standing};
use super::stripe::Form;
use super::{Billing, Customer, customers, prices};
use crate::service::Service;
use crate::subscriptions::{Subscription, change_locked, lock};

/// What is known after a look.
pub struct Seen {
    pub subscription: Subscription,
    /// What counts at Stripe; none when nothing does, or another look that began later has told already.
    pub standing: Option<Standing>,
    /// The customer was deleted at Stripe, and is forgotten.
    pub is_gone: bool,
}

/// Takes over what a customer has at Stripe now, together with the event that told of it.
///
/// Two looks at once could end with the older state on top. So each notes the customer's revision before it asks
/// Stripe, and its answer counts only if no other was taken over meanwhile; every one taken over was then asked for
/// after the one before it was committed. After two that were, one of them began later than this look, and there is
/// nothing left to tell.
///
/// # Errors
/// USER001 when the account is deleted; GW001 or GW002 when the database or Stripe is away.
pub async fn look(
    service: &Service,
    billing: &Billing,
    customer: &Customer,
    event: Option<&str>,
) -> Outcome<Seen> {
    let user_id = customer.user_id.as_deref().ok_or_else(|| Failure::new(ErrorCode::UserNotFound))?;
    let first = customer.revision;
    let mut revision = first;
    loop {
        let found = ask(service, billing, &customer.id).await?;
        let answer = Answer {
            user_id,
            customer_id: &customer.id,
            event,
            first,
            revision,
            found,
            grace: service.grace,
        };
        let taken = transaction(&service.pool, "take_over_stripe", &answer, |tx, answer| {
            Box::pin(async move { answer.take_over(tx).await })
        })
        .await?;
        match taken {
            Taken::Over(subscription) => {
                service.relay.hurry();
                let is_gone = matches!(answer.found, Found::Deleted);
                return Ok(Seen { subscription, standing: answer.found.all().into_iter().next(), is_gone });
            }
            Taken::Already(subscription) => {
                return Ok(Seen { subscription, standing: None, is_gone: false });
            }
            Taken::Meanwhile(newer) => revision = newer,
        }
    }
}

/// What Stripe has of a customer.
enum Found {
    /// The customer was deleted there.
    Deleted,
    /// The subscriptions that run, the best one first.
    Running(Vec<Standing>),
}

impl Found {
    fn all(self) -> Vec<Standing> {
        if let Found::Running(all) = self { all } else { Vec::new() }
    }

    /// The one that counts.
    fn best(&self) -> Option<&Standing> {
        if let Found::Running(all) = self { all.first() } else { None }
    }
}

/// All that a customer pays for at Stripe now, the best first; nothing of it is taken over.
///
/// # Errors
/// GW001 or GW002 when the database or Stripe is away.
pub async fn running(service: &Service, billing: &Billing, customer_id: &str) -> Outcome<Vec<Standing>> {
    ask(service, billing, customer_id).await.map(Found::all)
}

async fn ask(service: &Service, billing: &Billing, customer_id: &str) -> Outcome<Found> {
    let query = Form::default().with("customer", customer_id).with("limit", "100");
    // Without those that have ended.
    let list = billing.stripe.get::<List<Paid>>("read subscriptions", "/v1/subscriptions", query).await;
    if list.as_ref().is_err_and(|fault| fault.misses("customer"))
        && customers::is_deleted(billing, customer_id).await?
    {
        return Ok(Found::Deleted);
    }
    let all = list?.data;
    let plans = prices::plans(&service.pool, &all).await?;
    Ok(Found::Running(Standing::all(all, |item| plans.get(&item.price.id).copied(), now())))
}

/// What Stripe answered, on its way into the tables.
struct Answer<'a> {
    user_id: &'a str,
    customer_id: &'a str,
    event: Option<&'a str>,
    /// The revision when the look began, and when Stripe was last asked.
    first: i64,
    revision: i64,
    found: Found,
    grace: chrono::TimeDelta,
}

enum Taken {
    Over(Subscription),
    /// The event, or all that it could tell, was taken over before.
    Already(Subscription),
    /// Something was taken over since Stripe was asked; this is the revision now.
    Meanwhile(i64),
}

impl Answer<'_> {
    /// Everything about one customer happens under the lock of the user's subscription.
    async fn take_over(&self, tx: &mut MySqlConnection) -> Outcome<Taken> {
        let before = lock(tx, self.user_id).await?;
        if self.is_repeated(tx).await? {
            return Ok(Taken::Already(before));
        }
        let row = sqlx::query!(
            r#"SELECT revision, past_due_since AS "past_due_since: DateTime<Utc>",
                      UTC_TIMESTAMP(6) AS "now: DateTime<Utc>"
               FROM stripe_customers WHERE customer_id = ?"#,
            self.customer_id
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        let Some(row) = row else {
            self.note_event(tx).await?;
            return Ok(Taken::Already(before));
        };
        if row.revision >= self.first + 2 {
            self.note_event(tx).await?;
            return Ok(Taken::Already(before));
        }
        if row.revision != self.revision {
            return Ok(Taken::Meanwhile(row.revision));
        }
        self.note_event(tx).await?;
        let best = self.found.best();
        let late = best.is_some_and(Standing::is_late);
        // By the clock of the database: no grace is over because our own is ahead.
        let now = row.now;
        let past_due_since = row.past_due_since.or(Some(now)).filter(|_| late);
        let grace_ends = past_due_since.unwrap_or(now) + self.grace;
        let after = change_locked(tx, before, now, &|subscription| match best {
            Some(standing) => standing.apply(subscription, grace_ends, now),
            None => standing::end(subscription, now),
        })
        .await?;
        if matches!(self.found, Found::Deleted) {
            customers::forget(tx, self.customer_id).await?;
            return Ok(Taken::Over(after));
        }
        sqlx::query!(
            "UPDATE stripe_customers SET revision = revision + 1, past_due_since = ?, look_at = ?
             WHERE customer_id = ?",
            past_due_since,
            standing::next_look(&after, now),
            self.customer_id
        )
        .execute(tx)
        .await
        .map_err(failed)?;
        Ok(Taken::Over(after))
    }

    async fn is_repeated(&self, tx: &mut MySqlConnection) -> Outcome<bool> {
        let Some(event) = self.event else { return Ok(false) };
        let found = sqlx::query_scalar!("SELECT id FROM stripe_events WHERE id = ?", event)
            .fetch_optional(tx)
            .await
            .map_err(failed)?;
        Ok(found.is_some())
    }

    async fn note_event(&self, tx: &mut MySqlConnection) -> Outcome<()> {
        if let Some(event) = self.event {
            sqlx::query!("INSERT INTO stripe_events (id, taken_at) VALUES (?, UTC_TIMESTAMP(6))", event)
                .execute(tx)
                .await
                .map_err(failed)?;
        }
        Ok(())
    }
}
