//! Whether the running processes take tokens of the configured secret. They are shown one that has expired: whoever has
//! the key says so (AUTH002), whoever has another does not know it (AUTH003). It is good for nothing.

use chassis::grpc::InternalChannel;
use chassis::settings::token_secrets;
use contract::identity::ValidateTokenRequest;
use contract::identity::auth_service_client::AuthServiceClient;
use contract::identity::live_claims_service_client::LiveClaimsServiceClient;
use contract::identity::watch_auth_events_response::Message;
use contract::identity::{KeySet, WatchAuthEventsRequest};
use contract::token::{Algorithm, Claims, Signer, SigningKey};
use contract::{ErrorCode, Failure};
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use http_body_util::Full;
use secrecy::SecretString;

use super::processes::{LIMIT, Reached};
use crate::deployment::{Member, Process};
use crate::http::Http;
use crate::report::{Check, names};

const SUBJECT: &str = "token key";

/// The secret that identity-svc signs with, or else the one of the edge.
pub async fn checks(members: &[Member], reached: &Reached, http: &Http) -> Option<Check> {
    let of = |process| members.iter().find(|member| member.process == process);
    let member = of(Process::IdentitySvc).or_else(|| of(Process::Edge))?;
    if member.survey.is_faulty("JWT_") {
        return Some(Check::skipped(SUBJECT, "needs the settings that are named above"));
    }
    let Some(identity) = reached.identity.first() else {
        return Some(Check::skipped(SUBJECT, "identity-svc, which knows the keys, does not let us in"));
    };
    let secret = member.read(token_secrets).ok()?.into_iter().next()?;
    let Some(keys) = key_set(identity.clone()).await else {
        return Some(Check::skipped(SUBJECT, "identity-svc does not tell its keys"));
    };
    let Some(key) = signing_key(&keys, &secret) else {
        return Some(Check::ok(SUBJECT, "tokens are signed with key pairs of identity-svc"));
    };
    let token = Signer::new(key).sign(&Claims::of_nobody(member.survey.text("JWT_AUDIENCE"))).ok()?;
    let mut answers = Vec::new();
    for identity in &reached.identity {
        answers.push((Process::IdentitySvc, at_identity(identity.clone(), &token).await));
    }
    if let Some(edge) = &reached.edge {
        answers.push((Process::Edge, at_edge(http, edge, &token).await));
    }
    Some(judged(&answers))
}

fn judged(answers: &[(Process, Option<ErrorCode>)]) -> Check {
    let mut who: Vec<&str> = Vec::new();
    let mut strangers: Vec<&str> = Vec::new();
    for (process, code) in answers {
        match code {
            Some(ErrorCode::TokenExpired) => who.push(process.name()),
            Some(ErrorCode::TokenInvalid) => strangers.push(process.name()),
            _ => {}
        }
    }
    who.dedup();
    strangers.dedup();
    if !strangers.is_empty() {
        let says = format!("{} verify tokens with another JWT_SECRET_KEY or JWT_AUDIENCE", names(&strangers));
        let remedy =
            "set both to the same in identity-svc and every edge, and restart those that have others";
        return Check::fault(SUBJECT, says, remedy);
    }
    if who.is_empty() {
        return Check::skipped(SUBJECT, "nobody said whether the secret is the one in use");
    }
    Check::ok(SUBJECT, format!("{} verify with this JWT_SECRET_KEY and JWT_AUDIENCE", names(&who)))
}

/// The keys come first in the stream; the rest of it is not taken.
pub async fn key_set(identity: InternalChannel) -> Option<KeySet> {
    let mut client = LiveClaimsServiceClient::new(identity);
    let first = async {
        let mut stream =
            client.watch_auth_events(WatchAuthEventsRequest { since: None }).await.ok()?.into_inner();
        loop {
            if let Message::KeySet(keys) = stream.message().await.ok()??.message? {
                return Some(keys);
            }
        }
    };
    tokio::time::timeout(LIMIT, first).await.ok()?
}

/// A key of the secret, if tokens of one are accepted.
fn signing_key(keys: &KeySet, secret: &SecretString) -> Option<SigningKey> {
    let of_secret = keys.keys.iter().find(|key| key.algorithm == Algorithm::Hs256.name())?;
    Some(match of_secret.kid.as_str() {
        "" => SigningKey::hs256(secret),
        kid => SigningKey::derived(secret, kid),
    })
}

async fn at_identity(identity: InternalChannel, token: &str) -> Option<ErrorCode> {
    let request = ValidateTokenRequest { access_token: token.to_owned() };
    let status = AuthServiceClient::new(identity).validate_token(request).await.err()?;
    Some(Failure::from_status(status, Process::IdentitySvc.name()).code())
}

async fn at_edge(http: &Http, edge: &str, token: &str) -> Option<ErrorCode> {
    let request = Request::get(format!("{edge}/api/v1/user/profile"));
    let request = request.header(AUTHORIZATION, format!("Bearer {token}")).body(Full::default()).ok()?;
    let answer =
        http.send(request, LIMIT).await.ok().filter(|answer| answer.status == StatusCode::UNAUTHORIZED)?;
    answer.json()["error"]["code"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;

    #[test]
    fn one_process_with_another_key_is_enough_for_a_fault() {
        let known = (Process::IdentitySvc, Some(ErrorCode::TokenExpired));
        let unknown = (Process::Edge, Some(ErrorCode::TokenInvalid));
        assert_eq!(judged(&[known]).status, Status::Ok);
        assert_eq!(judged(&[(Process::Edge, None)]).status, Status::Skipped);
        let check = judged(&[known, unknown]);
        assert!(check.status == Status::Fault && check.says.starts_with("edge verify"), "{}", check.says);
    }
}
