//! Importing accounts from a file. The file is taken whole into a temporary one first, whatever the order of the parts:
//! an upload that breaks off changes nothing, and memory stays flat.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::{Multipart, State};
use axum::response::{IntoResponse, Response};
use contract::identity::{Device, ImportUsersRequest, ImportUsersResponse, ImportedRow};
use contract::{ErrorCode, Failure, Outcome};
use futures_util::stream;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use utoipa::{IntoParams, ToSchema};

use super::rows::{self, Batch};
use crate::answer::{self, Answer};
use crate::claims::{Admin, Rights};
use crate::front::RequestContext;
use crate::json::Parameters;
use crate::openapi::kinds;
use crate::routes::{Edge, device};
use crate::services::{Services, from_identity};

/// Imports that one edge runs at once.
const AT_ONCE: usize = 2;
/// How long the next part of an upload may take to come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most errors that an answer has.
const MAX_ERRORS: usize = 1000;
/// Longest `client_id` that is read, in bytes; identity-svc says what it may be.
const MAX_CLIENT_ID: usize = 200;
/// How often some rows are sent while identity-svc is away or has no room. They may be: what is there stays.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
const NDJSON: &str = "application/x-ndjson";

/// What imports share.
pub struct Imports {
    limit: usize,
    places: Arc<Semaphore>,
}

