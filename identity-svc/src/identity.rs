//! What all slices work with.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use contract::token::{Claims, ISSUER};
use contract::{Failure, NOT_AN_ID, Outcome, is_canonical_id};
use sqlx::MySqlPool;
use uuid::Uuid;

use crate::accounts::Account;
use crate::api_keys;
use crate::bulkhead::Bulkhead;
use crate::enforcement::Reports;
use crate::hasher::Hasher;
use crate::holders::Holders;
use crate::keys::KeyRing;
use crate::mail::Mail;
use crate::settings::Lifetimes;
use crate::tail::Tail;
use crate::throttle::Limits;
use crate::token_lives::Noted;
use crate::watching::Watching;

/// The state of the process. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    pub pool: MySqlPool,
    pub hasher: Hasher,
    pub tokens: Arc<Tokens>,
    pub tail: Tail,
    pub holders: Holders,
    pub watching: Watching<MySqlPool>,
    pub reports: Reports,
    pub min_password_length: usize,
    pub limits: Limits,
    pub api_keys: api_keys::Limits,
    pub mail: Mail,
    pub bulkhead: Bulkhead,
}

/// What access tokens are made of and checked with.
pub struct Tokens {
    pub keys: KeyRing,
    pub lifetimes: Lifetimes,
    /// Most open sessions of an account.
    pub max_sessions: usize,
    pub noted: Noted,
}

impl Tokens {
    /// What an access token says of an account, for its session or key, from `now` until it expires.
    pub fn claims(
        &self,
        account: &Account,
        session_id: &str,
        now: DateTime<Utc>,
        expires: DateTime<Utc>,
    ) -> Claims {
        Claims {
            iss: ISSUER.to_owned(),
            aud: self.keys.settings().audience.clone(),
            sub: account.id.clone(),
            jti: Uuid::now_v7().to_string(),
            iat: now.timestamp(),
            nbf: now.timestamp(),
            exp: expires.timestamp(),
            sid: session_id.to_owned(),
            ver: account.version,
            user_id: account.id.clone(),
            email: account.email.clone(),
            client_id: account.client_id.clone(),
            role: account.role,
            tier: account.tier,
            permissions: account.permissions.clone(),
            scope: None,
            key_exp: None,
        }
    }
}

/// Checks that a field of a request is an id in the one form that tables hold.
///
/// # Errors
/// REQ001, which names the field.
pub fn id(field: &'static str, text: &str) -> Outcome<()> {
    if is_canonical_id(text) { Ok(()) } else { Err(Failure::field(field, NOT_AN_ID)) }
}
