//! The processes that are looked at, with the settings that they have: those of the environment, or of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use chassis::settings::{Origin, Setting, Survey};

use crate::output::Fault;

/// A process of the platform that has settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Process {
    Edge,
    IdentitySvc,
    SubscriptionSvc,
}

use Process::{Edge, IdentitySvc, SubscriptionSvc};

impl Process {
    pub const ALL: [Process; 3] = [Edge, IdentitySvc, SubscriptionSvc];

    pub fn name(self) -> &'static str {
        match self {
            Edge => "edge",
            IdentitySvc => "identity-svc",
            SubscriptionSvc => "subscription-svc",
        }
    }

    /// The process that a text names before an equals sign, with what follows it.
    pub fn before(text: &str) -> Option<(Process, &str)> {
        let (name, rest) = text.split_once('=')?;
        Some((Process::ALL.into_iter().find(|process| process.name() == name)?, rest))
    }

    /// The database user that it signs in as unless it is told another (deploy/database/grants.sql).
    pub fn database_user(self) -> Option<&'static str> {
        match self {
            Edge => None,
            IdentitySvc => Some("identity_svc"),
            SubscriptionSvc => Some("subscription_svc"),
        }
    }

    /// All of its settings, none of which is given.
    pub fn survey_of_nothing(self) -> Survey {
        self.survey([])
    }

    fn survey(self, variables: impl IntoIterator<Item = (String, String)>) -> Survey {
        match self {
            Edge => edge::survey(variables),
            IdentitySvc => identity_svc::survey(variables),
            SubscriptionSvc => subscription_svc::survey(variables),
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose settings, and where they stand.
#[derive(clap::Args)]
pub struct Source {
    /// Look at this process alone; by default at each that has a setting of its own
    #[arg(long = "process", value_enum, value_name = "PROCESS")]
    processes: Vec<Process>,
    /// Take the settings from this file of NAME=VALUE lines instead of the environment, `edge=FILE` those of one process;
    /// a folder has a file for each, such as edge.env
    #[arg(long = "env-file", value_name = "[PROCESS=]FILE")]
    files: Vec<EnvFile>,
}

/// A file of settings, of one process or of all, or a folder with one for each.
#[derive(Clone, Debug)]
struct EnvFile {
    process: Option<Process>,
    path: PathBuf,
}

impl FromStr for EnvFile {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match Process::before(text) {
            Some((process, path)) => EnvFile { process: Some(process), path: path.into() },
            None => EnvFile { process: None, path: text.into() },
        })
    }
}

impl EnvFile {
    /// The file of a process, if there is one.
    fn of(&self, process: Process) -> Option<PathBuf> {
        if self.process.is_some_and(|of| of != process) {
            return None;
        }
        if !self.path.is_dir() {
            return Some(self.path.clone());
        }
        let file = self.path.join(process.name()).with_added_extension("env");
        file.exists().then_some(file)
    }
}

/// A process with its settings.
pub struct Member {
    pub process: Process,
    pub variables: BTreeMap<String, String>,
    pub survey: Survey,
    /// The files that its settings come from; none for the environment.
    pub files: Vec<PathBuf>,
}

impl Member {
    /// With these settings, which came from these files.
    pub fn of(process: Process, variables: BTreeMap<String, String>, files: Vec<PathBuf>) -> Self {
        let survey = process.survey(variables.clone());
        Member { process, variables, survey, files }
    }

    /// Reads a part of the settings again, for its own type.
    ///
    /// # Errors
    /// The faults of that part.
    pub fn read<S>(&self, read: impl FnOnce(&mut chassis::settings::Env) -> S) -> Result<S, String> {
        chassis::settings::load_from(self.variables.clone(), read).map_err(|faults| faults.to_string())
    }