impl Imports {
    pub fn new(limit: usize) -> Self {
        Imports { limit, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The largest file, in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn place(&self) -> Outcome<OwnedSemaphorePermit> {
        let place = self.places.clone().try_acquire_owned();
        place.map_err(|_| {
            let full = Failure::new(ErrorCode::Overloaded).retry_after(Duration::from_secs(10));
            full.saying("Other imports are running; try again later")
        })
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Mode {
    /// Whether the rows are only looked at.
    #[serde(default)]
    #[param(example = true)]
    dry_run: bool,
}

/// An error of one row.
#[derive(Serialize, ToSchema)]
struct RowError {
    /// As a spreadsheet numbers it: the names of the columns are row 1.
    #[schema(example = 2)]
    row: u64,
    #[schema(example = "email")]
    field: String,
    #[schema(example = "must be an e-mail address")]
    message: String,
}

/// What has come of the rows so far.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = ImportResult)]
struct Tally {
    #[schema(value_type = kinds::Count)]
    created: u64,
    #[schema(value_type = kinds::Count)]
    unchanged: u64,
    #[schema(value_type = kinds::Count)]
    failed: u64,
    #[schema(value_type = kinds::Count)]
    total: u64,
    dry_run: bool,
    /// The first 1000 at most.
    errors: Vec<RowError>,
}

/// The parts of an import.
#[derive(ToSchema)]
#[schema(as = ImportUsers)]
#[expect(dead_code, reason = "only described: the parts are read as they come")]
pub struct Parts {
    /// A CSV file with the names of its columns first; `email` must be one of them.
    #[schema(format = Binary, content_media_type = "text/csv", example = "email\r\nada@example.com\r\n")]
    file: String,
    #[schema(value_type = kinds::ClientId)]
    client_id: String,
}

#[utoipa::path(
    post,
    path = "/import",
    operation_id = "import_users",
    summary = "Import accounts from a file",
    description = "With `Accept: application/x-ndjson` the answer is lines of progress, the last of which has the result.",
    params(Mode),
    request_body(content = Parts, content_type = "multipart/form-data"),
    responses((status = 200, content(
        (Tally = "application/json"),
        (String = "application/x-ndjson", example = json!("{\"progress\":{\"total\":500}}\n")),
    ))),
    extensions(("x-errors" = json!(["GW003"]))),
)]
pub async fn import(
    Admin(caller): Admin,
    State(edge): State<Edge>,
    Extension(context): Extension<RequestContext>,
    Extension(mut rights): Extension<Rights>,
    headers: HeaderMap,
    Parameters(Mode { dry_run }): Parameters<Mode>,
    parts: Result<Multipart, MultipartRejection>,
) -> Answer<Response> {
    let parts = parts.map_err(|_| {
        Failure::new(ErrorCode::Unacceptable)
            .with_http(StatusCode::UNSUPPORTED_MEDIA_TYPE)
            .saying("The body must be multipart/form-data")
    })?;
    let place = edge.imports.place()?;
    let Upload { file, client_id } = Upload::receive(parts, edge.imports.limit, &mut rights).await?;
    rights.clone().confirm().await?;
    let (sender, batches) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || rows::read(file, &sender));
    let mut run = Run {
        services: edge.services,
        actor_id: caller.user_id().to_owned(),
        device: device(&context, &headers),
        context,
        rights,
        client_id,
        batches,
        tally: Tally { dry_run, ..Tally::default() },
        is_done: false,
        _place: place,
    };
    // Whatever makes the whole file or the caller wrong shows here, before an answer has begun.
    run.step().await?;
    let wants_lines =
        headers.get(ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(NDJSON.as_bytes()));
    if wants_lines {
        return Ok(run.into_lines());
    }
    while !run.is_done {
        run.step().await.map_err(|failure| failure.with_fact("rows_done", run.tally.total))?;
    }
    Ok(axum::Json(run.tally).into_response())
}

/// What came in the parts.
struct Upload {
    file: File,
    client_id: String,
}

impl Upload {
    /// However slowly they come: for as long as the rights of whoever sends them stand.
    async fn receive(mut parts: Multipart, limit: usize, rights: &mut Rights) -> Outcome<Upload> {
        let (mut file, mut client_id) = (None, None);
        while let Some(part) = patiently(parts.next_field()).await? {
            let name = part.name().unwrap_or_default().to_owned();
            let is_again = match name.as_str() {
                "file" => file.replace(save(part, limit, rights).await?).is_some(),
                "client_id" => client_id.replace(text(part, rights).await?).is_some(),
                _ => false,
            };
            rights.must_stand()?;
            if is_again {
                return Err(Failure::field(name, "must stand once"));
            }
        }
        match (file, client_id) {
            (Some(file), Some(client_id)) => Ok(Upload { file, client_id }),
            (file, client_id) => {
                let mut failure = Failure::new(ErrorCode::InvalidRequest);
                if file.is_none() {
                    failure.add_field("file", "is required");
                }
                if client_id.is_none() {
                    failure.add_field("client_id", "is required");
                }
                Err(failure)
            }
        }
    }
}

async fn patiently<T>(next: impl Future<Output = Result<T, MultipartError>>) -> Outcome<T> {
    match tokio::time::timeout(PATIENCE, next).await {
        Ok(next) => next.map_err(|error| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Failure::new(ErrorCode::Unacceptable).saying("The file is too large")
            }
            _ => Failure::field("body", "is not well-formed multipart/form-data, or ended too early")
                .because(error),
        }),
        Err(_) => Err(Failure::field("body", "did not go on for too long")),
    }
}

/// A file without a name that is gone when it is closed.
async fn save(mut part: Field<'_>, limit: usize, rights: &mut Rights) -> Outcome<File> {
    let file = tempfile::tempfile().map_err(Failure::internal)?;
    let mut file = tokio::fs::File::from_std(file);
    let mut length = 0;
    while let Some(chunk) = patiently(part.chunk()).await? {
        rights.must_stand()?;
        length += chunk.len();
        if length > limit {
            let fault = format!("The file is larger than {limit} bytes");
            return Err(Failure::new(ErrorCode::Unacceptable).saying(fault));
        }
        file.write_all(&chunk).await.map_err(Failure::internal)?;
    }
    file.flush().await.map_err(Failure::internal)?;
    let mut file = file.into_std().await;
    file.seek(SeekFrom::Start(0)).map_err(Failure::internal)?;
    Ok(file)
}

