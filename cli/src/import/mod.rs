//! `persona import`: accounts from a CSV file. All of it is looked at before anything is made; then it goes in pieces, and
//! a note beside the file says how far it has come, so that an import that broke off goes on where it was. A piece of
//! which nobody knows what became of it is sent again: what is there stays as it is.

mod chunks;
mod note;
mod sending;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::output::{Fault, Output};
use crate::rest::Rest;
use crate::{FINDING, Outcome};

use chunks::{Chunk, Chunks, RowFault};
use note::Note;
use sending::{pause, upload};

pub use sending::one_row;

const BAR: &str = "{prefix:8} {wide_bar} {percent:>3} % {eta:>4}";

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
                let what = format!("goes on after row {} of {}", note.tally.total, file.display());
                self.output.notice(&what);
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
        let bar = self.output.progress(Some(chunks.length()), BAR);
        let bar = bar.with_prefix(if note.is_some() { "import" } else { "dry run" });
        while let Some(chunk) = chunks.next()? {
            let sent = self.send(&chunk, note.is_none()).await;
            let (result, of_piece) =
                sent.map_err(|fault| broken_off(fault, note.as_ref().map(|note| note.tally.total)))?;
            tally.created += of_piece.created;
            tally.unchanged += of_piece.unchanged;
            tally.failed += of_piece.failed + chunk.refused.len() as u64;
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

    /// Sends a piece, again after what passes by itself.
    async fn send(&self, chunk: &Chunk, dry_run: bool) -> Result<(Value, Tally), Fault> {
        let rows = chunk.lines.len() as u64;
        if rows == 0 {
            return Ok((Value::Null, Tally::default()));
        }
        let mut waited = Duration::ZERO;
        loop {
            let fault = match upload(&self.rest, &self.options.client_id, &chunk.csv, rows, dry_run).await {
                Err(fault) => fault,
                sent => return sent,
            };
            let Some(pause) = pause(&fault, waited) else { return Err(fault) };
            tokio::time::sleep(pause).await;
            waited += pause;
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

fn broken_off(fault: Fault, done: Option<u64>) -> Fault {
    match done {
        Some(done) => fault.and(&format!("{done} rows are done, run the same again to go on")),
        None => fault.and("nothing was imported"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_that_breaks_off_says_how_far_it_came_and_keeps_what_the_platform_said() {
        let told = json!({ "error": { "code": "AUTH002", "message": "no" }, "request_id": "r1" });
        let Fault::Refused(body) = broken_off(Fault::Refused(told), Some(40)) else { panic!("refused") };
        assert_eq!((&body["error"]["code"], &body["request_id"]), (&json!("AUTH002"), &json!("r1")));
        assert_eq!(body["error"]["message"], "no; 40 rows are done, run the same again to go on");
        assert_eq!(broken_off(Fault::said("no"), None).to_string(), "no; nothing was imported");
    }
}