    /// Where a value comes from, in words.
    pub fn origin(&self, setting: &Setting) -> String {
        match &setting.origin {
            Origin::Default => "default".to_owned(),
            Origin::File(path) => path.display().to_string(),
            Origin::Given if self.files.is_empty() => "environment".to_owned(),
            Origin::Given => {
                let files = self.files.iter().map(|path| path.display().to_string());
                files.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

impl Source {
    /// The processes that are meant. Those of which nothing is set are left out, unless that is all of them.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn members(&self) -> Result<Vec<Member>, Fault> {
        let is_empty = |file: &&EnvFile| Process::ALL.into_iter().all(|process| file.of(process).is_none());
        if let Some(EnvFile { path, .. }) = self.files.iter().find(is_empty) {
            return Err(Fault::said(format!(
                "{}: has no file of a process, such as edge.env",
                path.display()
            )));
        }
        let all: Result<Vec<Member>, Fault> =
            Process::ALL.into_iter().map(|process| self.member(process)).collect();
        let mut all = all?;
        if !self.processes.is_empty() {
            all.retain(|member| self.processes.contains(&member.process));
            return Ok(all);
        }
        let shared = shared_names(&all);
        let is_meant = |member: &Member| {
            let own = member.survey.settings.iter().filter(|setting| !shared.contains(setting.name));
            own.into_iter().any(|setting| setting.origin != Origin::Default)
        };
        if all.iter().any(is_meant) {
            all.retain(is_meant);
        }
        Ok(all)
    }

    /// Files that are given for a process are all that it has, as it is with containers.
    fn member(&self, process: Process) -> Result<Member, Fault> {
        let files: Vec<PathBuf> = self.files.iter().filter_map(|file| file.of(process)).collect();
        if self.files.is_empty() {
            let variables = std::env::vars_os();
            let variables = variables
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
            return Ok(Member::of(process, variables.collect(), files));
        }
        let mut variables = BTreeMap::new();
        for path in &files {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|error| Fault::said(format!("{}: {error}", path.display())))?;
            variables.extend(variables_of(&text));
        }
        Ok(Member::of(process, variables, files))
    }
}

/// The settings that every process has.
fn shared_names(all: &[Member]) -> BTreeSet<&'static str> {
    let names =
        |member: &Member| member.survey.settings.iter().map(|setting| setting.name).collect::<BTreeSet<_>>();
    let mut all = all.iter().map(names);
    let first = all.next().unwrap_or_default();
    all.fold(first, |shared, names| shared.intersection(&names).copied().collect())
}

/// The variables of a file as Docker, Kustomize and shells write them: `NAME=VALUE`, `export NAME='VALUE'`, `# …`.
fn variables_of(text: &str) -> impl Iterator<Item = (String, String)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
        let value = value.trim();
        let quoted = ['\'', '"'].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
        Some((name.trim().to_owned(), quoted.unwrap_or(value).to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_variables_is_read_as_shells_and_containers_write_it() {
        let text = "# A=0\n\nB=1\nexport C='two words'\nD=\"x=y\"\nMAIL_FROM=A <a@x.org>\nbroken\n";
        let read: Vec<(String, String)> = variables_of(text).collect();
        let expected = [("B", "1"), ("C", "two words"), ("D", "x=y"), ("MAIL_FROM", "A <a@x.org>")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_file_is_of_one_process_when_it_says_so() {
        let file = |text: &str| text.parse::<EnvFile>().expect("a file");
        assert_eq!(file("edge=a.env").process, Some(Edge));
        assert_eq!((file("a=b.env").process, file("a=b.env").path), (None, "a=b.env".into()));
    }

    #[test]
    fn a_folder_has_a_file_for_each_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = || Source {
            processes: Vec::new(),
            files: vec![folder.path().to_str().expect("UTF-8").parse().expect("a file")],
        };
        assert!(source().members().is_err());
        for (process, database) in [(IdentitySvc, "one"), (SubscriptionSvc, "other")] {
            let file = folder.path().join(process.name()).with_added_extension("env");
            std::fs::write(file, format!("AUTH_DB_USER={database}\n")).expect("written");
        }
        let members = source().members().expect("read");
        let told = members.iter().map(|member| (member.process, member.survey.text("AUTH_DB_USER")));
        assert_eq!(told.collect::<Vec<_>>(), [(IdentitySvc, "one"), (SubscriptionSvc, "other")]);
    }

    #[test]
    fn what_every_process_has_makes_none_of_them_meant() {
        let all: Vec<Member> = Process::ALL
            .into_iter()
            .map(|process| Member::of(process, BTreeMap::new(), Vec::new()))
            .collect();
        let shared = shared_names(&all);
        assert!(shared.contains("INTERNAL_GRPC_TOKEN") && shared.contains("LOG_LEVEL"), "{shared:?}");
        assert!(!shared.contains("AUTH_DB_HOST") && !shared.contains("CORE_MANAGER_URL"), "{shared:?}");
    }
}
