//! The rows of a file of users to import, read one by one.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::rc::Rc;

use chrono::DateTime;
use contract::identity::{ImportFault, ImportedRow};
use contract::{Failure, MAX_IMPORT_PASSWORDS, MAX_IMPORT_ROWS, Outcome, to_timestamp};
use csv::StringRecord;
use prost::Message;
use tokio::sync::mpsc;

/// Most rows of a file.
const MAX_ROWS: u64 = 1_000_000;
/// Longest row, in bytes; the reader reads this far ahead as well.
const MAX_ROW: usize = 64 * 1024;

/// Bytes of rows beyond which a batch takes no more: with the longest row it fits into a message of gRPC, at most 4 MiB.
const FULL: usize = 1024 * 1024;

/// Some rows, in the order of the file.
#[derive(Default)]
pub struct Batch {
    pub rows: Vec<ImportedRow>,
    bytes: usize,
    /// Rows that cannot be sent on, and why.
    pub refused: u64,
    pub faults: Vec<ImportFault>,
}

impl Batch {
    fn is_full(&self) -> bool {
        let passwords = self.rows.iter().filter(|row| row.password.is_some()).count();
        self.rows.len() + self.refused as usize >= MAX_IMPORT_ROWS
            || passwords >= MAX_IMPORT_PASSWORDS
            || self.bytes >= FULL
    }

    fn add(&mut self, row: ImportedRow) {
        self.bytes += row.encoded_len();
        self.rows.push(row);
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.refused == 0
    }
}

/// Reads the file and hands its rows on until it ends, it cannot be read, or nobody takes them any more. The first
/// thing to be handed on says whether it is a file of users at all. Blocks.
pub fn read(file: File, batches: &mpsc::Sender<Outcome<Batch>>) {
    let outcome = Rows::open(file).and_then(|mut rows| {
        loop {
            let batch = rows.batch()?;
            let is_last = batch.is_empty();
            if batches.blocking_send(Ok(batch)).is_err() || is_last {
                return Ok(());
            }
        }
    });
    if let Err(failure) = outcome {
        // Nobody is left to be told.
        let _ = batches.blocking_send(Err(failure));
    }
}

/// Ends a row that never ends: the reader below it would keep it whole in memory.
struct Leash<R> {
    inner: R,
    left: Rc<Cell<usize>>,
}

impl<R: Read> Read for Leash<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.left.get());
        if most == 0 {
            return Err(io::Error::other("too long"));
        }
        let count = self.inner.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - count);
        Ok(count)
    }
}

struct Rows<R> {
    reader: csv::Reader<Leash<R>>,
    left: Rc<Cell<usize>>,
    columns: Columns,
    width: usize,
    /// Rows so far, that with the names of the columns included, as a spreadsheet numbers them.
    row: u64,
    /// Hashes of the addresses so far: a dry run must find an address that stands twice, as an import does.
    seen: HashSet<u64>,
    hasher: RandomState,
}

/// Where each column stands.
#[derive(Debug, Default, PartialEq)]
struct Columns {
    email: usize,
    password_hash: Option<usize>,
    password: Option<usize>,
    role: Option<usize>,
    first_name: Option<usize>,
    last_name: Option<usize>,
    company: Option<usize>,
    email_verified: Option<usize>,
    is_active: Option<usize>,
    created_at: Option<usize>,
}

impl Columns {
    /// Unknown columns are passed over, as unknown fields of JSON are.
    fn of(header: &StringRecord) -> Outcome<Columns> {
        let mut columns = Columns::default();
        let mut email = None;
        for (place, name) in header.iter().enumerate() {
            let slot = match name.trim().to_ascii_lowercase().as_str() {
                "email" => &mut email,
                "password_hash" => &mut columns.password_hash,
                "password" => &mut columns.password,
                "role" => &mut columns.role,
                "first_name" => &mut columns.first_name,
                "last_name" => &mut columns.last_name,
                "company" => &mut columns.company,
                "email_verified" => &mut columns.email_verified,
                "is_active" => &mut columns.is_active,
                "created_at" => &mut columns.created_at,
                _ => continue,
            };
            if slot.replace(place).is_some() {
                return Err(Failure::field("file", format!("has the column {} twice", name.trim())));
            }
        }
        columns.email =
            email.ok_or_else(|| Failure::field("file", "must be a CSV file with a column email"))?;
        Ok(columns)
    }
}

