//! A stand-in for identity-svc: takes tiers under the same rule, counts projects as it is told to, and can be away.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use contract::identity::project_service_server::{ProjectService, ProjectServiceServer};
use contract::identity::user_service_server::{UserService, UserServiceServer};
use contract::identity::*;
use contract::{ErrorCode, Failure};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Server, Uri};
use tonic::{Request, Response, Status};

#[derive(Default)]
pub struct FakeIdentity {
    pub away: AtomicBool,
    /// Takes the next tier, and then the connection is lost before the answer.
    pub loses_an_answer: AtomicBool,
    pub projects: AtomicI64,
    /// Users whose tiers are refused, and why.
    pub refuses: Mutex<HashMap<String, ErrorCode>>,
    /// Changes of subscriptions that were approved.
    pub approved: Mutex<Vec<ApproveSubscriptionChangeRequest>>,
    /// Accounts of which it is not known yet that they have a subscription.
    pub newcomers: Mutex<Vec<String>>,
    /// Every call, in the order of arrival.
    pub calls: Mutex<Vec<SetTierRequest>>,
    /// What was newer than all before it, in the order in which it was stored.
    pub stored: Mutex<Vec<SetTierRequest>>,
}

impl FakeIdentity {
    /// The tiers that a user had, one after the other.
    pub fn tiers_of(&self, user_id: &str) -> Vec<String> {
        let stored = self.stored.lock().expect("no panic");
        let of_user = stored.iter().filter(|change| change.user_id == user_id);
        of_user.map(|change| change.tier.clone()).collect()
    }

    fn set(&self, request: SetTierRequest) -> Result<(), Status> {
        self.must_be_there()?;
        self.calls.lock().expect("no panic").push(request.clone());
        if let Some(code) = self.refuses.lock().expect("no panic").get(&request.user_id) {
            return Err(Failure::new(*code).to_status());
        }
        let mut stored = self.stored.lock().expect("no panic");
        let newer = stored
            .iter()
            .filter(|change| change.user_id == request.user_id)
            .all(|change| change.revision < request.revision);
        if newer {
            stored.push(request);
        }
        if self.loses_an_answer.swap(false, Ordering::SeqCst) {
            return Err(Status::unavailable("the connection was lost"));
        }
        Ok(())
    }

    fn must_be_there(&self) -> Result<(), Status> {
        if self.away.load(Ordering::SeqCst) { Err(Status::unavailable("away")) } else { Ok(()) }
    }
}

/// The accounts of all tests: each has its own.
static ACCOUNTS: Mutex<BTreeMap<String, User>> = Mutex::new(BTreeMap::new());

/// From now on there is this account.
pub fn know(user: User) {
    ACCOUNTS.lock().expect("no panic").insert(user.id.clone(), user);
}

fn known(user_id: &str) -> Option<User> {
    ACCOUNTS.lock().expect("no panic").get(user_id).cloned()
}

fn may_administer(user: &User) -> bool {
    user.is_active && user.permissions.iter().any(|held| held == "*" || held == "admin.subscriptions")
}

/// Listens on a free port of this machine.
pub async fn start() -> (Arc<FakeIdentity>, Uri) {
    let fake = Arc::new(FakeIdentity::default());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving = Server::builder()
        .add_service(UserServiceServer::from_arc(fake.clone()))
        .add_service(ProjectServiceServer::from_arc(fake.clone()))
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(serving);
    (fake, format!("http://{address}").parse().expect("a URI"))
}

/// Calls that subscription-svc has no business with, as `async_trait` writes them: it does not see into macros.
macro_rules! unused {
    ($($name:ident: $request:ident => $response:ident),* $(,)?) => {
        $(fn $name<'s, 'f>(
            &'s self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<$response>, Status>> + Send + 'f>>
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(std::future::ready(Err(Status::unimplemented("not for subscription-svc"))))
        })*
    };
}

#[tonic::async_trait]
impl UserService for FakeIdentity {
    async fn set_tier(&self, request: Request<SetTierRequest>) -> Result<Response<SetTierResponse>, Status> {
        assert!(request.metadata().contains_key("authorization"));
        self.set(request.into_inner()).map(|()| Response::new(SetTierResponse {}))
    }

    async fn get_user(&self, request: Request<GetUserRequest>) -> Result<Response<GetUserResponse>, Status> {
        self.must_be_there()?;
        let user = known(&request.into_inner().user_id);
        let user = user.ok_or_else(|| Failure::new(ErrorCode::UserNotFound).to_status())?;
        Ok(Response::new(GetUserResponse { user: Some(user) }))
    }

    async fn approve_subscription_change(
        &self,
        request: Request<ApproveSubscriptionChangeRequest>,
    ) -> Result<Response<ApproveSubscriptionChangeResponse>, Status> {
        self.must_be_there()?;
        let request = request.into_inner();
        if !known(&request.actor_id).is_some_and(|actor| may_administer(&actor)) {
            return Err(Failure::new(ErrorCode::Forbidden).to_status());
        }
        self.approved.lock().expect("no panic").push(request);
        Ok(Response::new(ApproveSubscriptionChangeResponse {}))
    }

    async fn exchange_newcomers(
        &self,
        request: Request<ExchangeNewcomersRequest>,
    ) -> Result<Response<ExchangeNewcomersResponse>, Status> {
        self.must_be_there()?;
        let known = request.into_inner().known_user_ids;
        let mut newcomers = self.newcomers.lock().expect("no panic");
        newcomers.retain(|newcomer| !known.contains(newcomer));
        let user_ids = newcomers.iter().take(2).cloned().collect();
        Ok(Response::new(ExchangeNewcomersResponse { user_ids }))
    }

    unused! {
        update_profile: UpdateProfileRequest => UpdateProfileResponse,
        change_password: ChangePasswordRequest => ChangePasswordResponse,
        delete_user: DeleteUserRequest => DeleteUserResponse,
    }
}

#[tonic::async_trait]
impl ProjectService for FakeIdentity {
    async fn count_projects(
        &self,
        _: Request<CountProjectsRequest>,
    ) -> Result<Response<CountProjectsResponse>, Status> {
        self.must_be_there()?;
        let count = self.projects.load(Ordering::SeqCst);
        Ok(Response::new(CountProjectsResponse { count }))
    }

    unused! {
        list_projects: ListProjectsRequest => ListProjectsResponse,
        create_project: CreateProjectRequest => CreateProjectResponse,
        get_project: GetProjectRequest => GetProjectResponse,
        update_project: UpdateProjectRequest => UpdateProjectResponse,
        delete_project: DeleteProjectRequest => DeleteProjectResponse,
    }
}
