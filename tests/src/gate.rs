use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A door between the services and the database.
pub struct Gate {
    address: SocketAddr,
    door: watch::Sender<(Door, Host)>,
}

/// Which of the hosts that followed each other is behind the door.
type Host = u32;

#[derive(Clone, Copy, PartialEq)]
enum Door {
    Open,
    /// Connections break, new ones are refused.
    Shut,
    /// Connections stay and nothing passes.
    Frozen,
}

impl Gate {
    /// An open door to `target`. It has a thread of its own: a test that blocks in its end must not keep the
    /// database waiting for connections whose processes are long gone.
    pub fn to(target: String) -> Gate {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let (door, state) = watch::channel((Door::Open, 0));
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(accept(listener, target, state));
        });
        Gate { address, door }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens the door, or shuts it: connections break and new ones are refused.
    pub fn set_open(&self, open: bool) {
        self.door.send_modify(|(door, _)| *door = if open { Door::Open } else { Door::Shut });
    }

    /// Lets nothing pass any more, and breaks nothing, until the door is opened.
    pub fn freeze(&self) {
        self.door.send_modify(|(door, _)| *door = Door::Frozen);
    }

    /// Has another host in the place of the one that was there and is gone without a word, with all that was not committed:
    /// connections to it stay until the door is shut, and nothing ever passes on them.
    pub fn fail_over(&self) {
        self.door.send_modify(|(_, host)| *host += 1);
    }
}

/// Until the gate is dropped.
async fn accept(listener: std::net::TcpListener, target: String, mut door: watch::Receiver<(Door, Host)>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                if door.borrow().0 != Door::Shut {
                    tokio::spawn(pass(stream, target.clone(), door.clone()));
                }
            }
            changed = door.changed() => if changed.is_err() { return },
        }
    }
}

async fn pass(mut near: TcpStream, target: String, mut door: watch::Receiver<(Door, Host)>) {
    let (_, itself) = *door.borrow();
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    {
        let mut copying = std::pin::pin!(copy_bidirectional(&mut near, &mut far));
        loop {
            let (state, host) = *door.borrow_and_update();
            if host != itself {
                break;
            }
            tokio::select! {
                _ = &mut copying, if state == Door::Open => return,
                changed = door.changed(), if state != Door::Shut => if changed.is_err() { return },
                else => return,
            }
        }
    }
    // The locks of a host that is gone are gone, too.
    drop(far);
    let _ = door.wait_for(|(state, _)| *state == Door::Shut).await;
}
