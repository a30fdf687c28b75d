//! The settings of the processes, as docs/settings.md has them; that page is generated from the code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file or folder of the workspace.
pub fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").join(path)
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files of a folder and those below it whose names end so.
pub fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Defaults by name, by process.
pub fn settings() -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut process = String::new();
    for line in read(&workspace("docs/settings.md")).lines() {
        if let Some(name) = line.strip_prefix("## ") {
            process = name.to_owned();
        } else if let Some(row) = line.strip_prefix("| `") {
            let (name, rest) = row.split_once("` | ").expect("a name");
            let (default, _) = rest.split_once(" | ").expect("a default");
            all.entry(process.clone()).or_default().insert(name.to_owned(), default.to_owned());
        }
    }
    assert_eq!(all.len(), 3, "{:?}", all.keys());
    all
}
