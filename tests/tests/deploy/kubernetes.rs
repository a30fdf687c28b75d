//! The files under deploy/kubernetes, taken apart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::settings::{files, read, workspace};

/// A YAML document and the file that it is in.
pub struct Document {
    pub file: PathBuf,
    pub value: Value,
}

/// A container of one of the three processes.
pub struct Container<'a> {
    pub file: &'a Path,
    pub process: &'a str,
    pub pod: &'a Value,
    pub value: &'a Value,
}

impl Document {
    pub fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// The containers of the processes in its pods.
    pub fn containers(&self) -> impl Iterator<Item = Container<'_>> {
        let pod = &self.value["spec"]["template"]["spec"];
        let lists = [&pod["initContainers"], &pod["containers"]];
        lists.into_iter().flat_map(|list| list.as_array().into_iter().flatten()).filter_map(move |value| {
            // A patch has no image, and its name is the process's.
            let image = value["image"].as_str().map(|image| image.trim_start_matches("persona/"));
            let process = image.or(value["name"].as_str())?;
            let is_ours = ["edge", "identity-svc", "subscription-svc"].contains(&process);
            is_ours.then_some(Container { file: &self.file, process, pod, value })
        })
    }
}

impl Container<'_> {
    /// What it is given by name: the settings, `NAME_FILE` as it stands.
    pub fn given(&self) -> BTreeMap<&str, Option<&str>> {
        let list = self.value["env"].as_array().into_iter().flatten();
        list.map(|entry| (entry["name"].as_str().expect("a name"), entry["value"].as_str())).collect()
    }
}

/// All documents of a folder of deploy/kubernetes, or of all of it.
pub fn documents(folder: &str) -> Vec<Document> {
    let files = files(&workspace("deploy/kubernetes").join(folder), ".yaml");
    let documents = files.into_iter().filter(|file| !file.ends_with("kustomization.yaml")).flat_map(|file| {
        let parsed: Vec<Value> =
            serde_saphyr::from_multiple(&read(&file)).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        parsed.into_iter().map(move |value| Document { file: file.clone(), value })
    });
    documents.collect()
}

/// The settings of a process in a folder's `.env` file.
pub fn env_file(folder: &str, process: &str) -> BTreeMap<String, String> {
    let path = workspace("deploy/kubernetes").join(folder).join(format!("{process}.env"));
    let text = if path.is_file() { read(&path) } else { String::new() };
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{}: {line}", path.display()));
            (name.to_owned(), value.to_owned())
        })
        .collect()
}
