//! Where things are, and what is kept under `target/` from one run to the next.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::Outcome;

/// The folder of the workspace.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// A path for what may be deleted at any time.
pub fn target(name: &str) -> PathBuf {
    root().join("target").join(name)
}

/// Where cargo puts the programs, which may be elsewhere than our own files.
pub fn programs(profile: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| target(""), |dir| root().join(dir));
    target.join(profile)
}

/// Makes a folder that only we can enter.
pub fn private_folder(path: &Path) -> Outcome {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| format!("{}: {e}", path.display()).into())
}

/// Writes a file that only we can read, whole or not at all.
pub fn write_private(path: &Path, content: &str) -> Outcome {
    let draft = path.with_added_extension("new");
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&draft)?.write_all(content.as_bytes())?;
        std::fs::rename(&draft, path)
    };
    write().map_err(|e| format!("{}: {e}", path.display()).into())
}

/// Removes a file that may be gone already.
pub fn remove(path: &Path) -> Outcome {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {e}", path.display()).into()),
        _ => Ok(()),
    }
}

/// A random secret, the same in every run until `target/` is deleted.
pub fn kept_secret(name: &str) -> Outcome<String> {
    let folder = target("secrets");
    let path = folder.join(name);
    if let Ok(secret) = std::fs::read_to_string(&path) {
        return Ok(secret);
    }
    private_folder(&folder)?;
    let secret = random_hex()?;
    write_private(&path, &secret)?;
    Ok(secret)
}

/// 192 random bits: as hexadecimal digits 48 characters, which need no quoting anywhere.
pub fn random_hex() -> Outcome<String> {
    let mut bytes = [0; 24];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A setting from the environment: NAME itself, or what the file that NAME_FILE names contains.
pub fn setting(name: &str) -> Outcome<Option<String>> {
    if let Some(value) = std::env::var(name).ok().filter(|value| !value.is_empty()) {
        return Ok(Some(value));
    }
    let file = std::env::var_os(format!("{name}_FILE")).filter(|path| !path.is_empty());
    let Some(path) = file else { return Ok(None) };
    match std::fs::read_to_string(&path) {
        Ok(content) => Ok(Some(content.trim_end_matches(['\r', '\n']).to_owned())),
        Err(e) => Err(format!("{name}_FILE: {}: {e}", Path::new(&path).display()).into()),
    }
}

/// A lock that goes with its holder, however that one ends; `None` while somebody else has it.
pub fn try_lock(path: &Path) -> Outcome<Option<File>> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file.map_err(|e| format!("{}: {e}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(format!("{}: {e}", path.display()).into()),
    }
}
