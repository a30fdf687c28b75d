//! The tiers on offer.

use chassis::mysql::failed;
use contract::{Failure, Outcome, Resource, Tier};
use sqlx::MySqlConnection;
use sqlx::types::Json;

struct Row {
    id: String,
    display_name: String,
    description: String,
    price_monthly_cents: i64,
    price_yearly_cents: i64,
    max_personas: i64,
    max_projects: i64,
    max_content_items: i64,
    features: Json<Vec<String>>,
    is_active: bool,
}

impl From<Row> for contract::subscription::Tier {
    fn from(row: Row) -> Self {
        contract::subscription::Tier {
            name: row.id.clone(),
            id: row.id,
            display_name: row.display_name,
            description: row.description,
            price_monthly_cents: row.price_monthly_cents,
            price_yearly_cents: row.price_yearly_cents,
            max_personas: row.max_personas,
            max_projects: row.max_projects,
            max_content_items: row.max_content_items,
            features: row.features.0,
            is_active: row.is_active,
        }
    }
}

/// All tiers, lowest first.
///
/// # Errors
/// GW001 when the database is away.
pub async fn list(connection: &mut MySqlConnection) -> Outcome<Vec<contract::subscription::Tier>> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id, display_name, description, price_monthly_cents, price_yearly_cents, max_personas, max_projects,
                  max_content_items, features AS "features: Json<Vec<String>>", is_active AS "is_active: bool"
           FROM tiers ORDER BY position"#
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// How much of a resource a tier admits.
pub struct Limit {
    /// -1 for unlimited.
    pub most: i64,
    /// Whether content counts anew each month.
    pub content_is_monthly: bool,
}

/// How much of a resource a tier admits.
///
/// # Errors
/// SRV001 when the tier has no row.
pub async fn limit(connection: &mut MySqlConnection, tier: Tier, resource: Resource) -> Outcome<Limit> {
    let row = sqlx::query!(
        r#"SELECT max_personas, max_projects, max_content_items, content_is_monthly AS "content_is_monthly: bool"
           FROM tiers WHERE id = ?"#,
        tier.name()
    )
    .fetch_optional(connection)
    .await
    .map_err(failed)?
    .ok_or_else(|| Failure::internal(format!("the tier {tier} has no row")))?;
    let most = match resource {
        Resource::Personas => row.max_personas,
        Resource::Projects => row.max_projects,
        Resource::Content => row.max_content_items,
    };
    Ok(Limit { most, content_is_monthly: row.content_is_monthly })
}
