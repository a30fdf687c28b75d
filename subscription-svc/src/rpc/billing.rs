use chassis::grpc::answer;
use contract::subscription::billing_service_server::BillingService;
use contract::subscription::{
    CreateCheckoutRequest, CreateCheckoutResponse, HandleStripeEventRequest, HandleStripeEventResponse,
};
use tonic::{Request, Response, Status};

use crate::billing;
use crate::service::{Service, user_id};

pub struct Billing(pub Service);

#[tonic::async_trait]
impl BillingService for Billing {
    async fn create_checkout(
        &self,
        request: Request<CreateCheckoutRequest>,
    ) -> Result<Response<CreateCheckoutResponse>, Status> {
        let request = request.into_inner();
        let made = async {
            user_id(&request.user_id)?;
            billing::checkout(&self.0, request).await
        };
        answer(billing::patiently(made).await)
    }

    async fn handle_stripe_event(
        &self,
        request: Request<HandleStripeEventRequest>,
    ) -> Result<Response<HandleStripeEventResponse>, Status> {
        let HandleStripeEventRequest { payload, signature } = request.into_inner();
        let handled = billing::patiently(billing::handle(&self.0, &payload, &signature)).await;
        answer(handled.map(|()| HandleStripeEventResponse {}))
    }
}
