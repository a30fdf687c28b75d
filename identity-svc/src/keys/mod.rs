//! The keys that access tokens are signed with. One signs; all that may still be met are accepted. A new one is known
//! to every edge and replica before it signs ([`rotation`]), and an old one is accepted until its last token expired.

mod rotation;
mod sealed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chassis::clock::now;
use chassis::mysql::{failed, transaction, write};
use contract::identity::{KeySet, TokenKey};
use contract::token::{Algorithm, Claims, KeyPair, Signer, SigningKey, Verifier, key_set};
use contract::{Failure, Outcome};
use secrecy::SecretString;
use serde_json::json;
use sqlx::types::Json;
use sqlx::{MySql, MySqlConnection, MySqlPool, QueryBuilder};
use tokio::sync::watch;
use uuid::Uuid;

pub use rotation::{Command, run, sweep};
#[cfg(test)]
pub use rotation::{forget, forget_holders};

/// How often the table is read, and how often a replica says which keys it has.
const POLL: Duration = Duration::from_secs(1);
const READ_LIMIT: Duration = Duration::from_secs(2);
/// Of whom one statement notes that they are alive.
const NOTED_AT_ONCE: usize = 500;

/// How tokens are signed.
#[derive(Clone, Debug)]
pub struct Settings {
    pub algorithm: Algorithm,
    /// The one that signs first; tokens of the others are accepted.
    pub secrets: Vec<SecretString>,
    pub audience: String,
}

impl Settings {
    fn secret(&self) -> Outcome<&SecretString> {
        self.secrets.first().ok_or_else(|| Failure::internal("no secret is configured"))
    }
}

/// The keys at one moment.
pub struct Keys {
    pub signer: Signer,
    pub verifier: Verifier,
    /// As edges are told.
    pub set: KeySet,
    active: String,
    /// Those that this replica accepts, and could sign with when their time is still to come.
    held: Vec<String>,
}

/// The keys as this replica knows them, kept current. Cheap to clone.
#[derive(Clone)]
pub struct KeyRing {
    settings: Arc<Settings>,
    current: watch::Sender<Arc<Keys>>,
}

struct Row {
    kid: String,
    algorithm: String,
    public_key: Vec<u8>,
    sealed_private_key: Vec<u8>,
    state: String,
}

impl KeyRing {
    /// The keys of the table; a first one is made when there is none.
    ///
    /// # Errors
    /// GW001 when the database is away; SRV001 when a key cannot be read with the configured secrets.
    pub async fn open(pool: &MySqlPool, settings: Settings) -> Outcome<Self> {
        transaction(pool, "first_key", &settings, |tx, settings| {
            Box::pin(async move { make_first(tx, settings).await })
        })
        .await?;
        let keys = load(pool, &settings).await?;
        Ok(KeyRing { settings: Arc::new(settings), current: watch::Sender::new(Arc::new(keys)) })
    }

    /// The keys at this moment.
    pub fn keys(&self) -> Arc<Keys> {
        self.current.borrow().clone()
    }

