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
    /// An open door to `target`. It has a thread of its own: a test that blocks in its end must not keep the
    /// database waiting for connections whose processes are long gone.
    pub fn to(target: String) -> Gate {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let (open, is_open) = watch::channel(true);
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(accept(listener, target, is_open));
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

/// Until the gate is dropped.
async fn accept(listener: std::net::TcpListener, target: String, mut is_open: watch::Receiver<bool>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                if *is_open.borrow() {
                    tokio::spawn(pass(stream, target.clone(), is_open.clone()));
                }
            }
            changed = is_open.changed() => if changed.is_err() { return },
        }
    }
}

async fn pass(mut near: TcpStream, target: String, mut is_open: watch::Receiver<bool>) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => {}
        _ = is_open.wait_for(|open| !*open) => {}
    }
}
