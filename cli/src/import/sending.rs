//! Files of accounts on their way to the platform, and what it says of them.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Tally;
use crate::output::{Fault, cell};
use crate::rest::{Rest, not_ours};

const IMPORT: &str = "/api/v1/admin/users/import";
/// How long the platform may take for a piece, most of which is hashing passwords.
const LIMIT: Duration = Duration::from_secs(300);
/// How long is waited with a piece, in all, for what passes by itself.
const PATIENCE: Duration = Duration::from_secs(180);
/// The shortest pause.
const PAUSE: Duration = Duration::from_secs(1);

/// Sends a file of accounts, and looks whether all of its rows are accounted for.
pub async fn upload(
    rest: &Rest,
    client_id: &str,
    csv: &[u8],
    rows: u64,
    dry_run: bool,
) -> Result<(Value, Tally), Fault> {
    let boundary = Uuid::new_v4().simple();
    let head = |part: &str| format!("--{boundary}\r\ncontent-disposition: form-data; name={part}\r\n\r\n");
    let client_id = format!("{}{client_id}\r\n", head("\"client_id\""));
    let file = head("\"file\"; filename=\"users.csv\"");
    let end = format!("\r\n--{boundary}--\r\n");
    let body = [client_id.as_bytes(), file.as_bytes(), csv, end.as_bytes()].concat();
    let path = if dry_run { format!("{IMPORT}?dry_run=true") } else { IMPORT.to_owned() };
    let media_type = format!("multipart/form-data; boundary={boundary}");
    let result = rest.upload(&path, &media_type, Bytes::from(body), LIMIT).await?;
    let tally = accounted(&result, rows, dry_run)?;
    Ok((result, tally))
}

/// What has become of so many rows; a fault when the answer does not say so of each.
fn accounted(result: &Value, rows: u64, dry_run: bool) -> Result<Tally, Fault> {
    let tally = Tally::deserialize(result).unwrap_or_default();
    let Tally { created, unchanged, failed, total } = tally;
    let sum = created.checked_add(unchanged).and_then(|sum| sum.checked_add(failed));
    if sum == Some(rows) && total == rows && result["dry_run"] == dry_run {
        return Ok(tally);
    }
    Err(not_ours(format!("{IMPORT}: of {rows} rows the answer accounts for {}", sum.unwrap_or(total))))
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
    upload(rest, client_id, &csv, 1, false).await.map(|(result, _)| result)
}

/// How long to wait until the same may be tried again, when so much was waited already: as long as the platform says, or
/// as long as so far. None when the fault does not pass by itself, or it takes too long.
pub fn pause(fault: &Fault, waited: Duration) -> Option<Duration> {
    let wanted = match fault {
        Fault::Usage(_) | Fault::Said(_) => return None,
        Fault::Unanswered { after, .. } => (*after)?,
        Fault::Refused(body) => {
            let told = body["error"]["retry_after"].as_u64().map(Duration::from_secs);
            match fault.code() {
                "GW001" | "GW002" | "GW003" => told.unwrap_or_default(),
                "RATE001" | "AUTH005" => told?,
                _ => return None,
            }
        }
    };
    let pause = if wanted.is_zero() { waited } else { wanted }.max(PAUSE);
    (pause <= PATIENCE.saturating_sub(waited)).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str, wait: Option<u64>) -> Fault {
        Fault::Refused(
            json!({ "error": { "code": code, "message": "no", "retry_after": wait }, "request_id": "r1" }),
        )
    }

    #[test]
    fn what_passes_is_tried_again_and_after_as_long_as_was_asked_for() {
        let pause = |fault: &Fault| pause(fault, Duration::ZERO).map(|pause| pause.as_secs());
        let away = |after| Fault::Unanswered { says: "reset".to_owned(), after };
        assert_eq!((pause(&refused("GW001", None)), pause(&refused("GW003", Some(7)))), (Some(1), Some(7)));
        assert_eq!((pause(&refused("RATE001", Some(7))), pause(&refused("RATE001", None))), (Some(7), None));
        for code in ["AUTH002", "REQ001", "REQ003", "SUB003", "SRV001"] {
            assert_eq!(pause(&refused(code, Some(7))), None, "{code}");
        }
        assert_eq!((pause(&away(Some(Duration::ZERO))), pause(&away(None))), (Some(1), None));
        assert_eq!((pause(&Fault::said("x")), pause(&Fault::Usage("x".to_owned()))), (None, None));
    }

    #[test]
    fn waiting_grows_and_has_an_end() {
        let (fault, mut waited, mut pauses) = (refused("GW001", None), Duration::ZERO, Vec::new());
        while let Some(next) = pause(&fault, waited) {
            waited += next;
            pauses.push(next.as_secs());
        }
        assert_eq!(pauses, [1, 1, 2, 4, 8, 16, 32, 64]);
        for wait in [0, 181, u64::MAX] {
            assert_eq!(pause(&refused("GW003", Some(wait)), PATIENCE), None);
        }
        assert_eq!(pause(&refused("RATE001", Some(181)), Duration::ZERO), None);
    }

    #[test]
    fn an_answer_that_does_not_account_for_each_row_is_none() {
        let said = json!({ "created": 1, "unchanged": 2, "failed": 1, "total": 4, "dry_run": false });
        assert_eq!(accounted(&said, 4, false).expect("all of them").unchanged, 2);
        let less = json!({ "created": 1, "unchanged": 2, "failed": 0, "total": 4, "dry_run": false });
        for (answer, rows, dry_run) in
            [(&json!({}), 4, false), (&said, 5, false), (&said, 4, true), (&less, 4, false)]
        {
            assert_eq!(accounted(answer, rows, dry_run).expect_err("a fault").code(), "CLI003", "{answer}");
        }
    }
}
