//! `persona export`: all accounts as one file, taken as it comes.

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use contract::UserField;
use http_body_util::BodyExt;
use hyper::body::Body;
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use crate::Outcome;
use crate::http::root_cause;
use crate::output::{Fault, Output};
use crate::rest::Rest;
use crate::users::Filters;

const EXPORT: &str = "/api/v1/admin/users/export";
/// How long the platform may be silent in the middle.
const SILENCE: Duration = Duration::from_secs(60);
const BAR: &str = "{spinner} {bytes} {bytes_per_sec}";

#[derive(clap::Args)]
pub struct Options {
    /// Where to, for your eyes alone; stdout by default
    file: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "csv")]
    format: Format,
    /// A field that the file shall have; all by default; may be repeated
    #[arg(long = "field", value_name = "FIELD")]
    fields: Vec<UserField>,
    #[command(flatten)]
    filters: Filters,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Csv,
    Json,
}

impl Format {
    /// As the platform calls it, and the media type of its answer.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Format::Csv => ("csv", "text/csv"),
            Format::Json => ("json", "application/json"),
        }
    }
}

impl Options {
    /// What is asked for.
    fn body(&self) -> Value {
        let (format, _) = self.format.names();
        let fields: Vec<&str> = self.fields.iter().map(|field| field.name()).collect();
        let filters = self.filters.parameters().into_iter();
        let filters: Map<_, _> =
            filters.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        json!({ "format": format, "filters": filters, "fields": fields })
    }
}

/// `persona export …`
pub async fn run(options: &Options, output: Output) -> Outcome {
    let rest = Rest::from_environment()?;
    let draft = options.file.as_deref().map(draft).transpose()?;
    let (_, media_type) = options.format.names();
    let body = rest.stream(EXPORT, &options.body(), media_type).await?.into_body();
    let bar = output.progress(None, BAR);
    let Some((path, mut draft)) = options.file.as_ref().zip(draft) else {
        take(body, &mut io::stdout().lock(), &bar).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let bytes = take(body, &mut draft, &bar).await?;
    let kept = draft.as_file().sync_all().and_then(|()| Ok(draft.persist(path)?));
    kept.map_err(|error| unwritten(path, &error))?;
    let told = json!({ "file": path, "bytes": bytes });
    output.show(&told, |_| format!("{}: {bytes} bytes\n", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// A file beside the one that is meant, which gets its name once it is whole and is removed otherwise. Its own name cannot
/// be guessed, and nobody else may read it.
fn draft(path: &Path) -> Result<NamedTempFile, Fault> {
    // Such as a device, a pipe or a link: it would be replaced, not written to.
    if path.symlink_metadata().is_ok_and(|there| !there.is_file()) {
        let says =
            format!("{} is there and no regular file; without a name, accounts go to stdout", path.display());
        return Err(Fault::Usage(says));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default();
    let made = tempfile::Builder::new().prefix(name).suffix(".part").tempfile_in(folder);
    made.map_err(|error| unwritten(path, &error))
}

fn unwritten(path: &Path, error: &io::Error) -> Fault {
    Fault::said(format!("{}: {error}", path.display()))
}

/// Passes all of a body on, and says how many bytes that were.
async fn take<B>(mut body: B, to: &mut impl Write, bar: &ProgressBar) -> Result<u64, Fault>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Unpin,
{
    let broken = |why: &str| Fault::said(format!("the export broke off: {why}"));
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await;
        let frame = frame.map_err(|_| broken("nothing came for a minute"))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| broken(&root_cause(&error)))?;
        if let Ok(data) = frame.into_data() {
            match to.write_all(&data).and_then(|()| to.flush()) {
                // Whoever takes no more of it, as `head`, has enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                written => written.map_err(Fault::said)?,
            }
            bar.inc(data.len() as u64);
        }
    }
    bar.finish_and_clear();
    Ok(bar.position())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use http_body_util::Full;

    use super::*;

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn whoever_takes_no_more_has_enough_and_a_full_disk_is_a_fault() {
        let body = || Full::new(Bytes::from_static(b"email"));
        let (bar, mut taken) = (ProgressBar::hidden, Vec::new());
        assert_eq!(take(body(), &mut taken, &bar()).await.expect("taken"), 5);
        assert_eq!(take(body(), &mut Broken(io::ErrorKind::BrokenPipe), &bar()).await.expect("enough"), 0);
        assert!(take(body(), &mut Broken(io::ErrorKind::StorageFull), &bar()).await.is_err());
    }

    #[test]
    fn a_draft_is_for_ones_own_eyes_and_beside_a_regular_file_or_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("all.csv");
        let (one, other) = (draft(&path).expect("a draft"), draft(&path).expect("another"));
        assert!(one.path() != other.path() && one.path().parent() == Some(folder.path()));
        let mode = one.as_file().metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        for other in [folder.path(), &link, Path::new("/dev/null")] {
            assert_eq!(draft(other).expect_err("refused").code(), "CLI001", "{}", other.display());
        }
    }
}
