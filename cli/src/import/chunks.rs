//! A file of accounts, in pieces that are files of accounts themselves.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

use csv::{Reader, ReaderBuilder, StringRecord, Writer};
use serde::Serialize;
use serde_json::Value;

use crate::output::{Fault, cell};

/// Bytes of rows beyond which a piece takes no more. The platform takes 64 MiB, unless it is told otherwise.
const FULL: usize = 4 * 1024 * 1024;
/// Bytes of the longest row that the platform takes: a longer one would have it refuse the whole piece.
const LONGEST: usize = 64 * 1024;

/// What is wrong with a row, by the line on which it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowFault {
    pub line: u64,
    pub field: String,
    pub message: String,
}

/// Some rows.
#[derive(Debug, Default)]
pub struct Chunk {
    /// With the names of the columns first.
    pub csv: Vec<u8>,
    /// The line of each row.
    pub lines: Vec<u64>,
    /// Rows that are not sent.
    pub refused: Vec<RowFault>,
}

impl Chunk {
    /// How many rows of the file it is.
    pub fn rows(&self) -> u64 {
        (self.lines.len() + self.refused.len()) as u64
    }

    /// What is wrong with its rows, in the order of the file. The platform counts the rows of what it is sent, the names
    /// of the columns first.
    pub fn faults(&self, result: &Value) -> Vec<RowFault> {
        let errors = result["errors"].as_array().into_iter().flatten();
        let line = |row: u64| self.lines.get(usize::try_from(row).ok()?.checked_sub(2)?).copied();
        let found = errors.map(|error| RowFault {
            line: error["row"].as_u64().and_then(line).unwrap_or_default(),
            field: cell(&error["field"]),
            message: cell(&error["message"]),
        });
        let mut faults: Vec<RowFault> = self.refused.iter().cloned().chain(found).collect();
        faults.sort_by_key(|fault| fault.line);
        faults
    }
}

/// The file as it is read.
pub struct Chunks {
    reader: Reader<File>,
    path: PathBuf,
    length: u64,
    rows: usize,
    header: StringRecord,
    email: usize,
    /// Hashes of the addresses so far: those of former pieces are known nowhere else.
    seen: HashSet<u64>,
    hasher: RandomState,
}

impl Chunks {
    /// In pieces of so many rows at most.
    ///
    /// # Errors
    /// When it cannot be read, or has no column `email`.
    pub fn open(path: &Path, rows: usize) -> Result<Chunks, Fault> {
        let fault = |what: &dyn ToString| Fault::said(format!("{}: {}", path.display(), what.to_string()));
        let file = File::open(path).map_err(|error| fault(&error))?;
        let length = file.metadata().map_err(|error| fault(&error))?.len();
        let mut reader = ReaderBuilder::new().flexible(true).from_reader(file);
        let header = reader.headers().map_err(|error| fault(&error))?.clone();
        let email = header.iter().position(|name| name.trim().eq_ignore_ascii_case("email"));
        let email = email.ok_or_else(|| fault(&"must be a CSV file with a column email"))?;
        let (seen, hasher) = (HashSet::new(), RandomState::new());
        Ok(Chunks { reader, path: path.to_owned(), length, rows, header, email, seen, hasher })
    }

    /// Bytes of the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes that were read.
    pub fn position(&self) -> u64 {
        self.reader.position().byte()
    }

    /// Passes rows over that are done.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn skip(&mut self, rows: u64) -> Result<(), Fault> {
        let mut record = StringRecord::new();
        for _ in 0..rows {
            if self.read(&mut record)?.is_none() {
                break;
            }
            if record.len() == self.header.len() {
                self.is_new(&record);
            }
        }
        Ok(())
    }

    /// The next rows; none at the end.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn next(&mut self) -> Result<Option<Chunk>, Fault> {
        let mut chunk = Chunk::default();
        let mut csv = Writer::from_writer(Vec::new());
        csv.write_record(&self.header).map_err(Fault::said)?;
        let (mut record, mut bytes) = (StringRecord::new(), 0);
        while chunk.rows() < self.rows as u64 && bytes < FULL {
            let Some(line) = self.read(&mut record)? else { break };
            let fault = |field: &str, message: String| RowFault { line, field: field.to_owned(), message };
            if record.len() != self.header.len() {
                let message =
                    format!("has {} cells where the first row has {}", record.len(), self.header.len());
                chunk.refused.push(fault("row", message));
            } else if length(&record) > LONGEST {
                chunk.refused.push(fault("row", format!("has more than {LONGEST} bytes")));
            } else if !self.is_new(&record) {
                chunk.refused.push(fault("email", "stands twice in the file".to_owned()));
            } else {
                csv.write_record(&record).map_err(Fault::said)?;
                bytes += record.as_slice().len();
                chunk.lines.push(line);
            }
        }
        chunk.csv = csv.into_inner().map_err(|error| Fault::said(error.to_string()))?;
        Ok((chunk.rows() > 0).then_some(chunk))
    }

    /// The line on which the next row begins.
    fn read(&mut self, record: &mut StringRecord) -> Result<Option<u64>, Fault> {
        match self.reader.read_record(record) {
            Ok(true) => Ok(Some(record.position().map_or(0, csv::Position::line))),
            Ok(false) => Ok(None),
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                Err(Fault::said(format!("{}:{line}: cannot be read: {error}", self.path.display())))
            }
        }
    }

    /// Only of a row that has all cells.
    fn is_new(&mut self, record: &StringRecord) -> bool {
        let address = record.get(self.email).unwrap_or_default().trim().to_lowercase();
        // What has none is for the platform to refuse.
        address.is_empty() || self.seen.insert(self.hasher.hash_one(address))
    }
}

