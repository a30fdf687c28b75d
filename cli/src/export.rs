//! `persona export`: all accounts as one file, taken as it comes.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use contract::UserField;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::Outcome;
use crate::http::root_cause;
use crate::output::{Fault, Output};
use crate::rest::Rest;
use crate::users::Filters;

const EXPORT: &str = "/api/v1/admin/users/export";
/// How long the platform may be silent in the middle.
const SILENCE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub struct Options {
    /// Where to; stdout by default
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

impl Options {
    /// What is asked for.
    fn body(&self) -> Value {
        let format = match self.format {
            Format::Csv => "csv",
            Format::Json => "json",
        };
        let fields: Vec<&str> = self.fields.iter().map(|field| field.name()).collect();
        let filters = self.filters.parameters().into_iter();
        let filters: Map<_, _> =
            filters.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        json!({ "format": format, "filters": filters, "fields": fields })
    }
}

/// `persona export …`
pub async fn run(options: &Options, output: Output) -> Outcome {
    let response = Rest::from_environment()?.stream(EXPORT, &options.body()).await?;
    let Some(path) = &options.file else {
        take(response.into_body(), &mut io::stdout().lock()).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let bytes = keep(response.into_body(), path).await?;
    let told = json!({ "file": path, "bytes": bytes });
    output.show(&told, |_| format!("{}: {bytes} bytes\n", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Under its name only once it is whole.
async fn keep(body: Incoming, path: &Path) -> Result<u64, Fault> {
    let fault = |error: io::Error| Fault::said(format!("{}: {error}", path.display()));
    let draft = path.with_added_extension("part");
    let mut file = File::create(&draft).map_err(fault)?;
    let taken = take(body, &mut file).await;
    let kept = match taken {
        Ok(bytes) => {
            file.sync_all().and_then(|()| std::fs::rename(&draft, path)).map_err(fault).map(|()| bytes)
        }
        Err(error) => Err(error),
    };
    if kept.is_err() {
        // What is not whole is worth nothing.
        let _ = std::fs::remove_file(&draft);
    }
    kept
}

async fn take(mut body: Incoming, to: &mut impl Write) -> Result<u64, Fault> {
    let style = ProgressStyle::with_template("{spinner} {bytes} {bytes_per_sec}")
        .unwrap_or_else(|fault| unreachable!("the template is one: {fault}"));
    let bar = ProgressBar::no_length().with_style(style);
    let broken = |why: &str| Fault::said(format!("the export broke off: {why}"));
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await;
        let frame = frame.map_err(|_| broken("nothing came for a minute"))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| broken(&root_cause(&error)))?;
        if let Ok(data) = frame.into_data() {
            to.write_all(&data).map_err(Fault::said)?;
            bar.inc(data.len() as u64);
        }
    }
    to.flush().map_err(Fault::said)?;
    bar.finish_and_clear();
    Ok(bar.position())
}
