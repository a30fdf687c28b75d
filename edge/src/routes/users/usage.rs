//! What an account has used, day by day.

use axum::Extension;
use axum::extract::State;
use contract::subscription::{ListUsageDaysRequest, UsageDay};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::json::{Parameters, PathId};
use crate::openapi::kinds;
use crate::routes::subscriptions::actor;
use crate::services::{Services, from_subscription};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Range {
    /// The first day; 30 days by default.
    #[serde(default)]
    #[param(pattern = "^([0-9]{4}-[0-9]{2}-[0-9]{2})?$", example = "2026-01-01")]
    from: String,
    /// The last day; today by default.
    #[serde(default)]
    #[param(pattern = "^([0-9]{4}-[0-9]{2}-[0-9]{2})?$", example = "2026-01-31")]
    to: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = UsageDay)]
struct DayBody {
    #[schema(value_type = kinds::Day)]
    date: String,
    #[schema(value_type = kinds::Count)]
    personas: i64,
    #[schema(value_type = kinds::Count)]
    projects: i64,
    #[schema(value_type = kinds::Count)]
    content: i64,
}

impl From<UsageDay> for DayBody {
    fn from(day: UsageDay) -> Self {
        let UsageDay { date, personas, projects, content } = day;
        DayBody { date, personas, projects, content }
    }
}

#[derive(Serialize, ToSchema)]
pub struct UsageDays {
    #[schema(value_type = kinds::Id)]
    user_id: String,
    days: Vec<DayBody>,
}

#[utoipa::path(
    get,
    path = "/{user_id}/usage",
    operation_id = "list_usage_days",
    summary = "Look at what an account had used, day by day",
    description = "At most 400 days at once.",
    params(("user_id" = kinds::Id, Path, description = "The account"), Range),
    responses((status = 200, body = UsageDays)),
    extensions(("x-errors" = json!(["USER001", "SUB001"]))),
)]
pub async fn days(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    PathId(user_id): PathId,
    Parameters(Range { from, to }): Parameters<Range>,
) -> Answer<axum::Json<UsageDays>> {
    let request = ListUsageDaysRequest { actor: actor(&caller), user_id: user_id.clone(), from, to };
    let answer = from_subscription(services.usage().list_usage_days(context.call(request)).await)?;
    Ok(axum::Json(UsageDays { user_id, days: answer.days.into_iter().map(DayBody::from).collect() }))
}
