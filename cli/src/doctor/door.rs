//! Whether a service lets us in.

use chassis::grpc::InternalChannel;
use contract::identity::ValidateTokenRequest;
use contract::identity::auth_service_client::AuthServiceClient;
use contract::subscription::GetSubscriptionRequest;
use contract::subscription::subscription_service_client::SubscriptionServiceClient;
use contract::{ErrorCode, Failure};
use tonic::{Code, Status};

use crate::deployment::Process;

use Process::SubscriptionSvc;

/// How a service takes a call of ours.
#[derive(Debug, PartialEq, Eq)]
pub enum Door {
    Admits,
    /// It does not know our token.
    Refuses,
    /// It is no service of that name.
    IsAnothers,
    /// Something else that it says.
    Says(String),
}

/// Asks for something that a service refuses for its content and without looking into its tables.
pub async fn knock(service: Process, channel: InternalChannel) -> Door {
    let refusal = match service {
        SubscriptionSvc => {
            let request = GetSubscriptionRequest { user_id: "-".to_owned() };
            SubscriptionServiceClient::new(channel).get_subscription(request).await.err()
        }
        _ => {
            let request = ValidateTokenRequest { access_token: "-".to_owned() };
            AuthServiceClient::new(channel).validate_token(request).await.err()
        }
    };
    refusal.map_or(Door::IsAnothers, |status| judged(status, service))
}

/// The door refuses in words alone; rules do it with a code of the error table.
fn judged(status: Status, service: Process) -> Door {
    let expected =
        if service == SubscriptionSvc { ErrorCode::InvalidRequest } else { ErrorCode::TokenInvalid };
    let grpc = status.code();
    let failure = Failure::from_status(status, service.name());
    match grpc {
        _ if failure.code() == expected => Door::Admits,
        Code::Unauthenticated if failure.code() == ErrorCode::Internal => Door::Refuses,
        Code::Unimplemented => Door::IsAnothers,
        _ => Door::Says(format!("{grpc:?}, {failure}")),
    }
}

#[cfg(test)]
mod tests {
    use Process::IdentitySvc;

    use super::*;

    #[test]
    fn a_service_admits_by_the_refusal_that_its_rule_gives_and_by_no_other() {
        let rule = |code| Failure::new(code).to_status();
        let door = Status::unauthenticated("the internal token is missing or wrong");
        for (status, service, expected) in [
            (rule(ErrorCode::TokenInvalid), IdentitySvc, Door::Admits),
            (rule(ErrorCode::InvalidRequest), SubscriptionSvc, Door::Admits),
            (door.clone(), IdentitySvc, Door::Refuses),
            (door, SubscriptionSvc, Door::Refuses),
            (Status::unimplemented(""), IdentitySvc, Door::IsAnothers),
        ] {
            assert_eq!(judged(status, service), expected);
        }
        for status in [rule(ErrorCode::TokenInvalid), rule(ErrorCode::Overloaded), Status::unknown("?")] {
            assert!(matches!(judged(status, SubscriptionSvc), Door::Says(_)));
        }
    }
}
