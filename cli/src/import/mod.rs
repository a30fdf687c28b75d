//! `persona import`: accounts from a CSV file. All of it is looked at before anything is made; then it goes in pieces, and
//! a note beside the file says how far it has come, so that an import that broke off goes on where it was. A piece of
//! which nobody knows what became of it is sent again: what is there stays as it is.

mod chunks;
mod note;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::output::{Fault, Output, cell};
use crate::rest::Rest;
use crate::{FINDING, Outcome};

use chunks::{Chunk, Chunks, RowFault};
use note::Note;

const IMPORT: &str = "/api/v1/admin/users/import";
/// How long the platform may take for a piece, most of which is hashing passwords.
const LIMIT: Duration = Duration::from_secs(300);
/// How often a piece is sent while the platform is away or busy.
const ATTEMPTS: u32 = 6;

#[derive(clap::Args)]
pub struct Options {
    /// A CSV file with the names of its columns first: `email` and, if wanted, `password_hash` or `password`, `first_name`,
    /// `last_name`, `company`, `email_verified`, `is_active`, `created_at`
    file: PathBuf,
    /// The client that the accounts belong to
    #[arg(long)]
    client_id: String,
    /// Only look at the rows
    #[arg(long)]
    dry_run: bool,
    /// Import the other rows when some are faulty
    #[arg(long)]
    skip_faulty: bool,
    /// Rows of one request
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=5000))]
    rows: u16,
}

/// What has come of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    pub created: u64,
    pub unchanged: u64,
    pub failed: u64,
    pub total: u64,
}

/// `persona import …`
pub async fn run(options: &Options, output: Output) -> Outcome {
    let import =
        Import { options, output, rest: Rest::from_environment()?, told: HashSet::new(), faults: Vec::new() };
    import.run().await
}

struct Import<'a> {
    options: &'a Options,
    output: Output,
    rest: Rest,
    /// Faults that were told already.
    told: HashSet<(u64, String)>,
    faults: Vec<RowFault>,
}

