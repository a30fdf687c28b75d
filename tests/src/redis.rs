use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::sandbox::{free_port, until};

/// A Redis or Valkey of a test's own, in memory alone.
pub struct Redis {
    port: u16,
    child: Child,
}

/// The server of either project; they are the same to us. Debian's tools have it under the last name.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = ["valkey-server", "redis-server", "redis-check-rdb"].iter().find_map(|name| {
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
    });
    found
        .expect("there is neither valkey-server nor redis-server: run `cargo xtask test`, which installs one")
}

fn start(port: u16) -> Child {
    let (program, port) = (program(), port.to_string());
    let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let mut command = Command::new(&program);
    if program.ends_with("redis-check-rdb") {
        // One program, which is what it is called.
        command.arg0("redis-server");
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("Redis starts")
}

impl Redis {
    /// Starts one and waits until it answers.
    pub async fn start() -> Redis {
        let port = free_port();
        let redis = Redis { port, child: start(port) };
        redis.ready().await;
        redis
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Has it do what a line of its protocol says.
    pub fn command(&self, line: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        stream.write_all(format!("{line}\r\n").as_bytes()).expect("sent");
        let mut answer = [0];
        stream.read_exact(&mut answer).expect("an answer");
        assert_ne!(answer, *b"-", "{line} is refused");
    }

    async fn ready(&self) {
        let answers = async || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        until("Redis answers", answers).await;
    }

    /// Stops it where it stands: connections stay, and nothing is answered.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let asked = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status();
        assert!(asked.is_ok_and(|status| status.success()), "Redis could not be signalled");
    }

    /// Ends it as a crash would; what it knew is gone.
    pub fn kill(&mut self) {
        // One that has ended already is as dead.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again at its old place, after [`Redis::kill`].
    pub async fn restart(&mut self) {
        self.child = start(self.port);
        self.ready().await;
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
