//! The table `stripe_customers`: whom we have made a customer. Nothing that Stripe says of others concerns us. When one is
//! looked at again goes by the clock of the database, or one that is ahead would put it off for all replicas.

use chassis::clock::shared;
use chassis::mysql::{failed, transaction, write};
use chrono::TimeDelta;
use contract::{ErrorCode, Failure, Outcome};
use sqlx::{MySqlConnection, MySqlExecutor, MySqlPool};

use super::Billing;
use super::objects::{Named, Remains};
use super::stripe::Form;
use crate::service::Service;
use crate::subscriptions::{self, change_locked, lock};

/// A customer at Stripe.
#[derive(Clone, Debug)]
pub struct Customer {
    pub id: String,
    /// None once the account is deleted.
    pub user_id: Option<String>,
    pub revision: i64,
    pub checkout_id: Option<String>,
}

/// Rows of `stripe_customers`, with what follows the name of the table.
macro_rules! select {
    ($rest:literal $(, $value:expr)*) => {
        sqlx::query_as!(
            Customer,
            "SELECT customer_id AS id, user_id, revision, checkout_id FROM stripe_customers " + $rest
            $(, $value)*
        )
    };
}

/// The customer with this id, if we made it.
///
/// # Errors
/// GW001 when the database is away.
pub async fn find(pool: &MySqlPool, id: &str) -> Outcome<Option<Customer>> {
    select!("WHERE customer_id = ?", id).fetch_optional(pool).await.map_err(failed)
}

/// The customer that a user is, if there is one.
///
/// # Errors
/// GW001 when the database is away.
pub async fn of_user(pool: &MySqlPool, user_id: &str) -> Outcome<Option<Customer>> {
    select!("WHERE user_id = ?", user_id).fetch_optional(pool).await.map_err(failed)
}

/// The customer as of now, but for the page that was known before; none when it was deleted at Stripe meanwhile.
///
/// # Errors
/// USER001 when the account is deleted; GW001 when the database is away.
pub async fn again(pool: &MySqlPool, before: Customer) -> Outcome<Option<Customer>> {
    let Some(now) = find(pool, &before.id).await? else { return Ok(None) };
    if now.user_id.is_none() {
        return Err(Failure::new(ErrorCode::UserNotFound));
    }
    Ok(Some(Customer { revision: now.revision, ..before }))
}

/// Whether a customer whom Stripe misses was deleted there. One that it never had shows that the key is of another
/// account or mode, which ends nothing.
///
/// # Errors
/// GW001 or GW002 when Stripe is away; SRV001 when it never had this customer.
pub async fn is_deleted(billing: &Billing, id: &str) -> Outcome<bool> {
    let path = format!("/v1/customers/{id}");
    let remains: Remains = billing.stripe.get("read a customer", &path, Form::default()).await?;
    Ok(remains.deleted)
}

/// The customer that a user is, made now if there is none.
///
/// # Errors
/// USER001; GW001 or GW002 when the database or Stripe is away.
pub async fn made(service: &Service, billing: &Billing, user_id: &str, email: &str) -> Outcome<Customer> {
    if let Some(customer) = of_user(&service.pool, user_id).await? {
        return Ok(customer);
    }
    // Whoever dies before the row is written, and whoever does the same at the same time, gets the same customer, but
    // nobody one that was deleted there.
    let key = match subscriptions::find(&service.pool, user_id).await?.stripe_customer_id {
        None => format!("customer-{user_id}"),
        Some(former) => {
            // Somebody else may have made it since the look above: the subscription and the row are written at once.
            if let Some(customer) = of_user(&service.pool, user_id).await? {
                return Ok(customer);
            }
            format!("customer-{user_id}-after-{former}")
        }
    };
    let form = Form::default().with("email", email).with("metadata[user_id]", user_id);
    let made: Named = billing.stripe.post_once("make a customer", "/v1/customers", form, key).await?;
    transaction(&service.pool, "stripe_customer", (user_id, &made.id), |tx, (user_id, id)| {
        Box::pin(async move { keep(tx, user_id, id).await })
    })
    .await
}

async fn keep(tx: &mut MySqlConnection, user_id: &str, id: &str) -> Outcome<Customer> {
    let subscription = lock(tx, user_id).await?;
    let known = select!("WHERE user_id = ?", user_id).fetch_optional(&mut *tx).await.map_err(failed)?;
    if let Some(known) = known {
        return Ok(known);
    }
    let now = shared(tx).await.map_err(failed)?;
    sqlx::query!(
        "INSERT INTO stripe_customers (customer_id, user_id, created_at) VALUES (?, ?, ?)",
        id,
        user_id,
        now
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    change_locked(tx, subscription, now, &|subscription| {
        subscription.stripe_customer_id = Some(id.to_owned());
    })
    .await?;
    Ok(Customer { id: id.to_owned(), user_id: Some(user_id.to_owned()), revision: 0, checkout_id: None })
}

/// Puts a new page in the place of the last one; false when another was quicker.
///
/// # Errors
/// GW001 when the database is away.
pub async fn swap_checkout(pool: &MySqlPool, customer: &Customer, checkout_id: &str) -> Outcome<bool> {
    let swapped = write(
        pool,
        sqlx::query!(
            "UPDATE stripe_customers SET checkout_id = ? WHERE customer_id = ? AND checkout_id <=> ?",
            checkout_id,
            customer.id,
            customer.checkout_id
        ),
    )
    .await?;
    Ok(swapped.rows_affected() == 1)
}

/// Customers that are to be looked at without a word from Stripe, some of them.
///
/// # Errors
/// GW001 when the database is away.
pub async fn due(pool: &MySqlPool) -> Outcome<Vec<Customer>> {
    // None is put off for longer than a day: one that is was while the clock of the database was ahead.
    select!(
        "WHERE look_at <= UTC_TIMESTAMP(6) OR look_at > UTC_TIMESTAMP(6) + INTERVAL 2 DAY \
         ORDER BY look_at LIMIT 20"
    )
    .fetch_all(pool)
    .await
    .map_err(failed)
}

/// Customers whose account is deleted, some of them; those that were postponed last.
///
/// # Errors
/// GW001 when the database is away.
pub async fn left_behind(pool: &MySqlPool) -> Outcome<Vec<Customer>> {
    select!("WHERE user_id IS NULL AND (retry_at IS NULL OR retry_at <= UTC_TIMESTAMP(6)) ORDER BY retry_at LIMIT 20")
        .fetch_all(pool)
        .await
        .map_err(failed)
}

/// Has a customer that could not be looked at, or ended, wait until others had their turn.
///
/// # Errors
/// GW001 when the database is away.
pub async fn postpone(pool: &MySqlPool, id: &str, pause: TimeDelta) -> Outcome<()> {
    write(
        pool,
        sqlx::query!(
            "UPDATE stripe_customers
         SET look_at = UTC_TIMESTAMP(6) + INTERVAL ? SECOND, retry_at = UTC_TIMESTAMP(6) + INTERVAL ? SECOND
         WHERE customer_id = ?",
            pause.num_seconds(),
            pause.num_seconds(),
            id
        ),
    )
    .await?;
    Ok(())
}

/// Forgets a customer that is deleted at Stripe. The user's subscription still names it, so that the next one is
/// another.
///
/// # Errors
/// GW001 when the database is away.
pub async fn forget(connection: impl MySqlExecutor<'_>, id: &str) -> Outcome<()> {
    sqlx::query!("DELETE FROM stripe_customers WHERE customer_id = ?", id)
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}
