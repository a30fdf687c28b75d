//! Exporting accounts as one streamed file.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use contract::identity::{ExportUsersRequest, ExportUsersResponse, UserFilter};
use contract::{ErrorCode, Failure, Outcome, UserField};
use futures_util::stream;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use tonic::Streaming;
use utoipa::ToSchema;

use super::cells::{Format, Writer};
use crate::answer::Answer;
use crate::claims::{Admin, Rights};
use crate::front::RequestContext;
use crate::json::Json;
use crate::openapi::kinds;
use crate::routes::device;
use crate::services::{IDENTITY, Services, from_identity};

#[derive(Deserialize, ToSchema)]
#[schema(as = ExportUsers)]
pub struct Export {
    #[schema(pattern = "^(csv|json)$", example = "csv")]
    format: String,
    #[serde(default)]
    filters: Filters,
    /// All of them when there are none; each once.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeSet<kinds::UserColumn>)]
    fields: Vec<String>,
}

#[derive(Default, Deserialize, ToSchema)]
#[schema(as = ExportFilters)]
struct Filters {
    /// A part of the e-mail address.
    #[schema(min_length = 1, max_length = 255, example = "@example.com")]
    email: Option<String>,
    #[schema(value_type = Option<kinds::ClientId>)]
    client_id: Option<String>,
    #[schema(value_type = Option<kinds::Role>)]
    role: Option<String>,
    #[schema(value_type = Option<kinds::Tier>)]
    tier: Option<String>,
    #[schema(example = true)]
    is_active: Option<bool>,
}

impl Export {
    fn check(&self) -> Outcome<(Format, Vec<UserField>)> {
        let mut failure = Failure::new(ErrorCode::InvalidRequest);
        let format = match self.format.as_str() {
            "csv" => Some(Format::Csv),
            "json" => Some(Format::Json),
            _ => {
                failure.add_field("format", "must be one of csv, json");
                None
            }
        };
        let mut fields = Vec::new();
        for (place, name) in self.fields.iter().enumerate() {
            match name.parse() {
                Ok(field) if fields.contains(&field) => {
                    failure.add_field(format!("fields[{place}]"), "stands twice");
                }
                Ok(field) => fields.push(field),
                Err(fault) => failure.add_field(format!("fields[{place}]"), fault),
            }
        }
        if self.fields.is_empty() {
            fields = UserField::ALL.to_vec();
        }
        format.filter(|_| failure.fields().is_empty()).map(|format| (format, fields)).ok_or(failure)
    }
}

#[utoipa::path(
    post,
    path = "/export",
    operation_id = "export_users",
    summary = "Export accounts as one file",
    description = "Streamed; an error in the middle breaks the body off.",
    request_body = Export,
    responses((status = 200, content(
        (String = "text/csv", example = json!("id,email\r\n0199c0de-0000-7000-8000-000000000001,ada@example.com\r\n")),
        (Vec<serde_json::Map<String, serde_json::Value>> = "application/json", example = json!([{ "email": "ada@example.com" }])),
    ))),
)]
pub async fn export(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    Extension(rights): Extension<Rights>,
    headers: HeaderMap,
    Json(body): Json<Export>,
) -> Answer<Response> {
    let (format, fields) = body.check()?;
    let Filters { email, client_id, role, tier, is_active } = body.filters;
    let request = ExportUsersRequest {
        actor_id: caller.user_id().to_owned(),
        device: Some(device(&context, &headers)),
        filter: Some(UserFilter { email, client_id, role, tier, is_active }),
        format: body.format,
        fields: fields.iter().map(|field| field.name().to_owned()).collect(),
    };
    let pages = from_identity(services.admin().export_users(context.call(request)).await)?;
    let writer = Writer::new(format, fields);
    let begin = writer.begin()?;
    let document = Document { pages, writer, context, rights, part: Part::Begin(begin) };
    let chunks = stream::try_unfold(document, async |mut document| {
        let chunk = document.next().await.inspect_err(|failure| document.report(failure))?;
        Ok::<_, Failure>(chunk.map(|chunk| (chunk, document)))
    });
    let (media_type, ending) = match format {
        Format::Csv => ("text/csv; charset=utf-8; header=present", "csv"),
        Format::Json => ("application/json", "json"),
    };
    let name = format!("attachment; filename=\"users-{}.{ending}\"", Utc::now().format("%Y%m%dT%H%M%SZ"));
    let name = HeaderValue::try_from(name).map_err(Failure::internal)?;
    let headers = [(CONTENT_TYPE, HeaderValue::from_static(media_type)), (CONTENT_DISPOSITION, name)];
    Ok((headers, Body::from_stream(chunks)).into_response())
}

/// The file on its way. An error in the middle breaks the chunked body off, so that nobody takes a part for the whole.
struct Document {
    pages: Streaming<ExportUsersResponse>,
    writer: Writer,
    context: RequestContext,
    rights: Rights,
    part: Part,
}

enum Part {
    Begin(Vec<u8>),
    Rows,
    End,
}

impl Document {
    async fn next(&mut self) -> Outcome<Option<Vec<u8>>> {
        // It goes on for as long as its reader likes.
        self.rights.must_stand()?;
        self.rights.must_be_of_this_epoch()?;
        match std::mem::replace(&mut self.part, Part::Rows) {
            Part::Begin(bytes) => Ok(Some(bytes)),
            Part::Rows => match self.pages.message().await {
                Ok(Some(page)) => Ok(Some(self.writer.rows(page.users)?)),
                Ok(None) => {
                    self.part = Part::End;
                    Ok(Some(self.writer.end()))
                }
                Err(status) => Err(Failure::from_status(status, IDENTITY)),
            },
            Part::End => {
                self.part = Part::End;
                Ok(None)
            }
        }
    }

    /// The headers have gone out: the log is all that can still say why.
    fn report(&self, failure: &Failure) {
        let cause = failure.cause().map(|cause| cause.to_string());
        tracing::warn!(request_id = self.context.id(), cause, "an export broke off: {failure}");
    }
}