impl Import<'_> {
    async fn run(mut self) -> Outcome {
        let file = &self.options.file;
        let found = if self.options.dry_run { None } else { Note::find(file, &self.options.client_id)? };
        let mut note = match found {
            Some(note) => {
                eprintln!("persona: goes on after row {} of {}", note.tally.total, file.display());
                note
            }
            None => {
                let looked = self.pass(None).await?;
                if self.options.dry_run || looked.failed > 0 && !self.options.skip_faulty {
                    return self.end(looked, true);
                }
                Note::begin(file, &self.options.client_id)?
            }
        };
        let tally = self.pass(Some(&mut note)).await?;
        note.remove()?;
        self.end(tally, false)
    }

    /// Goes through the file: for real with a note of how far it has come, or else only to look.
    async fn pass(&mut self, mut note: Option<&mut Note>) -> Result<Tally, Fault> {
        let mut chunks = Chunks::open(&self.options.file, usize::from(self.options.rows))?;
        let mut tally = note.as_ref().map(|note| note.tally).unwrap_or_default();
        chunks.skip(tally.total)?;
        let bar = bar(chunks.length(), if note.is_some() { "import" } else { "dry run" });
        while let Some(chunk) = chunks.next()? {
            let sent = self.send(&chunk, note.is_none()).await;
            let result =
                sent.map_err(|fault| broken_off(&fault, note.as_ref().map(|note| note.tally.total)))?;
            let count = |name: &str| result[name].as_u64().unwrap_or_default();
            tally.created += count("created");
            tally.unchanged += count("unchanged");
            tally.failed += count("failed") + chunk.refused.len() as u64;
            tally.total += chunk.rows();
            if let Some(note) = &mut note {
                note.keep(tally)?;
            }
            bar.suspend(|| self.tell(chunk.faults(&result)));
            bar.set_position(chunks.position());
        }
        bar.finish_and_clear();
        Ok(tally)
    }

    async fn send(&self, chunk: &Chunk, dry_run: bool) -> Result<Value, Fault> {
        if chunk.lines.is_empty() {
            return Ok(Value::Null);
        }
        let mut attempt = 1;
        loop {
            match upload(&self.rest, &self.options.client_id, &chunk.csv, dry_run).await {
                Err(fault) if attempt < ATTEMPTS && may_pass(&fault) => {
                    tokio::time::sleep(pause(&fault, attempt)).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// The dry run finds what the import then finds again.
    fn tell(&mut self, faults: Vec<RowFault>) {
        for fault in faults {
            if self.told.insert((fault.line, fault.field.clone())) {
                if self.output == Output::Text {
                    eprintln!(
                        "{}:{}: {} {}",
                        self.options.file.display(),
                        fault.line,
                        fault.field,
                        fault.message
                    );
                }
                self.faults.push(fault);
            }
        }
    }

    fn end(self, tally: Tally, dry_run: bool) -> Outcome {
        let Tally { created, unchanged, failed, total } = tally;
        let result = json!({
            "created": created, "unchanged": unchanged, "failed": failed, "total": total, "dry_run": dry_run,
            "faults": self.faults,
        });
        self.output.show(&result, |_| {
            let what = if dry_run { "would be made" } else { "made" };
            let nothing = if dry_run && !self.options.dry_run {
                "; nothing was imported: mend the file, or say --skip-faulty"
            } else {
                ""
            };
            format!("{total} rows: {created} accounts {what}, {unchanged} there already, {failed} faulty{nothing}\n")
        })?;
        Ok(if failed > 0 { ExitCode::from(FINDING) } else { ExitCode::SUCCESS })
    }
}

/// On a terminal alone.
fn bar(length: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:8} {wide_bar} {percent:>3} % {eta:>4}")
        .unwrap_or_else(|fault| unreachable!("the template is one: {fault}"));
    ProgressBar::new(length).with_style(style).with_prefix(what)
}

fn broken_off(fault: &Fault, done: Option<u64>) -> Fault {
    match done {
        Some(done) => Fault::said(format!("{fault}; {done} rows are done, run the same again to go on")),
        None => Fault::said(format!("{fault}; nothing was imported")),
    }
}

fn may_pass(fault: &Fault) -> bool {
    match fault {
        Fault::Usage(_) => false,
        // The edge could not be reached, or the answer was lost.
        Fault::Said(_) => true,
        Fault::Refused(_) => {
            matches!(fault.code(), Some("GW001" | "GW002" | "GW003" | "RATE001" | "AUTH005"))
        }
    }
}

fn pause(fault: &Fault, attempt: u32) -> Duration {
    let wanted = match fault {
        Fault::Refused(body) => body["error"]["retry_after"].as_u64(),
        _ => None,
    };
    Duration::from_secs(wanted.unwrap_or(1 << (attempt - 1)))
}

/// Sends a file of accounts.
async fn upload(rest: &Rest, client_id: &str, csv: &[u8], dry_run: bool) -> Result<Value, Fault> {
    let boundary = Uuid::new_v4().simple();
    let head = |part: &str| format!("--{boundary}\r\ncontent-disposition: form-data; name={part}\r\n\r\n");
    let client_id = format!("{}{client_id}\r\n", head("\"client_id\""));
    let file = head("\"file\"; filename=\"users.csv\"");
    let end = format!("\r\n--{boundary}--\r\n");
    let body = [client_id.as_bytes(), file.as_bytes(), csv, end.as_bytes()].concat();
    let path = if dry_run { format!("{IMPORT}?dry_run=true") } else { IMPORT.to_owned() };
    let media_type = format!("multipart/form-data; boundary={boundary}");
    rest.upload(&path, &media_type, Bytes::from(body), LIMIT).await
}

/// Makes one account.
///
/// # Errors
/// When the platform refuses the whole; what it says of the row stands in the result.
pub async fn one_row(
    rest: &Rest,
    client_id: &str,
    email: &str,
    password: Option<&str>,
) -> Result<Value, Fault> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    let rows = [["email", "password"], [email, password.unwrap_or_default()]];
    rows.iter().try_for_each(|row| csv.write_record(row)).map_err(Fault::said)?;
    let csv = csv.into_inner().map_err(|error| Fault::said(cell(&json!(error.to_string()))))?;
    upload(rest, client_id, &csv, false).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_tried_again_and_after_as_long_as_was_asked_for() {
        let refused = |code: &str| Fault::Refused(json!({ "error": { "code": code, "retry_after": 7 } }));
        assert!(may_pass(&refused("RATE001")) && may_pass(&Fault::said("reset")));
        assert!(!may_pass(&refused("AUTH002")) && !may_pass(&refused("REQ001")));
        assert_eq!(pause(&refused("RATE001"), 1), Duration::from_secs(7));
        assert_eq!(pause(&Fault::said("reset"), 3), Duration::from_secs(4));
    }
}
