//! Payments through Stripe. What a customer has there decides what the customer's user has here; events only say when
//! to look. Without the keys of Stripe all of this is absent and everything else works.

mod cancel;
mod checkout;
mod customers;
mod events;
mod look;
mod objects;
mod prices;
mod signature;
mod standing;
mod stripe;
mod sweep;

use std::time::Duration;

use chassis::settings::Env;
use contract::{ErrorCode, Failure, Outcome};
use secrecy::SecretString;

pub use cancel::{cancel, end};
pub use checkout::checkout;
use customers::Customer;
pub use events::handle;
use signature::Secrets;
use stripe::{ApiUrl, STRIPE, Stripe};
pub use sweep::{forget, run};

/// How long a caller waits for all calls to Stripe together; shorter than the caller's own patience, so that the error
/// says who was slow.
const PATIENCE: Duration = Duration::from_secs(7);

/// How Stripe is reached.
pub struct Settings {
    key: SecretString,
    secrets: Vec<SecretString>,
    url: ApiUrl,
    success_url: String,
    cancel_url: String,
}

impl Settings {
    /// None without a key.
    pub fn read(env: &mut Env) -> Option<Settings> {
        let key = env.optional_secret(
            "STRIPE_SECRET_KEY",
            "Secret or restricted key of Stripe's API; without it nothing can be bought (SUB003)",
        );
        let secrets = env.secrets(
            "STRIPE_WEBHOOK_SECRETS",
            "Signing secrets of the webhook endpoint, comma-separated: several while one is being replaced. Needed \
             with the key",
        );
        let url = env.value("STRIPE_API_URL", "https://api.stripe.com", "Where Stripe's API is");
        let success_url =
            page(env, "STRIPE_SUCCESS_URL", "Page of the app to which Stripe sends who has paid");
        let cancel_url =
            page(env, "STRIPE_CANCEL_URL", "Page of the app to which Stripe sends who turns back");
        let key = key?;
        let (Some(success_url), Some(cancel_url), false) = (success_url, cancel_url, secrets.is_empty())
        else {
            env.fault(
                "STRIPE_SECRET_KEY: STRIPE_WEBHOOK_SECRETS, STRIPE_SUCCESS_URL and STRIPE_CANCEL_URL are needed \
                 with it",
            );
            return None;
        };
        Some(Settings { key, secrets, url, success_url, cancel_url })
    }
}

/// A page's URL; kept as a text, since Stripe fills in `{CHECKOUT_SESSION_ID}`.
fn page(env: &mut Env, name: &'static str, meaning: &'static str) -> Option<String> {
    let url: String = env.optional(name, meaning)?;
    if !url.starts_with("https://") && !url.starts_with("http://") {
        env.fault(format!("{name}: must be the URL of a page"));
    }
    Some(url)
}

/// Stripe, with what we told it and what it told us.
pub struct Billing {
    stripe: Stripe,
    secrets: Secrets,
    success_url: String,
    cancel_url: String,
}

impl Billing {
    pub fn new(settings: Settings) -> Self {
        Billing {
            stripe: Stripe::new(settings.url, &settings.key),
            secrets: Secrets::new(&settings.secrets),
            success_url: settings.success_url,
            cancel_url: settings.cancel_url,
        }
    }
}

/// Bounds how long a caller waits for Stripe.
///
/// # Errors
/// What `work` fails with; GW002 when it takes too long.
pub async fn patiently<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let slow = || Failure::new(ErrorCode::Timeout).with_fact("service", STRIPE);
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(slow()))
}