/// The most bytes that a row comes to when it is written: with quotes, doubled ones, and what divides cells.
fn length(record: &StringRecord) -> usize {
    record.iter().map(|cell| cell.len() + cell.matches('"').count() + 3).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(text: &str) -> (PathBuf, impl Drop + use<>) {
        struct Gone(PathBuf);
        impl Drop for Gone {
            fn drop(&mut self) {
                let _ = std::fs::remove_file(&self.0);
            }
        }
        let path = std::env::temp_dir().join(format!("persona-chunks-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, text).expect("written");
        (path.clone(), Gone(path))
    }

    #[test]
    fn pieces_are_files_themselves_and_faults_have_the_lines_of_the_whole() {
        let (path, _gone) = file(
            "\u{feff}Email,company\na@x.org,\"two\nlines\"\nb@x.org,\nbad,\nc@x.org,1,2\nA@x.org ,\nd@x.org,x\n",
        );
        let mut chunks = Chunks::open(&path, 2).expect("a file");
        let first = chunks.next().expect("read").expect("rows");
        assert_eq!(String::from_utf8_lossy(&first.csv), "Email,company\na@x.org,\"two\nlines\"\nb@x.org,\n");
        assert_eq!(first.lines, [2, 4]);
        let second = chunks.next().expect("read").expect("rows");
        let errors = json!({ "errors": [{ "row": 2, "field": "email", "message": "must be one" }] });
        let told: Vec<(u64, String)> =
            second.faults(&errors).into_iter().map(|fault| (fault.line, fault.field)).collect();
        assert_eq!(told, [(5, "email".to_owned()), (6, "row".to_owned())]);
        let third = chunks.next().expect("read").expect("rows");
        assert_eq!(
            (third.refused[0].line, third.refused[0].message.as_str()),
            (7, "stands twice in the file")
        );
        assert_eq!(third.lines, [8]);
        assert!(chunks.next().expect("read").is_none());
    }

    #[test]
    fn what_is_passed_over_is_remembered() {
        let (path, _gone) = file("email\na@x.org\nb@x.org\na@x.org\n");
        let mut chunks = Chunks::open(&path, 10).expect("a file");
        chunks.skip(2).expect("skipped");
        let rest = chunks.next().expect("read").expect("rows");
        assert_eq!((rest.lines.len(), rest.refused.len(), rest.rows()), (0, 1, 1));
    }

    #[test]
    fn a_row_that_was_refused_for_its_cells_is_not_remembered_by_its_address() {
        let text = "company,email\na@x.org\n1,b@x.org,2\n1,b@x.org\n";
        let (path, _gone) = file(text);
        let mut chunks = Chunks::open(&path, 10).expect("a file");
        chunks.skip(2).expect("skipped");
        let rest = chunks.next().expect("read").expect("rows");
        assert_eq!((rest.lines, rest.refused), (vec![4], vec![]));
    }

    #[test]
    fn a_row_that_the_platform_does_not_take_is_refused_alone() {
        let long = "\"\"".repeat(LONGEST / 2 - 4);
        let (path, _gone) = file(&format!("email,company\na@x.org,\"{long}\"\nb@x.org,x\n"));
        let chunk = Chunks::open(&path, 10).expect("a file").next().expect("read").expect("rows");
        assert_eq!((chunk.lines, chunk.refused[0].line, chunk.refused.len()), (vec![3], 2, 1));
        assert!(chunk.refused[0].message.contains("65536 bytes"), "{:?}", chunk.refused);
    }

    #[test]
    fn what_is_no_file_of_accounts_is_refused() {
        for text in ["", "name\nx\n"] {
            let (path, _gone) = file(text);
            assert!(Chunks::open(&path, 1).is_err(), "{text:?}");
        }
    }
}
