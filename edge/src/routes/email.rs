//! `/api/v1/auth/email` and `/api/v1/auth/password`: what goes by mail. Tokens come in bodies alone, which nothing logs.

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Router};
use contract::identity::{
    ForgotPasswordRequest, ResendVerificationRequest, ResetPasswordRequest, VerifyEmailRequest,
};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Edge, device};
use crate::answer::Answer;
use crate::claims::Person;
use crate::front::RequestContext;
use crate::json::Json;
use crate::services::{Services, from_identity};

pub fn routes() -> Router<Edge> {
    Router::new()
        .route("/email/resend", post(resend))
        .route("/email/verify", post(verify))
        .route("/password/forgot", post(forgot))
        .route("/password/reset", post(reset))
}

async fn resend(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Answer<(StatusCode, axum::Json<Value>)> {
    let user_id = caller.user_id().to_owned();
    let request = ResendVerificationRequest { user_id, device: Some(device(&context, &headers)) };
    let answer = from_identity(services.auth().resend_verification(context.call(request)).await)?;
    Ok(if answer.already_verified {
        (StatusCode::OK, axum::Json(json!({ "message": "The e-mail address is verified already" })))
    } else {
        (StatusCode::ACCEPTED, axum::Json(json!({ "message": "A mail with a link is on its way" })))
    })
}

#[derive(Deserialize)]
struct Verify {
    token: String,
}

async fn verify(
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(Verify { token }): Json<Verify>,
) -> Answer<axum::Json<Value>> {
    let request = VerifyEmailRequest { token, device: Some(device(&context, &headers)) };
    from_identity(services.auth().verify_email(context.call(request)).await)?;
    Ok(axum::Json(json!({ "message": "The e-mail address is verified" })))
}

#[derive(Deserialize)]
struct Forgot {
    email: String,
}

/// The same answer whether there is such an account or not.
async fn forgot(
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(Forgot { email }): Json<Forgot>,
) -> Answer<(StatusCode, axum::Json<Value>)> {
    let request = ForgotPasswordRequest { email, device: Some(device(&context, &headers)) };
    from_identity(services.auth().forgot_password(context.call(request)).await)?;
    let message = "If there is an account with this address, a mail with a link is on its way";
    Ok((StatusCode::ACCEPTED, axum::Json(json!({ "message": message }))))
}

#[derive(Deserialize)]
struct Reset {
    token: String,
    new_password: String,
}

async fn reset(
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(Reset { token, new_password }): Json<Reset>,
) -> Answer<axum::Json<Value>> {
    let device = Some(device(&context, &headers));
    let request = ResetPasswordRequest { token, new_password, device };
    from_identity(services.auth().reset_password(context.call(request)).await)?;
    Ok(axum::Json(json!({ "message": "Password changed; all sessions have ended" })))
}
