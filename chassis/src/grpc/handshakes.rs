//! Connections of the internal plane with TLS, each begun with the certificates of that moment.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::{PathAndQuery, Scheme};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::tls::Tls;
use super::trust::Trusted;

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Most handshakes at once: a caller that never ends its own holds one place until the limit.
const MOST_HANDSHAKES: usize = 256;
/// How long the loop pauses when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A caller whose handshake has succeeded.
pub type Arrived = io::Result<Trusted<server::TlsStream<TcpStream>>>;

/// Lets callers in whose handshake succeeds, for as long as it lives; each goes to the server that was led to it last.
pub struct Door(watch::Sender<mpsc::Sender<Arrived>>);

impl Door {
    pub fn open(listener: TcpListener, tls: Tls) -> Self {
        // Until a server is there callers wait.
        let (door, leads_to) = watch::channel(mpsc::channel(1).0);
        tokio::spawn(accept(listener, tls, leads_to));
        Door(door)
    }

    /// The callers from now on.
    pub fn callers(&self) -> ReceiverStream<Arrived> {
        let (server, callers) = mpsc::channel(1);
        self.0.send_replace(server);
        ReceiverStream::new(callers)
    }
}

type LeadsTo = watch::Receiver<mpsc::Sender<Arrived>>;

/// Hands a caller to the server that is there, or to the one after it when that one has stopped meanwhile.
async fn hand_over(mut leads_to: LeadsTo, mut caller: Arrived) {
    loop {
        let server = leads_to.borrow_and_update().clone();
        match server.send(caller).await {
            Ok(()) => return,
            Err(refused) => caller = refused.0,
        }
        if leads_to.changed().await.is_err() {
            return;
        }
    }
}

/// Ends when the door is closed.
async fn closed(mut leads_to: LeadsTo) {
    while leads_to.changed().await.is_ok() {}
}

async fn accept(listener: TcpListener, tls: Tls, leads_to: LeadsTo) {
    let mut is_closed = std::pin::pin!(closed(leads_to.clone()));
    let places = Arc::new(Semaphore::new(MOST_HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            accepted = next(&listener, &places) => accepted,
            () = &mut is_closed => return,
        };
        match (accepted, tls.server()) {
            (Ok((stream, place)), Some((config, trust))) => {
                let (leads_to, farewell) = (leads_to.clone(), tls.farewell());
                tokio::spawn(async move {
                    let _place = place;
                    if let Some(stream) = greet(stream, config).await {
                        hand_over(leads_to, Ok(Trusted::new(stream, trust, farewell))).await;
                    }
                });
            }
            (Ok(_), None) => tracing::error!("a caller was refused: there is no certificate"),
            (Err(error), _) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

async fn greet(stream: TcpStream, config: Arc<ServerConfig>) -> Option<server::TlsStream<TcpStream>> {
    let greeting = async {
        stream.set_nodelay(true)?;
        TlsAcceptor::from(config).accept(stream).await
    };
    match tokio::time::timeout(HANDSHAKE_LIMIT, greeting).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!(%error, "a caller was refused"),
        Err(_) => tracing::debug!("a caller did not end its handshake in time"),
    }
    None
}

/// A channel to an `https` URL, which connects when needed. `endpoint` gives all that is not TLS.
pub fn channel(uri: &Uri, tls: Tls, endpoint: impl FnOnce(Uri) -> Endpoint) -> Channel {
    // What the endpoint takes for plain text is what our connector makes of TLS.
    let plain = plain(uri);
    let (uri, origin) = (uri.clone(), uri.clone());
    let connector = tower::service_fn(move |_: Uri| {
        let (uri, tls) = (uri.clone(), tls.clone());
        async move { Ok::<_, io::Error>(TokioIo::new(connect(&uri, &tls).await?)) }
    });
    endpoint(plain).origin(origin).connect_with_connector_lazy(connector)
}

fn plain(uri: &Uri) -> Uri {
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

async fn connect(uri: &Uri, tls: &Tls) -> io::Result<Trusted<client::TlsStream<TcpStream>>> {
    let (config, trust) = tls.client().ok_or_else(|| io::Error::other("no authority to believe"))?;
    // As the address of IPv6 stands in a URL.
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(Trusted::new(stream, trust, tls.farewell()))
}
