//! gRPC over the simulated network: our own channel with another connector, and a server.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{cell::RefCell, io};

use chassis::grpc::{self, InternalChannel};
use http::Uri;
use hyper_util::rt::TokioIo;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};
use turmoil::{Builder, Sim};

const PORT: u16 = 50051;
/// Time passes for one process after the other in steps of this.
pub const STEP: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_millis(60);

thread_local! {
    static JITTER: RefCell<SmallRng> = RefCell::new(SmallRng::seed_from_u64(0));
}

/// From 0 to 1, the same after each [`build`] with one seed.
pub fn jitter() -> f64 {
    JITTER.with_borrow_mut(|random| random.random_range(0.0..=1.0))
}

/// A network without hosts.
pub fn build(seed: u64) -> Sim<'static> {
    JITTER.set(SmallRng::seed_from_u64(seed));
    Builder::new()
        .rng_seed(seed)
        .enable_random_order()
        .tick_duration(STEP)
        .simulation_duration(Duration::from_secs(3600))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(LONGEST_DELAY)
        .tcp_capacity(65_536)
        .build()
}

/// The channel of a process to replicas of a service.
pub fn channel(hosts: &[&str]) -> InternalChannel {
    let settings = grpc::Settings::plain("0123456789abcdef0123456789abcdef".to_owned().into());
    let replicas: Vec<Uri> =
        hosts.iter().map(|host| format!("http://{host}:{PORT}").parse().expect("a URI")).collect();
    grpc::channel_over(&replicas, &settings, |uri| {
        grpc::endpoint(uri.clone()).connect_with_connector_lazy(tower::service_fn(connect))
    })
}

async fn connect(uri: Uri) -> io::Result<TokioIo<TcpStream>> {
    let stream = TcpStream::connect((uri.host().unwrap_or_default(), PORT)).await?;
    Ok(TokioIo::new(stream))
}

/// Serves for as long as the process lives.
pub async fn serve(services: Routes) -> turmoil::Result {
    let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT)).await?;
    let (arrived, incoming) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if arrived.send(Ok::<_, io::Error>(Accepted(stream))).await.is_err() {
                return;
            }
        }
    });
    let (_reporter, health) = tonic_health::server::health_reporter();
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_routes(services.add_service(health))
        .serve_with_incoming(ReceiverStream::new(incoming))
        .await?;
    Ok(())
}

struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
