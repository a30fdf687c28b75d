use chassis::grpc::answer;
use chassis::mysql::failed;
use contract::subscription::subscription_service_server::SubscriptionService;
use contract::subscription::{
    CancelSubscriptionRequest, CancelSubscriptionResponse, CreateSubscriptionRequest,
    CreateSubscriptionResponse, GetSubscriptionRequest, GetSubscriptionResponse, ListSubscriptionsRequest,
    ListSubscriptionsResponse, ListTiersRequest, ListTiersResponse, UpdateSubscriptionRequest,
    UpdateSubscriptionResponse,
};
use contract::{Failure, Outcome};
use tonic::{Request, Response, Status};

use crate::service::{Service, user_id};
use crate::subscriptions::Subscription;
use crate::{administration, billing, subscriptions, tiers};

const DEFAULT_PAGE_SIZE: i32 = 20;
const MAX_PAGE_SIZE: i32 = 100;

pub struct Subscriptions(pub Service);

#[tonic::async_trait]
impl SubscriptionService for Subscriptions {
    async fn get_subscription(
        &self,
        request: Request<GetSubscriptionRequest>,
    ) -> Result<Response<GetSubscriptionResponse>, Status> {
        let user = request.into_inner().user_id;
        let found = async {
            user_id(&user)?;
            subscriptions::find(&self.0.pool, &user).await
        };
        answer(found.await.map(|found| GetSubscriptionResponse { subscription: Some(found.into()) }))
    }

    async fn list_subscriptions(
        &self,
        request: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<ListSubscriptionsResponse>, Status> {
        answer(list(&self.0, request.into_inner()).await)
    }

    async fn create_subscription(
        &self,
        request: Request<CreateSubscriptionRequest>,
    ) -> Result<Response<CreateSubscriptionResponse>, Status> {
        let request = request.into_inner();
        let made = async {
            user_id(&request.user_id)?;
            administration::create(&self.0, request).await
        };
        answer(made.await.map(|made| CreateSubscriptionResponse { subscription: Some(made.into()) }))
    }

    async fn update_subscription(
        &self,
        request: Request<UpdateSubscriptionRequest>,
    ) -> Result<Response<UpdateSubscriptionResponse>, Status> {
        let request = request.into_inner();
        let changed = async {
            user_id(&request.user_id)?;
            billing::patiently(administration::update(&self.0, request)).await
        };
        answer(changed.await.map(|changed| UpdateSubscriptionResponse { subscription: Some(changed.into()) }))
    }

    async fn cancel_subscription(
        &self,
        request: Request<CancelSubscriptionRequest>,
    ) -> Result<Response<CancelSubscriptionResponse>, Status> {
        let user = request.into_inner().user_id;
        let cancelled = async {
            user_id(&user)?;
            billing::patiently(billing::cancel(&self.0, &user)).await
        };
        answer(cancelled.await.map(|done| CancelSubscriptionResponse { subscription: Some(done.into()) }))
    }

    async fn list_tiers(&self, _: Request<ListTiersRequest>) -> Result<Response<ListTiersResponse>, Status> {
        let all = async {
            let mut connection = self.0.pool.acquire().await.map_err(failed)?;
            tiers::list(&mut connection).await
        };
        answer(all.await.map(|tiers| ListTiersResponse { tiers }))
    }
}

async fn list(service: &Service, request: ListSubscriptionsRequest) -> Outcome<ListSubscriptionsResponse> {
    let ListSubscriptionsRequest { actor, page, page_size, tier, status } = request;
    administration::must_administer(service, actor.as_ref()).await?;
    let page = if page == 0 { 1 } else { page };
    let page_size = if page_size == 0 { DEFAULT_PAGE_SIZE } else { page_size };
    if page < 1 {
        return Err(Failure::field("page", "must be 1 or more"));
    }
    if !(1..=MAX_PAGE_SIZE).contains(&page_size) {
        return Err(Failure::field("page_size", format!("must be 1 to {MAX_PAGE_SIZE}")));
    }
    let tier =
        if tier.is_empty() { None } else { Some(tier.parse().map_err(|e| Failure::field("tier", e))?) };
    let status =
        if status.is_empty() { None } else { Some(status.parse().map_err(|e| Failure::field("status", e))?) };
    let mut connection = service.pool.acquire().await.map_err(failed)?;
    let (found, total_count) = subscriptions::list(&mut connection, tier, status, page, page_size).await?;
    let subscriptions = found.into_iter().map(|s: Subscription| s.into()).collect();
    Ok(ListSubscriptionsResponse { subscriptions, total_count, page, page_size })
}
