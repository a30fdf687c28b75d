//! The kinds of values that fields have, each described once, with its limits as they are checked.

use std::borrow::Cow;

use contract::{KNOWN_PERMISSIONS, UserField};
use serde_json::{Value, json};
use utoipa::openapi::schema::{KnownFormat, Object, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $kind:ident = $schema:expr;)*) => {
        $(
        $(#[doc = $doc])*
        pub struct $kind;

        impl PartialSchema for $kind {
            fn schema() -> RefOr<Schema> {
                let mut schema: Object = $schema.into();
                schema.description = Some(concat!($($doc),*).trim().to_owned());
                Schema::Object(schema).into()
            }
        }

        impl ToSchema for $kind {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($kind))
            }
        }
        )*

        /// All of them by their names. Those of parameters alone find no way into the document by themselves.
        pub fn all() -> Vec<(&'static str, RefOr<Schema>)> {
            vec![$((stringify!($kind), $kind::schema())),*]
        }
    };
}

kinds! {
    /// A UUID in its canonical form: lower-case, hyphenated.
    Id = text("0199c0de-0000-7000-8000-000000000001")
        .format(Some(SchemaFormat::Custom("uuid".to_owned())))
        .pattern(Some("^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"));
    /// A time in UTC (RFC 3339), with microseconds.
    Time = text("2026-01-31T12:00:00.000000Z")
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    /// A day in UTC (RFC 3339).
    Day = text("2026-01-31").format(Some(SchemaFormat::KnownFormat(KnownFormat::Date)));
    /// An e-mail address. It is kept trimmed, in lower case and NFC.
    Email = text("ada@example.com")
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Email)))
        .max_length(Some(255));
    /// A password that is set: 8 characters or more (an operator may want more), none of those that everybody tries
    /// first, and not the e-mail address.
    NewPassword = text("correct horse battery")
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Password)))
        .min_length(Some(8))
        .max_length(Some(128));
    /// A password as it was set.
    Password = text("correct horse battery").format(Some(SchemaFormat::KnownFormat(KnownFormat::Password)));
    /// What an account belongs to: the frontend or customer that it was registered by.
    ClientId = text("web").pattern(Some("^[A-Za-z0-9._-]{1,100}$")).min_length(Some(1)).max_length(Some(100));
    /// What a user may do, lowest first.
    Role = names(contract::Role::ALL.iter().map(|role| role.name()));
    /// What a user has paid for, lowest first.
    Tier = names(contract::Tier::ALL.iter().map(|tier| tier.name()));
    /// What a tier limits.
    Resource = names(contract::Resource::ALL.iter().map(|resource| resource.name()));
    /// How a subscription stands.
    SubscriptionStatus = names(["active", "trialing", "past_due", "canceled", "expired"]);
    /// A permission that can be granted; `*` stands for all.
    Permission = names(KNOWN_PERMISSIONS);
    /// A column of an export of users.
    UserColumn = names(UserField::ALL.iter().map(|field| field.name()));
    /// What a list of users is sorted by.
    UserOrder = names(contract::UserSort::ALL.iter().map(|sort| sort.name()));
    /// What the audit log keeps.
    AuditAction = names(contract::AuditAction::ALL.iter().map(|action| action.name()));
    /// A code of the error table.
    ErrorCode = names(contract::ErrorCode::all().map(contract::ErrorCode::name));
    /// One line of at most 100 characters.
    Line100 = line("Ada", 100);
    /// One line of at most 255 characters.
    Line255 = line("Analytical Engines", 255);
    /// At most 500 characters.
    Line500 = text("asked for by the customer").max_length(Some(500));
    /// A telephone number, as its owner writes it.
    Phone = line("+44 20 7946 0000", 50);
    /// The http or https URL of a picture; an empty text removes it.
    AvatarUrl = line("https://example.com/ada.png", 500).pattern(Some(r"^(https?:\/\/[^\s\/\u0000-\u001f\u007f-\u009f][^\s\u0000-\u001f\u007f-\u009f]*)?$"));
    /// The name of a project: not blank, one line. Blanks at its ends are cut off.
    ProjectName = text("Moon").min_length(Some(1)).max_length(Some(255)).pattern(Some(
        r"^[^\s\u0000-\u001f\u007f-\u009f]([^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f])?$"));
    /// What a project is about: at most 16 KiB, without control characters but tabs and line ends. Empty is none.
    Description = text("To the Moon and back").max_length(Some(16 * 1024))
        .pattern(Some(r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$"));
    /// A secret that a mail or an earlier answer gave.
    OpaqueToken = text("vT3q0Qy1b6m4m2nJkq1oYw3c5hXr8z0dE7uS9aB2cD4");
    /// An access token: a JWT, signed by identity-svc.
    AccessToken = text("eyJhbGciOiJIUzI1NiIsInR5cCI6ImF0K2p3dCJ9.e30.c2lnbmF0dXJl");
    /// An API key. It is told once.
    Key = text("persona_vT3q0Qy1b6m4m2nJkq1oYw3c5hXr8z0dE7uS9aB2cD4Zm9v")
        .pattern(Some("^persona_[A-Za-z0-9_-]{47}$"));
    /// What an API key is called: not blank, one line. Blanks at its ends are cut off.
    KeyName = text("nightly").min_length(Some(1)).max_length(Some(100)).pattern(Some(
        r"^[^\s\u0000-\u001f\u007f-\u009f]([^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f])?$"));
    /// Anything that the owner wants to keep: a JSON object of at most 16 KiB.
    Preferences = ObjectBuilder::new()
        .additional_properties(Some(utoipa::openapi::schema::AdditionalProperties::FreeForm(true)))
        .examples([json!({ "theme": "dark" })]);
    /// What the audit log keeps beside an act; which facts depends on the act.
    AuditDetails = ObjectBuilder::new()
        .additional_properties(Some(utoipa::openapi::schema::AdditionalProperties::FreeForm(true)))
        .examples([json!({ "permission": "projects.manage" })]);
    /// A limit of a tier; −1 is unlimited.
    Limit = number(3).minimum(Some(-1));
    /// How many there are.
    Count = number(1).minimum(Some(0));
}

fn text(example: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).examples([example])
}

/// A text without control characters.
fn line(example: &str, longest: usize) -> ObjectBuilder {
    text(example).max_length(Some(longest)).pattern(Some(r"^[^\u0000-\u001f\u007f-\u009f]*$"))
}

fn names<'n>(names: impl IntoIterator<Item = &'n str>) -> ObjectBuilder {
    let names: Vec<&str> = names.into_iter().collect();
    text(names.first().copied().unwrap_or_default()).enum_values(Some(names))
}

fn number(example: i64) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer).examples([Value::from(example)])
}
