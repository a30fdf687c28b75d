//! The database server, from outside: `cargo xtask faults` starts it, and starts it again when it dies.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};

/// The account that the services use; a read-only server lets an administrator write.
const NAME: &str = "faults";
const PASSWORD: &str = "faults-of-a-throw-away-server";
/// Connections that a starved server has, the least that both servers allow.
const FEW: usize = 10;
/// Those that it has otherwise.
const MANY: usize = 500;

pub struct Server {
    admin: MySqlConnectOptions,
    url: String,
    pid_file: PathBuf,
    hogs: Vec<MySqlConnection>,
    /// The disk that it has for itself.
    disk: Option<PathBuf>,
}

impl Server {
    /// The server of the environment, with an account for the services.
    pub async fn find() -> Server {
        let expected = "run `cargo xtask faults`, which starts a server";
        let url = std::env::var("FAULTS_ADMIN_URL").expect(expected);
        let pid_file = std::env::var_os("FAULTS_PID_FILE").expect(expected).into();
        let admin: MySqlConnectOptions = url.parse().expect("a MySQL URL");
        let server = Server {
            url: format!("mysql://{NAME}:{PASSWORD}@{}:{}/{NAME}", admin.get_host(), admin.get_port()),
            admin,
            pid_file,
            hogs: Vec::new(),
            disk: std::env::var_os("FAULTS_DISK").map(PathBuf::from),
        };
        // As a fault before may have left it that broke off in the middle.
        server.thaw();
        server.free_disk();
        server.order(&format!("SET GLOBAL max_connections = {MANY}")).await;
        server.set_read_only(false).await;
        server.order(&format!("CREATE USER IF NOT EXISTS {NAME} IDENTIFIED BY '{PASSWORD}'")).await;
        server.order(&format!("CREATE DATABASE IF NOT EXISTS {NAME}")).await;
        server.order(&format!("GRANT ALL ON {NAME}.* TO {NAME}")).await;
        server.order(&format!("GRANT ALL ON `e2e\\_%`.* TO {NAME}")).await;
        server
    }

    /// Where the services find it, in the account that they use.
    pub fn url(&self) -> &str {
        &self.url
    }

    async fn connect(&self) -> MySqlConnection {
        // A server that has just been starved or killed takes a moment.
        for _ in 0..600 {
            if let Ok(connection) = MySqlConnection::connect_with(&self.admin).await {
                return connection;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the database server lets its administrator in no more");
    }

    async fn order(&self, statement: &str) {
        let statement = AssertSqlSafe(statement.to_owned());
        self.connect().await.execute(statement).await.expect("done");
    }

    fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(&self.pid_file).expect("the id of the server's process");
        let asked = Command::new("kill").arg(signal).arg(pid.trim()).status();
        assert!(asked.is_ok_and(|status| status.success()), "the database server could not be signalled");
    }

    pub fn kill(&self) {
        self.signal("-KILL");
    }

    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Waits until it can be signed in to.
    pub async fn wait(&self) {
        let _ = self.connect().await;
    }

    pub async fn set_read_only(&self, is_on: bool) {
        self.order(&format!("SET GLOBAL read_only = {}", u8::from(is_on))).await;
    }

    /// Takes all that is left of its disk.
    pub fn fill_disk(&self) {
        let ballast =
            self.ballast().expect("the database has no disk of its own: `unshare --mount` is refused here");
        let mut file = File::create(ballast).expect("a file");
        let mut piece = vec![0; 1024 * 1024];
        while !piece.is_empty() {
            match file.write_all(&piece) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => piece.truncate(piece.len() / 2),
                Err(error) => panic!("the disk could not be filled: {error}"),
            }
        }
    }

    /// Gives it back.
    pub fn free_disk(&self) {
        if let Some(ballast) = self.ballast() {
            // There is none when the disk was not filled.
            let _ = std::fs::remove_file(ballast);
        }
    }

    fn ballast(&self) -> Option<PathBuf> {
        self.disk.as_ref().map(|disk| disk.join("ballast"))
    }

    /// Throws the services out and takes the places that are left.
    pub async fn starve(&mut self) {
        let mut admin = self.connect().await;
        let few = AssertSqlSafe(format!("SET GLOBAL max_connections = {FEW}"));
        admin.execute(few).await.expect("set");
        let options = self.url.parse::<MySqlConnectOptions>().expect("a URL");
        while self.hogs.len() + 1 < FEW {
            self.evict(&mut admin).await;
            if let Ok(connection) = MySqlConnection::connect_with(&options).await {
                self.hogs.push(connection);
            }
        }
        self.evict(&mut admin).await;
    }

    /// Breaks the connections of the services; those that take places away have chosen no schema.
    async fn evict(&self, admin: &mut MySqlConnection) {
        let theirs =
            "SELECT CAST(ID AS SIGNED) FROM information_schema.PROCESSLIST WHERE USER = ? AND DB IS NOT NULL";
        let ids: Vec<i64> =
            sqlx::query_scalar(theirs).bind(NAME).fetch_all(&mut *admin).await.expect("the connections");
        for id in ids {
            // It may have gone by itself.
            let _ = admin.execute(AssertSqlSafe(format!("KILL {id}"))).await;
        }
    }

    pub async fn feed(&mut self) {
        self.hogs.clear();
        self.order(&format!("SET GLOBAL max_connections = {MANY}")).await;
    }
}
