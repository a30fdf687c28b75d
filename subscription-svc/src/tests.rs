//! Rules that only a real database can show, with a make-believe identity-svc on a real socket where one is called.

use std::sync::{Arc, Mutex};

use chassis::grpc::{InternalToken, channel};
use contract::identity::user_service_server::{UserService, UserServiceServer};
use contract::identity::{
    ChangePasswordRequest, ChangePasswordResponse, DeleteUserRequest, DeleteUserResponse, GetUserRequest,
    GetUserResponse, SetTierRequest, SetTierResponse, UpdateProfileRequest, UpdateProfileResponse,
};
use contract::subscription::{Actor, CreateSubscriptionRequest, RecordUsageRequest};
use contract::{ErrorCode, Tier};
use sqlx::{Executor, MySqlPool};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::outbox::Relay;
use crate::service::Service;
use crate::{administration, subscriptions, usage};

/// Remembers the tiers that it was told, and can be away.
#[derive(Clone, Default)]
struct Identity(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    tiers: Vec<SetTierRequest>,
    away: bool,
}

#[tonic::async_trait]
impl UserService for Identity {
    async fn set_tier(&self, request: Request<SetTierRequest>) -> Result<Response<SetTierResponse>, Status> {
        let mut told = self.0.lock().expect("not poisoned");
        if told.away {
            return Err(Status::unavailable("away"));
        }
        told.tiers.push(request.into_inner());
        Ok(Response::new(SetTierResponse {}))
    }

    async fn get_user(&self, _: Request<GetUserRequest>) -> Result<Response<GetUserResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn update_profile(
        &self,
        _: Request<UpdateProfileRequest>,
    ) -> Result<Response<UpdateProfileResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn change_password(
        &self,
        _: Request<ChangePasswordRequest>,
    ) -> Result<Response<ChangePasswordResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_user(
        &self,
        _: Request<DeleteUserRequest>,
    ) -> Result<Response<DeleteUserResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// The tables, with as much of identity-svc's `users` as the foreign keys need.
async fn service(pool: MySqlPool) -> (Service, Identity) {
    let users =
        "CREATE TABLE users (id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY)";
    pool.execute(users).await.expect("users");
    crate::migrate(&pool).await.expect("migrated");
    let identity = Identity::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let server = tonic::transport::Server::builder().add_service(UserServiceServer::new(identity.clone()));
    tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
    let token = InternalToken::new("0123456789abcdef0123456789abcdef".into());
    let channel = channel(&[address.parse().expect("a URL")], &token);
    let relay = Relay::new(pool.clone(), channel.clone());
    (
        Service {
            pool,
            identity: channel,
            relay,
        },
        identity,
    )
}

async fn user(service: &Service) -> String {
    let id = Uuid::now_v7().to_string();
    sqlx::query("INSERT INTO users (id) VALUES (?)")
        .bind(&id)
        .execute(&service.pool)
        .await
        .expect("a user");
    id
}

fn record(user_id: &str, delta: i32, key: &str) -> RecordUsageRequest {
    let (resource, idempotency_key) = ("personas".to_owned(), key.to_owned());
    RecordUsageRequest {
        user_id: user_id.to_owned(),
        resource,
        delta,
        idempotency_key,
    }
}

async fn used(service: &Service, user_id: &str) -> i64 {
    usage::check(service, user_id, "personas")
        .await
        .expect("a quota")
        .used
}

#[sqlx::test(migrations = false)]
async fn two_first_reads_at_once_make_one_subscription(pool: MySqlPool) {
    let (service, _) = service(pool).await;
    let user = user(&service).await;
    let reads = (0..8).map(|_| {
        let (pool, user) = (service.pool.clone(), user.clone());
        tokio::spawn(async move {
            let mut connection = pool.acquire().await.expect("a connection");
            subscriptions::find(&mut connection, &user)
                .await
                .expect("a subscription")
                .id
        })
    });
    let mut ids = Vec::new();
    for read in reads.collect::<Vec<_>>() {
        ids.push(read.await.expect("read"));
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let mut connection = service.pool.acquire().await.expect("a connection");
    let nobody = subscriptions::find(&mut connection, &Uuid::now_v7().to_string())
        .await
        .expect_err("nobody");
    assert_eq!(nobody.code(), ErrorCode::UserNotFound);
}

#[sqlx::test(migrations = false)]
async fn a_count_counts_once_for_each_key_and_never_falls_below_nought(pool: MySqlPool) {
    let (service, _) = service(pool).await;
    let user = user(&service).await;
    usage::record(&service, record(&user, -1, "a"))
        .await
        .expect("recorded");
    assert_eq!(used(&service, &user).await, 0);
    let repeated = (0..8).map(|_| {
        let (service, request) = (service.clone(), record(&user, 1, "b"));
        tokio::spawn(async move { usage::record(&service, request).await })
    });
    for repeat in repeated.collect::<Vec<_>>() {
        repeat.await.expect("ran").expect("recorded");
    }
    assert_eq!(used(&service, &user).await, 1);
    usage::record(&service, record(&user, -1, "c"))
        .await
        .expect("recorded");
    usage::record(&service, record(&user, -1, "d"))
        .await
        .expect("recorded");
    assert_eq!(used(&service, &user).await, 0);
}

#[sqlx::test(migrations = false)]
async fn tier_changes_reach_identity_in_order_once_it_is_back(pool: MySqlPool) {
    let (service, identity) = service(pool).await;
    let user = user(&service).await;
    let actor = Some(Actor {
        role: "admin".to_owned(),
        ..Actor::default()
    });
    identity.0.lock().expect("not poisoned").away = true;
    for tier in ["basic", "premium", "premium", "free"] {
        let request = CreateSubscriptionRequest {
            actor: actor.clone(),
            user_id: user.clone(),
            tier: tier.to_owned(),
            ..CreateSubscriptionRequest::default()
        };
        administration::create(&service, request).await.expect("changed");
    }
    assert!(service.relay.send_all().await.is_err());
    identity.0.lock().expect("not poisoned").away = false;
    service.relay.send_all().await.expect("sent");
    let told = identity.0.lock().expect("not poisoned");
    let tiers: Vec<&str> = told.tiers.iter().map(|request| request.tier.as_str()).collect();
    assert_eq!(
        tiers,
        ["basic", "premium", "free"],
        "what does not change is not told"
    );
    assert!(
        told.tiers
            .windows(2)
            .all(|pair| pair[0].revision < pair[1].revision)
    );
}

#[sqlx::test(migrations = false)]
async fn only_administrators_change_subscriptions_and_the_service_asks_itself(pool: MySqlPool) {
    let (service, _) = service(pool).await;
    let user = user(&service).await;
    let with = |role: &str, permissions: &[&str]| {
        let permissions = permissions.iter().map(|name| (*name).to_owned()).collect();
        Some(Actor {
            user_id: user.clone(),
            role: role.to_owned(),
            permissions,
        })
    };
    let create = async |actor| {
        let request = CreateSubscriptionRequest {
            actor,
            user_id: user.clone(),
            tier: Tier::Basic.name().to_owned(),
            ..CreateSubscriptionRequest::default()
        };
        administration::create(&service, request)
            .await
            .map(drop)
            .map_err(|failure| failure.code())
    };
    assert_eq!(create(None).await, Err(ErrorCode::Forbidden));
    assert_eq!(
        create(with("moderator", &["admin.users"])).await,
        Err(ErrorCode::Forbidden)
    );
    assert_eq!(create(with("user", &["admin.subscriptions"])).await, Ok(()));
    assert_eq!(create(with("admin", &[])).await, Ok(()));
}
