//! Before anything is measured: does everyone do the work? A peer that forwards bad tokens would be fast for nothing.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::peers::{ECHO_PATH, GET_PATH};
use super::stage::Server;
use super::tokens::Mint;
use crate::Outcome;

/// A peer that verifies tokens says who the caller is, believes no client's word on that, and refuses bad tokens.
///
/// # Errors
/// What it does wrong.
pub async fn verifies(name: &str, server: &Server, mint: &Mint) -> Outcome {
    let minted = mint.token()?;
    let forged = "X-User-ID: forged\r\nx-user-role: admin\r\nX-User-Forged: yes\r\n";
    let answer = exchange(server, ECHO_PATH, Some(&minted.token), forged).await?;
    let claims = &minted.claims;
    let (role, tier) = (claims.role.name(), claims.tier.name());
    let who = format!("{}|{}|{role}|{tier}|{}|", claims.user_id, claims.client_id, claims.email);
    let permissions = claims.permissions.iter().all(|permission| answer.contains(permission));
    if !answer.starts_with("HTTP/1.1 200 ")
        || !answer.contains(&who)
        || !permissions
        || answer.contains("yes")
    {
        return Err(
            format!("{name}: the upstream should have got `{who}…` alone. The answer:\n{answer}").into()
        );
    }
    let (forged, expired) = (mint.forged()?, mint.expired()?.token);
    for (what, token) in [("no", None), ("a forged", Some(&forged)), ("an expired", Some(&expired))] {
        let answer = exchange(server, GET_PATH, token.map(String::as_str), "").await?;
        if !answer.starts_with("HTTP/1.1 401 ") {
            return Err(format!("{name} should refuse {what} token. The answer:\n{answer}").into());
        }
    }
    forwards(name, server, mint).await
}

/// A peer hands through what the upstream answers.
///
/// # Errors
/// What it does wrong.
pub async fn forwards(name: &str, server: &Server, mint: &Mint) -> Outcome {
    let answer = exchange(server, GET_PATH, Some(&mint.token()?.token), "").await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    if head.starts_with("HTTP/1.1 200 ") && body.len() >= 1024 && body.contains("padding") {
        return Ok(());
    }
    Err(format!("{name} should forward 1 KiB of JSON. The answer:\n{answer}").into())
}

/// One request on one connection, and the whole answer as text.
async fn exchange(server: &Server, path: &str, token: Option<&str>, headers: &str) -> Outcome<String> {
    let mut stream = TcpStream::connect(server.address).await?;
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n{token}{headers}\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
