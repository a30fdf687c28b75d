//! Lists of accounts.

use axum::Extension;
use axum::extract::State;
use contract::identity::{ListUsersRequest, UserFilter};
use contract::{Outcome, Role, Tier, UserSort};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::json::Parameters;
use crate::openapi::kinds;
use crate::routes::asked::{Reader, named};
use crate::routes::device;
use crate::routes::subscriptions::pages;
use crate::routes::user::UserBody;
use crate::services::{Services, from_identity};

const MAX_PAGE: i32 = 1_000_000;
const MAX_PAGE_SIZE: i32 = 100;

/// All as text, so that every parameter that is wrong can be named at once.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    /// Which page; the first by default.
    #[param(value_type = Option<i32>, minimum = 1, maximum = 1_000_000, example = 1)]
    page: Option<String>,
    /// Most accounts of a page; 20 by default.
    #[param(value_type = Option<i32>, minimum = 1, maximum = 100, example = 20)]
    page_size: Option<String>,
    /// A part of the e-mail address.
    #[param(max_length = 255, example = "@example.com")]
    email: Option<String>,
    #[param(pattern = "^[A-Za-z0-9._-]*$", max_length = 100, example = "web")]
    client_id: Option<String>,
    #[param(value_type = Option<kinds::Role>)]
    role: Option<String>,
    #[param(value_type = Option<kinds::Tier>)]
    tier: Option<String>,
    #[param(value_type = Option<bool>)]
    is_active: Option<String>,
    #[param(value_type = Option<kinds::UserOrder>)]
    sort_by: Option<String>,
    /// Descending by default.
    #[param(pattern = "^(asc|desc)?$", example = "desc")]
    sort_order: Option<String>,
}

impl Asked {
    fn request(self) -> Outcome<ListUsersRequest> {
        let mut reader = Reader::default();
        let filter = UserFilter {
            email: self.email.filter(|text| !text.is_empty()),
            client_id: self.client_id.filter(|text| !text.is_empty()),
            role: reader.read("role", self.role, named::<Role>),
            tier: reader.read("tier", self.tier, named::<Tier>),
            is_active: reader.read("is_active", self.is_active, |text| {
                text.parse().map_err(|_| "must be true or false".to_owned())
            }),
        };
        let ascending = reader.read("sort_order", self.sort_order, |text| match text {
            "asc" => Ok(true),
            "desc" => Ok(false),
            _ => Err("must be asc or desc".to_owned()),
        });
        let request = ListUsersRequest {
            actor_id: String::new(),
            device: None,
            filter: Some(filter),
            page: reader.number("page", self.page, MAX_PAGE).unwrap_or_default(),
            page_size: reader.number("page_size", self.page_size, MAX_PAGE_SIZE).unwrap_or_default(),
            sort_by: reader.read("sort_by", self.sort_by, named::<UserSort>).unwrap_or_default(),
            ascending: ascending.unwrap_or_default(),
        };
        reader.finish(request)
    }
}

#[derive(Serialize, ToSchema)]
pub struct Users {
    users: Vec<UserBody>,
    #[schema(value_type = kinds::Count)]
    total_count: i64,
    #[schema(example = 1)]
    page: i32,
    #[schema(example = 20)]
    page_size: i32,
    #[schema(value_type = kinds::Count)]
    total_pages: i64,
}

/// Newest first unless asked otherwise.
#[utoipa::path(
    get,
    path = "",
    operation_id = "list_users",
    summary = "List accounts",
    description = "Newest first unless asked otherwise. An empty parameter is an absent one.",
    params(Asked),
    responses((status = 200, body = Users)),
)]
pub async fn list(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Parameters(asked): Parameters<Asked>,
) -> Answer<axum::Json<Users>> {
    let mut request = asked.request()?;
    request.actor_id = caller.user_id().to_owned();
    request.device = Some(device(&context, &headers));
    let answer = from_identity(services.admin().list_users(context.call(request)).await)?;
    let users: Outcome<Vec<UserBody>> = answer.users.into_iter().map(UserBody::try_from).collect();
    Ok(axum::Json(Users {
        users: users?,
        total_count: answer.total_count,
        page: answer.page,
        page_size: answer.page_size,
        total_pages: pages(answer.total_count, answer.page_size),
    }))
}
