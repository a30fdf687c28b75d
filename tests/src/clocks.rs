use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Where Debian keeps it on each kind of machine.
const FOLDERS: &str = "/usr/lib";
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The clocks of the processes of a sandbox, each of which can be set. The programs are those that everybody runs: what
/// lies to them stands between them and the system (libfaketime), and leaves the time since the start alone.
pub struct Clocks {
    library: PathBuf,
    folder: TempDir,
}

impl Default for Clocks {
    fn default() -> Self {
        let kinds =
            fs::read_dir(FOLDERS).into_iter().flatten().flatten().map(|kind| kind.path().join(LIBRARY));
        let library = kinds.into_iter().find(|path| path.exists());
        let library = library.expect("libfaketime is missing: `apt-get install libfaketime`");
        Clocks { library, folder: tempfile::tempdir().expect("a folder") }
    }
}

impl Clocks {
    /// What a process is started with.
    pub(crate) fn settings(&self, process: &str) -> Vec<(&'static str, String)> {
        self.set(process, 0);
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        vec![
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file(process))),
            // Seconds until the file is looked at again.
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    /// So many seconds ahead of the world, or behind it. `process`: such as `edge-0`.
    pub fn set(&self, process: &str, seconds: i64) {
        let written = self.folder.path().join("new");
        fs::write(&written, format!("{seconds:+}\n")).expect("written");
        fs::rename(written, self.file(process)).expect("in place");
    }

    fn file(&self, process: &str) -> PathBuf {
        self.folder.path().join(process)
    }
}
