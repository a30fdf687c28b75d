//! The names that the contract fixes: roles, tiers, permissions and counted resources.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name that the contract does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {expected}")]
pub struct UnknownName {
    expected: String,
}

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($variant:ident = $name:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $type { $(#[serde(rename = $name)] $variant),* }

        impl $type {
            /// All of them, lowest first.
            pub const ALL: &'static [$type] = &[$($type::$variant),*];

            /// The name that clients, tokens and tables use.
            pub const fn name(self) -> &'static str {
                match self { $($type::$variant => $name),* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $type {
            type Err = UnknownName;

            fn from_str(name: &str) -> Result<Self, UnknownName> {
                $type::ALL.iter().copied().find(|known| known.name() == name).ok_or_else(|| UnknownName {
                    expected: $type::ALL.iter().map(|known| known.name()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}

names! {
    /// What a user may do, lowest first.
    Role { User = "user", Moderator = "moderator", Admin = "admin" }
}

names! {
    /// How an access token is signed (RFC 7518, RFC 8037).
    Algorithm { Hs256 = "HS256", EdDsa = "EdDSA", Es256 = "ES256" }
}

names! {
    /// What a user has paid for, lowest first.
    Tier { Free = "free", Basic = "basic", Premium = "premium", Enterprise = "enterprise" }
}

impl Tier {
    /// How many requests a minute a user of the tier may send; `None` for any number.
    pub const fn requests_per_minute(self) -> Option<u32> {
        match self {
            Tier::Free => Some(60),
            Tier::Basic => Some(300),
            Tier::Premium => Some(1000),
            Tier::Enterprise => None,
        }
    }
}

names! {
    /// What a tier limits.
    Resource { Personas = "personas", Projects = "projects", Content = "content" }
}

names! {
    /// What a list of users can be sorted by.
    UserSort {
        CreatedAt = "created_at",
        UpdatedAt = "updated_at",
        LastLoginAt = "last_login_at",
        Email = "email",
        Role = "role",
        Tier = "tier",
        ClientId = "client_id",
    }
}

names! {
    /// What an export of users can have, in the order in which it has it.
    UserField {
        Id = "id",
        Email = "email",
        Role = "role",
        ClientId = "client_id",
        SubscriptionTier = "subscription_tier",
        IsActive = "is_active",
        EmailVerified = "email_verified",
        CreatedAt = "created_at",
        UpdatedAt = "updated_at",
        LastLoginAt = "last_login_at",
        FirstName = "first_name",
        LastName = "last_name",
        Company = "company",
        Phone = "phone",
        AvatarUrl = "avatar_url",
        Permissions = "permissions",
    }
}

names! {
    /// What the audit log keeps.
    AuditAction {
        Registered = "registered",
        LoggedIn = "logged_in",
        SessionEnded = "session_ended",
        PasswordChanged = "password_changed",
        AccountDeleted = "account_deleted",
        AdministratorMade = "administrator_made",
        TierChanged = "tier_changed",
        AccountUpdated = "account_updated",
        AccountImported = "account_imported",
        PermissionGranted = "permission_granted",
        PermissionRevoked = "permission_revoked",
        PasswordSet = "password_set",
        SessionsEnded = "sessions_ended",
        TierChangeApproved = "tier_change_approved",
        SubscriptionChangeApproved = "subscription_change_approved",
        UsersExported = "users_exported",
        KeyRotated = "key_rotated",
        MailSent = "mail_sent",
        EmailVerified = "email_verified",
        PasswordReset = "password_reset",
        ApiKeyCreated = "api_key_created",
        ApiKeyRevoked = "api_key_revoked",
    }
}

/// The permission that stands for all of them.
pub const ANY_PERMISSION: &str = "*";

/// The permission to see and change everybody's subscriptions.
pub const ADMINISTER_SUBSCRIPTIONS: &str = "admin.subscriptions";

/// The permission to see and change every project of one's client.
pub const MANAGE_PROJECTS: &str = "projects.manage";

/// The permissions that exist from the start.
pub const KNOWN_PERMISSIONS: [&str; 6] = [
    "personas.create",
    "personas.delete",
    MANAGE_PROJECTS,
    "admin.users",
    ADMINISTER_SUBSCRIPTIONS,
    ANY_PERMISSION,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_an_unknown_one_says_what_is_known() {
        for tier in Tier::ALL {
            assert_eq!(tier.name().parse(), Ok(*tier));
        }
        assert!(Tier::Free < Tier::Enterprise);
        let refused = "root".parse::<Role>().map_err(|e| e.to_string());
        assert_eq!(refused, Err("must be one of user, moderator, admin".to_owned()));
    }
}
