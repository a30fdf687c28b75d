use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use uuid::Uuid;

use super::{count, new_user, refusal, service};
use crate::newcomers::welcome_all;
use crate::subscriptions;

#[sqlx::test(migrations = false)]
async fn every_account_gets_a_subscription_whether_it_looks_or_not(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, identity) = service(options, database).await;
    let mut users = Vec::new();
    for _ in 0..5 {
        users.push(new_user(&service).await);
    }
    let looked = subscriptions::find(&service.pool, &users[0]).await.expect("a subscription");
    // One is deleted between the telling and the making.
    users.insert(2, Uuid::now_v7().to_string());
    identity.newcomers.lock().expect("no panic").clone_from(&users);

    identity.away.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(refusal(welcome_all(&service).await).0, "GW001");
    identity.away.store(false, std::sync::atomic::Ordering::SeqCst);
    let (one, other) = tokio::join!(welcome_all(&service), welcome_all(&service));
    one.and(other).expect("welcomed");
    assert_eq!(count(&service, "subscriptions").await, 5);
    assert_eq!(subscriptions::find(&service.pool, &users[0]).await.expect("the same"), looked);
    assert!(identity.newcomers.lock().expect("no panic").is_empty(), "all are known");
}