    /// Changes whenever the keys do.
    pub fn changes(&self) -> watch::Receiver<Arc<Keys>> {
        self.current.subscribe()
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Follows the table for as long as the process lives, and says which keys this replica has.
    pub async fn follow(self, pool: MySqlPool) {
        let name = format!("identity-svc {}", Uuid::now_v7());
        loop {
            let reading = async {
                let keys = load(&pool, &self.settings).await?;
                self.current.send_if_modified(|known| {
                    // The sample may be signed anew and be as good.
                    let changed = known.set.keys != keys.set.keys || known.active != keys.active;
                    if changed {
                        *known = Arc::new(keys);
                    }
                    changed
                });
                hold(&pool, &BTreeMap::from([(name.clone(), self.keys().held.clone())])).await
            };
            match tokio::time::timeout(READ_LIMIT, reading).await {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => tracing::warn!(cause = ?failure.cause(), "signing keys cannot be read"),
                Err(_) => tracing::warn!("signing keys cannot be read: the database does not answer"),
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Notes who is alive and accepts which keys, by the clock of the database: whoever was noted by one that is ahead would be
/// waited for when he has long gone. In the order of names, so that replicas which note the same ones at once
/// wait for each other and do not deadlock.
///
/// # Errors
/// GW001 when the database is away.
pub async fn hold(pool: &MySqlPool, holders: &BTreeMap<String, Vec<String>>) -> Outcome<()> {
    let mut holders = holders.iter().peekable();
    while holders.peek().is_some() {
        let mut statement = QueryBuilder::<MySql>::new("INSERT INTO key_holders (name, key_ids, seen_at) ");
        statement.push_values(holders.by_ref().take(NOTED_AT_ONCE), |mut row, (name, key_ids)| {
            row.push_bind(name).push_bind(Json(key_ids)).push("UTC_TIMESTAMP(6)");
        });
        statement.push(" ON DUPLICATE KEY UPDATE key_ids = VALUES(key_ids), seen_at = VALUES(seen_at)");
        write(pool, statement.build()).await?;
    }
    Ok(())
}

async fn make_first(tx: &mut MySqlConnection, settings: &Settings) -> Outcome<()> {
    // One replica at a time; the row is there from the first migration on.
    sqlx::query!("SELECT id FROM auth_sequence WHERE id = 1 FOR UPDATE")
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
    let some = sqlx::query_scalar!("SELECT COUNT(*) FROM signing_keys WHERE state = 'active'")
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
    if some > 0 {
        return Ok(());
    }
    let kid = match settings.algorithm {
        Algorithm::Hs256 => String::new(),
        Algorithm::EdDsa | Algorithm::Es256 => Uuid::now_v7().to_string(),
    };
    insert(tx, settings, &kid, "active").await
}

async fn insert(tx: &mut MySqlConnection, settings: &Settings, kid: &str, state: &str) -> Outcome<()> {
    let (public, sealed) = match settings.algorithm {
        Algorithm::Hs256 => (Vec::new(), Vec::new()),
        algorithm => {
            let pair = KeyPair::generate(kid, algorithm).map_err(Failure::internal)?;
            let sealed = sealed::seal(settings.secret()?, kid, &pair.private)?;
            (pair.public, sealed)
        }
    };
    sqlx::query!(
        "INSERT INTO signing_keys (kid, algorithm, public_key, sealed_private_key, state, created_at, activated_at)
         VALUES (?, ?, ?, ?, ?, ?, IF(? = 'active', ?, NULL))",
        kid,
        settings.algorithm.name(),
        public,
        sealed,
        state,
        now(),
        state,
        now()
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(())
}

async fn load(pool: &MySqlPool, settings: &Settings) -> Outcome<Keys> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT kid, algorithm, public_key, sealed_private_key, state FROM signing_keys
         WHERE state <> 'retired' OR retire_at > UTC_TIMESTAMP(6) ORDER BY created_at, kid"
    )
    .fetch_all(pool)
    .await
    .map_err(failed)?;
    made_of(rows, settings)
}

fn made_of(rows: Vec<Row>, settings: &Settings) -> Outcome<Keys> {
    let active = rows.iter().find(|row| row.state == "active");
    let active = active.ok_or_else(|| Failure::internal("no signing key is active"))?;
    let signer = Signer::new(signing_key(active, settings)?);
    // One that was sealed with another secret must not become the one that signs.
    let is_held = |row: &&Row| row.state != "pending" || signing_key(row, settings).is_ok();
    let held = rows.iter().filter(is_held).map(|row| row.kid.clone()).collect();
    let (active, keys) = (active.kid.clone(), rows.into_iter().map(wire).collect::<Vec<_>>());
    let verifying = key_set(&keys, &settings.secrets).map_err(Failure::internal)?;
    let verifier = Verifier::new(verifying, &settings.audience);
    let sample = signer.sign(&Claims::of_nobody(&settings.audience)).map_err(Failure::internal)?;
    Ok(Keys { signer, verifier, set: KeySet { keys, sample }, active, held })
}

/// The keys of an empty table, without one.
///
/// # Errors
/// SRV001 without a secret.
pub fn configured(settings: &Settings) -> Outcome<Keys> {
    let row = Row {
        kid: String::new(),
        algorithm: Algorithm::Hs256.name().to_owned(),
        public_key: Vec::new(),
        sealed_private_key: Vec::new(),
        state: "active".to_owned(),
    };
    made_of(vec![row], settings)
}

fn wire(row: Row) -> TokenKey {
    TokenKey { kid: row.kid, algorithm: row.algorithm, public_key: row.public_key }
}

fn signing_key(row: &Row, settings: &Settings) -> Outcome<SigningKey> {
    match row.algorithm.parse().map_err(Failure::internal)? {
        Algorithm::Hs256 if row.kid.is_empty() => Ok(SigningKey::hs256(settings.secret()?)),
        Algorithm::Hs256 => Ok(SigningKey::derived(settings.secret()?, &row.kid)),
        algorithm => {
            let private = sealed::open(&settings.secrets, &row.kid, &row.sealed_private_key)?;
            let pair = KeyPair { kid: row.kid.clone(), algorithm, public: row.public_key.clone(), private };
            pair.signing_key().map_err(Failure::internal)
        }
    }
}

/// A line of `identity-svc keys list`.
fn describe(row: &rotation::Listed) -> String {
    json!({
        "kid": if row.kid.is_empty() { "(the configured secret)" } else { &row.kid },
        "algorithm": row.algorithm,
        "state": row.state,
        "created_at": row.created_at,
        "retire_at": row.retire_at,
    })
    .to_string()
}
