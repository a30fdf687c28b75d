//! The journeys of users, operators and attackers, over real sockets. The files mirror the tree of URLs.

mod admin_subscriptions;
mod admin_transfer;
mod admin_users;
mod auth;
mod billing;
mod checkout;
mod connections;
mod credentials;
mod errors;
mod gateway;
mod grpc;
mod idempotency;
mod internal;
mod keys;
mod live;
mod outages;
mod projects;
mod quota;
mod rate;
mod replicas;
mod sessions;
mod subscription;
mod traces;
mod user;
mod webhooks;
mod ws;