async fn text(mut part: Field<'_>, rights: &mut Rights) -> Outcome<String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = patiently(part.chunk()).await? {
        rights.must_stand()?;
        if bytes.len() + chunk.len() > MAX_CLIENT_ID {
            return Err(Failure::field("client_id", "is too long"));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| Failure::field("client_id", "must be text"))
}

/// An import on its way.
struct Run {
    services: Services,
    context: RequestContext,
    rights: Rights,
    actor_id: String,
    device: Device,
    client_id: String,
    batches: mpsc::Receiver<Outcome<Batch>>,
    tally: Tally,
    is_done: bool,
    _place: OwnedSemaphorePermit,
}

impl Run {
    /// Sends the next rows on. A file without rows is one call all the same, which looks at the caller.
    async fn step(&mut self) -> Outcome<()> {
        self.rights.must_not_be_taken()?;
        self.rights.must_be_of_this_epoch()?;
        let batch = match self.batches.recv().await {
            Some(batch) => batch?,
            None => return Err(Failure::internal("the reader of a file broke off")),
        };
        let Batch { rows, refused, faults, .. } = batch;
        self.is_done = rows.is_empty() && refused == 0;
        if self.is_done && self.tally.total > 0 {
            return Ok(());
        }
        let sent = rows.len() as u64;
        let answer = self.send(rows).await?;
        let tally = &mut self.tally;
        tally.created += answer.created;
        tally.unchanged += answer.unchanged;
        tally.failed += answer.failed + refused;
        tally.total += sent + refused;
        let mut faults: Vec<_> = faults.into_iter().chain(answer.faults).collect();
        faults.sort_by_key(|fault| fault.row);
        let room = MAX_ERRORS - tally.errors.len();
        let errors = faults.into_iter().take(room);
        tally.errors.extend(errors.map(|fault| RowError {
            row: fault.row,
            field: fault.field,
            message: fault.message,
        }));
        Ok(())
    }

    async fn send(&self, rows: Vec<ImportedRow>) -> Outcome<ImportUsersResponse> {
        let request = ImportUsersRequest {
            actor_id: self.actor_id.clone(),
            device: Some(self.device.clone()),
            client_id: self.client_id.clone(),
            dry_run: self.tally.dry_run,
            rows,
        };
        let mut attempt = 1;
        loop {
            let call = self.context.call(request.clone());
            match from_identity(self.services.admin().import_users(call).await) {
                Err(failure) if attempt < ATTEMPTS && may_pass(&failure) => {
                    tokio::time::sleep(failure.wait().unwrap_or(PAUSE * attempt)).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Progress as lines of JSON, the last of which has the result or the error.
    fn into_lines(self) -> Response {
        let lines = stream::unfold(Some(self), async |run| {
            let mut run = run?;
            let step = if run.is_done { Ok(()) } else { run.step().await };
            let (line, run) = match step {
                Ok(()) if run.is_done => (json!({ "result": run.tally }), None),
                Ok(()) => (json!({ "progress": run.progress() }), Some(run)),
                Err(failure) => (run.broken(failure), None),
            };
            Some((Ok::<_, Failure>(format!("{line}\n")), run))
        });
        let media_type = (CONTENT_TYPE, HeaderValue::from_static(NDJSON));
        ([media_type], Body::from_stream(lines)).into_response()
    }

    fn progress(&self) -> Value {
        let Tally { created, unchanged, failed, total, dry_run, .. } = self.tally;
        json!({
            "created": created, "unchanged": unchanged, "failed": failed, "total": total, "dry_run": dry_run,
        })
    }

    fn broken(&self, failure: Failure) -> Value {
        let cause = failure.cause().map(|cause| cause.to_string());
        tracing::warn!(request_id = self.context.id(), cause, "an import broke off: {failure}");
        answer::body(&failure.with_fact("rows_done", self.tally.total), self.context.id())
    }
}

fn may_pass(failure: &Failure) -> bool {
    matches!(failure.code(), ErrorCode::Unavailable | ErrorCode::Timeout | ErrorCode::Overloaded)
}
