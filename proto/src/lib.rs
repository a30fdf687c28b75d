//! All that the processes of the platform must agree on: the gRPC interface, the error table, the claims of a
//! token, and the names of roles, tiers, permissions and counted resources. Knows no process.

pub mod api_key;
mod error;
mod failure;
mod names;
mod redacted;
pub mod token;

pub use error::{ErrorCode, WsClose};
pub use failure::{Failure, Outcome};
pub use names::{
    ADMINISTER_SUBSCRIPTIONS, ANY_PERMISSION, AuditAction, KNOWN_PERMISSIONS, MANAGE_PROJECTS, Resource,
    Role, Tier, UnknownName, UserField, UserSort,
};

/// The gRPC interface of identity-svc.
pub mod identity {
    tonic::include_proto!("persona.identity.v1");

    /// The compiled .proto files, for gRPC server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("identity");
}

/// The gRPC interface of subscription-svc.
pub mod subscription {
    tonic::include_proto!("persona.subscription.v1");

    /// The compiled .proto files, for gRPC server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("subscription");
}

/// `ErrorInfo.domain` of every refusal that crosses gRPC.
pub const ERROR_DOMAIN: &str = "persona-platform";

/// Most rows of one call of an import, and most of them with a password, which takes long to hash.
pub const MAX_IMPORT_ROWS: usize = 500;
pub const MAX_IMPORT_PASSWORDS: usize = 25;

/// What the name of an edge must be, and whether a text is one.
pub const EDGE_NAME_RULE: &str = "must have 1 to 100 visible ASCII characters";
pub fn is_edge_name(text: &str) -> bool {
    (1..=100).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

/// What a field is told whose id is not one.
pub const NOT_AN_ID: &str = "must be a UUID in its canonical form";

/// Whether a text is a UUID in the one form that tables hold: lower-case, hyphenated. Others would name the same row
/// in two ways.
pub fn is_canonical_id(text: &str) -> bool {
    let mut buffer = uuid::Uuid::encode_buffer();
    uuid::Uuid::try_parse(text).is_ok_and(|id| id.hyphenated().encode_lower(&mut buffer) == text)
}

/// A time as it travels over gRPC.
pub fn to_timestamp(time: chrono::DateTime<chrono::Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.timestamp(), nanos: time.timestamp_subsec_nanos() as i32 }
}

/// A time that came over gRPC; `None` when it is outside the calendar.
pub fn from_timestamp(time: prost_types::Timestamp) -> Option<chrono::DateTime<chrono::Utc>> {
    chrono::DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?)
}
