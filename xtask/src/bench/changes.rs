//! Changes of accounts at a fixed pace, through the calls that make them: sign-ins, ends of sessions, new roles.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use contract::identity::admin_service_client::AdminServiceClient;
use contract::identity::auth_service_client::AuthServiceClient;
use contract::identity::{EndUserSessionsRequest, LoginRequest, RegisterRequest, UpdateUserRequest};
use futures_util::future::try_join_all;
use sqlx::MySqlConnection;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::grpc::{Plane, plane};
use crate::Outcome;

/// Who change something at once.
const CHANGERS: usize = 8;
const PASSWORD: &str = "correct horse battery";

/// Changes accounts.
pub struct Changes {
    changers: Vec<Changer>,
}

/// Changes one account, in the name of an administrator.
struct Changer {
    auth: AuthServiceClient<Plane>,
    administration: AdminServiceClient<Plane>,
    actor_id: String,
    user_id: String,
    email: String,
    made: usize,
}

impl Changes {
    /// Makes the accounts at these replicas, in turn, and an administrator for them.
    pub async fn prepare(
        replicas: &[SocketAddr],
        token: &str,
        database: &mut MySqlConnection,
    ) -> Outcome<Self> {
        let planes = try_join_all(replicas.iter().map(|replica| plane(*replica, token))).await?;
        let (actor_id, _) = register(&planes[0]).await?;
        sqlx::query("UPDATE users SET role = 'admin' WHERE id = ?").bind(&actor_id).execute(database).await?;
        let mut changers = Vec::new();
        for number in 0..CHANGERS {
            let plane = &planes[number % planes.len()];
            let (user_id, email) = register(plane).await?;
            changers.push(Changer {
                auth: AuthServiceClient::new(plane.clone()),
                administration: AdminServiceClient::new(plane.clone()),
                actor_id: actor_id.clone(),
                user_id,
                email,
                made: 0,
            });
        }
        Ok(Changes { changers })
    }

    /// Makes so many changes a second for so long. Gives how many were made.
    pub async fn run(&mut self, per_second: u32, length: Duration) -> Outcome<usize> {
        let until = Instant::now() + length;
        let gap = Duration::from_secs(1) * CHANGERS as u32 / per_second;
        let before: usize = self.changers.iter().map(|changer| changer.made).sum();
        let running = self.changers.iter_mut().zip(0..).map(|(changer, number)| async move {
            let first = tokio::time::Instant::now() + gap * number / CHANGERS as u32;
            let mut ticks = tokio::time::interval_at(first, gap);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while Instant::now() < until {
                ticks.tick().await;
                changer.change().await?;
            }
            Outcome::Ok(())
        });
        try_join_all(running).await?;
        Ok(self.changers.iter().map(|changer| changer.made).sum::<usize>() - before)
    }
}

impl Changer {
    /// One that edges have to learn of: three new roles, then a sign-in whose session is ended.
    async fn change(&mut self) -> Outcome {
        self.made += 1;
        if self.made.is_multiple_of(4) {
            let (email, password) = (self.email.clone(), PASSWORD.to_owned());
            self.auth.login(LoginRequest { email, password, device: None }).await?;
            let request = EndUserSessionsRequest {
                actor_id: self.actor_id.clone(),
                device: None,
                user_id: self.user_id.clone(),
            };
            return Ok(self.administration.end_user_sessions(request).await.map(drop)?);
        }
        let role = if self.made % 2 == 1 { "moderator" } else { "user" };
        let request = UpdateUserRequest {
            actor_id: self.actor_id.clone(),
            device: None,
            user_id: self.user_id.clone(),
            role: Some(role.to_owned()),
            is_active: None,
            email_verified: None,
        };
        Ok(self.administration.update_user(request).await.map(drop)?)
    }
}

/// A new account: its id and its e-mail.
async fn register(plane: &Plane) -> Outcome<(String, String)> {
    let email = format!("{}@example.com", Uuid::now_v7().simple());
    let request = RegisterRequest {
        email: email.clone(),
        password: PASSWORD.to_owned(),
        client_id: "web".to_owned(),
        ..RegisterRequest::default()
    };
    let answer = AuthServiceClient::new(plane.clone()).register(request).await?.into_inner();
    let user = answer.tokens.and_then(|tokens| tokens.user).ok_or("an account without a user")?;
    Ok((user.id, email))
}
