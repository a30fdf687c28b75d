use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to do what is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process of the platform; it ends with its owner.
pub struct Process {
    name: &'static str,
    child: Child,
    log: File,
}

/// How a program ended, and what it printed.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Where the built programs are: `PERSONA_BIN_DIR`, or beside the test.
fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("PERSONA_BIN_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let test = std::env::current_exe().expect("the path of this test");
        // target/debug/deps/test → target/debug
        test.ancestors().nth(2).expect("a target folder").to_owned()
    });
    let program = folder.join(name);
    assert!(
        program.exists(),
        "{} is missing: run `cargo xtask test`, or `cargo build` first",
        program.display()
    );
    program
}

impl Process {
    /// Starts a program with these settings and no others.
    pub fn start(name: &'static str, settings: &[(&str, String)]) -> Process {
        Process::begin(name, settings, &[])
    }

    /// As [`Process::start`], with arguments.
    pub fn begin(name: &'static str, settings: &[(&str, String)], arguments: &[&str]) -> Process {
        let mut command = Command::new(program(name));
        command.args(arguments);
        Process::spawn(name, command, settings, None)
    }

    /// As [`Process::start`], with so many files that it may have open, and so many that it may raise that to.
    pub fn start_with_files(
        name: &'static str,
        settings: &[(&str, String)],
        soft: usize,
        hard: usize,
    ) -> Process {
        // It becomes the program.
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={soft}:{hard}")).arg(program(name));
        Process::spawn(name, command, settings, None)
    }

    /// As [`Process::start`], with a standard output that nobody reads.
    pub fn start_unread(name: &'static str, settings: &[(&str, String)]) -> Process {
        Process::spawn(name, Command::new(program(name)), settings, Some(Stdio::piped()))
    }

    fn spawn(
        name: &'static str,
        mut command: Command,
        settings: &[(&str, String)],
        stdout: Option<Stdio>,
    ) -> Process {
        let log = tempfile::tempfile().expect("a file for the log");
        let output = || {
            if std::env::var_os("E2E_LOGS").is_some() {
                return Stdio::inherit();
            }
            log.try_clone().expect("a handle").into()
        };
        let child = command
            .env_clear()
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(stdout.unwrap_or_else(output))
            .stderr(output())
            .spawn();
        Process { name, child: child.unwrap_or_else(|e| panic!("{name} cannot be started: {e}")), log }
    }

    /// Runs a program with these settings and arguments to its end, and gives what it printed.
    pub async fn run(name: &'static str, settings: &[(&'static str, String)], arguments: &[&str]) -> String {
        let (succeeded, said) = Process::run_to_end(name, settings, arguments).await;
        assert!(succeeded, "{name} {arguments:?}: {said}");
        said
    }

    /// Runs a program that is to fail, and gives what it printed.
    pub async fn run_to_failure(
        name: &'static str,
        settings: &[(&'static str, String)],
        arguments: &[&str],
    ) -> String {
        let (succeeded, said) = Process::run_to_end(name, settings, arguments).await;
        assert!(!succeeded, "{name} {arguments:?} succeeded: {said}");
        said
    }

    async fn run_to_end(
        name: &'static str,
        settings: &[(&'static str, String)],
        arguments: &[&str],
    ) -> (bool, String) {
        let Ended { code, stdout, stderr } = Process::end(name, settings, arguments, "").await;
        (code == Some(0), stdout + &stderr)
    }

    /// Runs a program with these settings, arguments and input to its end.
    pub async fn end(
        name: &'static str,
        settings: &[(&'static str, String)],
        arguments: &[&str],
        input: &str,
    ) -> Ended {
        let mut command = Command::new(program(name));
        command.env_clear().envs(settings.iter().map(|(name, value)| (name, value))).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = input.to_owned();
        let output = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // Whoever does not want it may have ended already.
                let _ = stdin.write_all(input.as_bytes());
            }
            child.wait_with_output()
        });
        let output =
            output.await.expect("joined").unwrap_or_else(|e| panic!("{name} cannot be started: {e}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Stops the process where it stands (SIGSTOP), as a machine that hangs would.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let asked = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status();
        assert!(asked.is_ok_and(|status| status.success()), "{} could not be signalled", self.name);
    }

    /// Ends the process as a crash would.
    pub fn kill(&mut self) {
        // One that has ended already is as dead.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks the process to end (SIGTERM) and gives its exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        self.signal("-TERM");
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} did not end within {PATIENCE:?}", self.name);
    }

    /// The most memory that the process has ever had resident, in KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the process runs, on Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// How many file descriptors the process has open.
    pub fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        open.expect("the process runs, on Linux").count()
    }

    /// How many it may have open from now on.
    pub fn limit_descriptors(&self, most: usize) {
        let (pid, most) = (self.child.id().to_string(), format!("--nofile={most}:"));
        let limited = Command::new("prlimit").args(["--pid", &pid, &most]).status();
        assert!(limited.is_ok_and(|status| status.success()), "{} could not be limited", self.name);
    }

    /// Fails the test when the process has died.
    pub fn must_run(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("{} ended with {status}:\n{}", self.name, self.said());
        }
    }

    /// What the process has logged; nothing when `E2E_LOGS` shows it on the terminal instead.
    pub fn said(&self) -> String {
        let length = self.log.metadata().expect("a file").len();
        let mut text = vec![0; usize::try_from(length).expect("a length")];
        self.log.read_exact_at(&mut text, 0).expect("read");
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
