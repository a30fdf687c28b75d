use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A door between the services and the database that can be shut: connections break, new ones are refused.
pub struct Gate {
    address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Gate {
    /// An open door to `target`.
    pub async fn to(target: String) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (open, is_open) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if *is_open.borrow() {
                    tokio::spawn(pass(stream, target.clone(), is_open.clone()));
                }
            }
        });
        Gate { address, open }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

async fn pass(mut near: TcpStream, target: String, mut is_open: watch::Receiver<bool>) {
    let Ok(mut far) = TcpStream::connect(target).await else {
        return;
    };
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => {}
        _ = is_open.wait_for(|open| !*open) => {}
    }
}
