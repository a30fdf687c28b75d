use contract::identity::auth_service_client::AuthServiceClient;
use contract::identity::{LoginRequest, ValidateTokenRequest};
use e2e::{INTERNAL_TOKEN, Sandbox};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};
use tonic_types::StatusExt;

/// A call that carries a token.
pub fn call<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::try_from(format!("Bearer {token}")).expect("a value");
    request.metadata_mut().insert("authorization", value);
    request
}

#[tokio::test]
async fn internal_services_sign_users_in_and_look_tokens_up() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let address = format!("http://{}", sandbox.identity[0]);
    let mut client = AuthServiceClient::connect(address).await.expect("a connection");
    let login = |password: &str| LoginRequest {
        email: user.email.clone(),
        password: password.to_owned(),
        device: None,
    };
    let answer =
        client.login(call(login(user.password), INTERNAL_TOKEN)).await.expect("signed in").into_inner();
    let access_token = answer.tokens.expect("tokens").access_token;
    let lookup = ValidateTokenRequest { access_token };
    let known =
        client.validate_token(call(lookup.clone(), INTERNAL_TOKEN)).await.expect("valid").into_inner();
    assert_eq!(known.user.expect("a user").id, user.id);

    let refused = client.login(call(login("wrong"), INTERNAL_TOKEN)).await.expect_err("refused");
    let details = refused.get_error_details();
    let info = details.error_info().expect("ErrorInfo");
    assert_eq!(
        (refused.code(), info.reason.as_str(), info.domain.as_str()),
        (Code::Unauthenticated, "AUTH001", "persona-platform")
    );

    for request in [Request::new(lookup.clone()), call(lookup, "a wrong token")] {
        let refused = client.validate_token(request).await.expect_err("refused");
        assert_eq!(
            (refused.code(), refused.get_error_details().error_info().is_some()),
            (Code::Unauthenticated, false)
        );
    }
}