impl<R: Read> Rows<R> {
    fn open(file: R) -> Outcome<Rows<R>> {
        let left = Rc::new(Cell::new(2 * MAX_ROW));
        let leash = Leash { inner: file, left: left.clone() };
        let mut reader = csv::ReaderBuilder::new().flexible(true).buffer_capacity(MAX_ROW).from_reader(leash);
        let header = reader.headers().map_err(|error| unreadable(&error, 1))?;
        let (columns, width) = (Columns::of(header)?, header.len());
        let (seen, hasher) = (HashSet::new(), RandomState::new());
        Ok(Rows { reader, left, columns, width, row: 1, seen, hasher })
    }

    /// The next rows; none at the end.
    fn batch(&mut self) -> Outcome<Batch> {
        let mut batch = Batch::default();
        let mut record = StringRecord::new();
        while !batch.is_full() {
            self.left.set(2 * MAX_ROW);
            let read = self.reader.read_record(&mut record);
            self.row += 1;
            match read {
                Ok(false) => break,
                Ok(true) if self.row > MAX_ROWS + 1 => {
                    return Err(Failure::field("file", format!("must have at most {MAX_ROWS} rows")));
                }
                Ok(true) => match self.parse(&record) {
                    Ok(row) => batch.add(row),
                    Err(faults) => {
                        batch.refused += 1;
                        batch.faults.extend(faults);
                    }
                },
                Err(error) => return Err(unreadable(&error, self.row)),
            }
        }
        Ok(batch)
    }

    fn parse(&mut self, record: &StringRecord) -> Result<ImportedRow, Vec<ImportFault>> {
        let row = self.row;
        let fault = |field: &str, message: &str| ImportFault {
            row,
            field: field.to_owned(),
            message: message.to_owned(),
        };
        if record.len() != self.width {
            let message = format!("has {} cells where the first row has {}", record.len(), self.width);
            return Err(vec![fault("row", &message)]);
        }
        let cell =
            |place: Option<usize>| place.and_then(|place| record.get(place)).filter(|cell| !cell.is_empty());
        let text = |place| cell(place).map(str::to_owned);
        let columns = &self.columns;
        let email = record.get(columns.email).unwrap_or_default();
        let mut faults = Vec::new();
        if email.trim().is_empty() {
            faults.push(fault("email", "is required"));
        } else if !self.seen.insert(self.hasher.hash_one(email.trim().to_lowercase())) {
            faults.push(fault("email", "stands twice in the file"));
        }
        if cell(columns.role).is_some_and(|role| role.trim() != "user") {
            faults.push(fault("role", "is not set by an import; leave it empty, or user"));
        }
        let mut flag = |name: &str, place| {
            let cell = cell(place)?;
            match cell.trim().to_ascii_lowercase().as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => {
                    faults.push(fault(name, "must be true or false"));
                    None
                }
            }
        };
        let (email_verified, is_active) =
            (flag("email_verified", columns.email_verified), flag("is_active", columns.is_active));
        let created_at =
            cell(columns.created_at).and_then(|time| match DateTime::parse_from_rfc3339(time.trim()) {
                Ok(time) => Some(to_timestamp(time.to_utc())),
                Err(_) => {
                    faults
                        .push(fault("created_at", "must be an RFC 3339 time, such as 2026-01-31T12:00:00Z"));
                    None
                }
            });
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(ImportedRow {
            row,
            email: email.to_owned(),
            password_hash: text(columns.password_hash),
            password: text(columns.password),
            first_name: text(columns.first_name),
            last_name: text(columns.last_name),
            company: text(columns.company),
            email_verified,
            is_active,
            created_at,
        })
    }
}

