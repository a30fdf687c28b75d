//! What an account has used, day by day.

use axum::Extension;
use axum::extract::State;
use contract::subscription::{ListUsageDaysRequest, UsageDay};
use serde::{Deserialize, Serialize};

use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::json::{Parameters, PathId};
use crate::routes::subscriptions::actor;
use crate::services::{Services, from_subscription};

#[derive(Deserialize)]
pub struct Range {
    #[serde(default)]
    from: String,
    #[serde(default)]
    to: String,
}

#[derive(Serialize)]
struct DayBody {
    date: String,
    personas: i64,
    projects: i64,
    content: i64,
}

impl From<UsageDay> for DayBody {
    fn from(day: UsageDay) -> Self {
        let UsageDay { date, personas, projects, content } = day;
        DayBody { date, personas, projects, content }
    }
}

#[derive(Serialize)]
pub struct UsageDays {
    user_id: String,
    days: Vec<DayBody>,
}

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
