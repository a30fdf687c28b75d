//! The gRPC services: parse → call → encode.

mod admin;
mod api_keys;
mod auth;
mod live;
mod projects;
mod users;

use chassis::drain::Drain;
use contract::identity::admin_service_server::AdminServiceServer;
use contract::identity::api_key_service_server::ApiKeyServiceServer;
use contract::identity::auth_service_server::AuthServiceServer;
use contract::identity::live_claims_service_server::LiveClaimsServiceServer;
use contract::identity::project_service_server::ProjectServiceServer;
use contract::identity::user_service_server::UserServiceServer;
use tonic::service::Routes;

use crate::identity::Identity;

/// All services of the process.
pub fn services(identity: &Identity, drain: Drain) -> Routes {
    Routes::new(AuthServiceServer::new(auth::Auth(identity.clone())))
        .add_service(UserServiceServer::new(users::Users(identity.clone())))
        .add_service(ProjectServiceServer::new(projects::Projects(identity.clone())))
        .add_service(AdminServiceServer::new(admin::Administration(identity.clone())))
        .add_service(ApiKeyServiceServer::new(api_keys::ApiKeys(identity.clone())))
        .add_service(LiveClaimsServiceServer::new(live::LiveClaims { identity: identity.clone(), drain }))
}