fn unreadable(error: &csv::Error, row: u64) -> Failure {
    match error.kind() {
        csv::ErrorKind::Utf8 { .. } => Failure::field("file", format!("is not UTF-8 in row {row}")),
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::Other => {
            Failure::field("file", format!("has a row of more than {MAX_ROW} bytes: row {row}"))
        }
        _ => Failure::internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use contract::identity::ImportUsersRequest;

    use super::*;

    fn rows(text: &str) -> Rows<&[u8]> {
        Rows::open(text.as_bytes()).expect("a file of users")
    }

    #[test]
    fn cells_are_found_by_the_names_of_their_columns() {
        let text = "\u{feff}Last_Name, EMAIL ,likes,is_active,created_at\r\n\"Love\nlace\",a@x.org,tea,FALSE,\r\n\
                    ,b@x.org,,,2020-01-31T12:00:00+01:00\n";
        let batch = rows(text).batch().expect("rows");
        assert!(batch.faults.is_empty(), "{:?}", batch.faults);
        let [one, two] = &batch.rows[..] else { panic!("{} rows", batch.rows.len()) };
        assert_eq!(
            (one.row, one.email.as_str(), one.last_name.as_deref()),
            (2, "a@x.org", Some("Love\nlace"))
        );
        assert_eq!((one.is_active, one.created_at), (Some(false), None));
        assert_eq!((two.row, two.is_active, two.last_name.as_deref()), (3, None, None));
        assert_eq!(two.created_at.map(|time| time.seconds), Some(1_580_468_400));
    }

    #[test]
    fn a_row_says_all_that_is_wrong_with_it_and_the_others_go_on() {
        let text =
            "email,role,is_active,created_at\n,admin,maybe,yesterday\na@x.org,user,,\nA@x.org ,,,\nb@x.org\n";
        let batch = rows(text).batch().expect("rows");
        assert_eq!((batch.rows.len(), batch.refused), (1, 3));
        let faults: Vec<(u64, &str)> =
            batch.faults.iter().map(|fault| (fault.row, fault.field.as_str())).collect();
        let expected =
            [(2, "email"), (2, "role"), (2, "is_active"), (2, "created_at"), (4, "email"), (5, "row")];
        assert_eq!(faults, expected);
    }

    #[test]
    fn a_batch_ends_before_there_are_too_many_passwords_or_rows() {
        let text = |password: &str| {
            let rows: String = (0..1200).map(|n| format!("u{n}@x.org,{password}\n")).collect();
            format!("email,password\n{rows}")
        };
        let sizes = |text: &str| {
            let mut rows = rows(text);
            let sizes = std::iter::from_fn(|| Some(rows.batch().expect("rows").rows.len()));
            sizes.take_while(|size| *size > 0).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&text("")), [500, 500, 200]);
        assert_eq!(sizes(&text("secret")), [25; 48]);
    }

    #[test]
    fn a_batch_of_long_rows_fits_into_one_message() {
        let company = "x".repeat(60_000);
        let text: String = (0..100).map(|n| format!("u{n}@x.org,{company}\n")).collect();
        let text = format!("email,company\n{text}");
        let mut rows = rows(&text);
        let batches: Vec<Batch> = std::iter::from_fn(|| Some(rows.batch().expect("rows")))
            .take_while(|batch| !batch.is_empty())
            .collect();
        assert_eq!(batches.iter().map(|batch| batch.rows.len()).sum::<usize>(), 100);
        for batch in batches {
            let message = ImportUsersRequest { rows: batch.rows, ..ImportUsersRequest::default() };
            assert!(message.encoded_len() < 2 * 1024 * 1024, "{} bytes", message.encoded_len());
        }
    }

    #[test]
    fn what_is_no_file_of_users_is_refused() {
        let long = format!("email\n\"{}\"\n", "x".repeat(3 * MAX_ROW));
        for (text, fault) in [
            ("", "column email"),
            ("{\"email\": 1}", "column email"),
            ("name\nx\n", "column email"),
            ("email,Email\n", "twice"),
            (long.as_str(), "more than"),
        ] {
            let refused = Rows::open(text.as_bytes()).and_then(|mut rows| rows.batch().map(drop));
            let said = format!("{:?}", refused.expect_err("refused").fields());
            assert!(said.contains(fault), "{text:.20}: {said}");
        }
        let refused = Rows::open(&b"email\n\xff\n"[..]).and_then(|mut rows| rows.batch().map(drop));
        assert!(format!("{:?}", refused.expect_err("refused").fields()).contains("UTF-8"));
    }
}
