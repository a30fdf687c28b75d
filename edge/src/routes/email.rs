//! `/api/v1/auth/email` and `/api/v1/auth/password`: what goes by mail. Tokens come in bodies alone, which nothing logs.

use axum::Extension;
use axum::extract::State;
use contract::identity::{
    ForgotPasswordRequest, ResendVerificationRequest, ResetPasswordRequest, VerifyEmailRequest,
};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Edge, Message, device};
use crate::answer::Answer;
use crate::claims::Person;
use crate::front::RequestContext;
use crate::json::Json;
use crate::openapi::kinds;
use crate::services::{Services, from_identity};

pub fn routes() -> OpenApiRouter<Edge> {
    OpenApiRouter::default()
        .routes(routes!(resend))
        .routes(routes!(verify))
        .routes(routes!(forgot))
        .routes(routes!(reset))
}

#[utoipa::path(
    post,
    path = "/email/resend",
    operation_id = "resend_verification",
    summary = "Send the link that verifies the e-mail address again",
    responses(
        (status = 200, body = Message, description = "It is verified already"),
        (status = 202, body = Message, description = "A mail is on its way")
    ),
    extensions(("x-errors" = json!(["AUTH005"])), ("x-people-only" = json!(true))),
)]
async fn resend(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Answer<(StatusCode, axum::Json<Message>)> {
    let user_id = caller.user_id().to_owned();
    let request = ResendVerificationRequest { user_id, device: Some(device(&context, &headers)) };
    let answer = from_identity(services.auth().resend_verification(context.call(request)).await)?;
    Ok(if answer.already_verified {
        (StatusCode::OK, Message::says("The e-mail address is verified already"))
    } else {
        (StatusCode::ACCEPTED, Message::says("A mail with a link is on its way"))
    })
}

#[derive(Deserialize, ToSchema)]
#[schema(as = VerifyEmail)]
struct Verify {
    #[schema(value_type = kinds::OpaqueToken)]
    token: String,
}

#[utoipa::path(
    post,
    path = "/email/verify",
    operation_id = "verify_email",
    summary = "Verify the e-mail address with the token of a mail",
    request_body = Verify,
    responses((status = 200, body = Message)),
    security(()),
    extensions(("x-errors" = json!(["AUTH003"]))),
)]
async fn verify(
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(Verify { token }): Json<Verify>,
) -> Answer<axum::Json<Message>> {
    let request = VerifyEmailRequest { token, device: Some(device(&context, &headers)) };
    from_identity(services.auth().verify_email(context.call(request)).await)?;
    Ok(Message::says("The e-mail address is verified"))
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ForgotPassword)]
struct Forgot {
    #[schema(example = "ada@example.com")]
    email: String,
}

/// The same answer whether there is such an account or not.
#[utoipa::path(
    post,
    path = "/password/forgot",
    operation_id = "forgot_password",
    summary = "Have a link to a new password sent",
    description = "The same answer whether there is such an account or not.",
    request_body = Forgot,
    responses((status = 202, body = Message)),
    security(()),
    extensions(("x-errors" = json!(["GW003"]))),
)]
async fn forgot(
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(Forgot { email }): Json<Forgot>,
) -> Answer<(StatusCode, axum::Json<Message>)> {
    let request = ForgotPasswordRequest { email, device: Some(device(&context, &headers)) };
    from_identity(services.auth().forgot_password(context.call(request)).await)?;
    let message = "If there is an account with this address, a mail with a link is on its way";
    Ok((StatusCode::ACCEPTED, Message::says(message)))
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ResetPassword)]
struct Reset {
    #[schema(value_type = kinds::OpaqueToken)]
    token: String,
    #[schema(value_type = kinds::NewPassword)]
    new_password: String,
}

#[utoipa::path(
    post,
    path = "/password/reset",
    operation_id = "reset_password",
    summary = "Set a new password with the token of a mail",
    description = "Ends all sessions and API keys of the account.",
    request_body = Reset,
    responses((status = 200, body = Message)),
    security(()),
    extensions(("x-errors" = json!(["AUTH003", "USER003", "GW003"]))),
)]
async fn reset(
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(Reset { token, new_password }): Json<Reset>,
) -> Answer<axum::Json<Message>> {
    let device = Some(device(&context, &headers));
    let request = ResetPasswordRequest { token, new_password, device };
    from_identity(services.auth().reset_password(context.call(request)).await)?;
    Ok(Message::says("Password changed; all sessions and API keys have ended"))
}
