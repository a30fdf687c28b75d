//! Ways to the server on which something happens that would be hard to have happen there.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

/// A way to the server, on which each connection is passed on as is said.
async fn way(
    options: &MySqlConnectOptions,
    pass: impl Fn(TcpStream, TcpStream) + Send + Sync + 'static,
) -> MySqlConnectOptions {
    let server = (options.get_host().to_owned(), options.get_port());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            pass(client, TcpStream::connect(&server).await.expect("the server"));
        }
    });
    options.clone().host("127.0.0.1").port(port)
}

/// The server, with answers that take long enough to be waited for in vain.
pub async fn slow(options: MySqlConnectOptions) -> MySqlConnectOptions {
    way(&options, |client, server| {
        let (mut questions, mut client) = client.into_split();
        let (mut answers, mut server) = server.into_split();
        tokio::spawn(async move { copy(&mut questions, &mut server).await });
        tokio::spawn(async move {
            let mut answer = [0; 4096];
            while let Ok(length @ 1..) = answers.read(&mut answer).await {
                tokio::time::sleep(Duration::from_millis(2)).await;
                client.write_all(&answer[..length]).await?;
            }
            client.shutdown().await
        });
    })
    .await
}

/// Statements that hang on the way, each until it may go on. When none may any more, `allowed` being closed, the server is
/// told of the end of the connection, and the client is not.
pub struct Statements {
    pub reached: Notify,
    pub allowed: Semaphore,
}

/// The server, for which statements that end so hang.
pub async fn hanging(
    options: &MySqlConnectOptions,
    end: &'static str,
) -> (MySqlConnectOptions, Arc<Statements>) {
    let statements = Arc::new(Statements { reached: Notify::new(), allowed: Semaphore::new(0) });
    let hung = statements.clone();
    let way = way(options, move |client, server| {
        let (mut questions, mut client) = client.into_split();
        let (mut answers, mut server) = server.into_split();
        let hung = hung.clone();
        tokio::spawn(async move {
            let mut question = [0; 4096];
            while let Ok(length @ 1..) = questions.read(&mut question).await {
                if question[..length].ends_with(end.as_bytes()) {
                    hung.reached.notify_one();
                    let Ok(allowed) = hung.allowed.acquire().await else { return };
                    allowed.forget();
                }
                server.write_all(&question[..length]).await.expect("a server that listens");
            }
        });
        tokio::spawn(async move {
            copy(&mut answers, &mut client).await?;
            pending::<std::io::Result<()>>().await
        });
    });
    // In clear, so that they can be read.
    (way.await.ssl_mode(MySqlSslMode::Disabled), statements)
}
