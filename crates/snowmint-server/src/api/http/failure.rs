//! How a failed request is answered: one shape for every error.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use http_body_util::Either;
use serde::Serialize;
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::body::Iso;
use super::{AnswerBody, header};
use crate::error::{Code, Error};

/// An error on its way out. It travels as an extension of the response, and is written by [`write`] where
/// the request's ID is known.
#[derive(Clone)]
pub(super) struct Failure(pub(super) Error);

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status(self.0.code);
        response.extensions_mut().insert(self);
        response
    }
}

/// A failed request.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorBody<'a> {
    error: ErrorDescription<'a>,
}

/// What went wrong.
#[derive(Serialize, ToSchema)]
struct ErrorDescription<'a> {
    /// What kind of failure. It never changes.
    #[schema(example = "INVALID_PARAMETER")]
    code: &'a str,
    /// What was wrong, where, and what would be right.
    message: &'a str,
    /// More of it, for programs.
    #[schema(value_type = Option<Object>)]
    details: Option<&'a serde_json::Value>,
    /// The request's `X-Request-Id`.
    request_id: &'a str,
    /// When, in UTC.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Iso,
}

/// Writes an error into a response, whose other headers (`Allow`) stay.
pub(super) fn write(
    error: &Error,
    request_id: &HeaderValue,
    now_ms: u64,
    response: &mut Response<AnswerBody>,
) {
    let body = ErrorBody {
        error: ErrorDescription {
            code: error.code.name(),
            message: &error.message,
            details: error.details.as_ref(),
            request_id: request_id.to_str().unwrap_or_default(),
            timestamp: Iso(now_ms),
        },
    };
    *response.status_mut() = match response.status() {
        // The code tells that the request is wrong, the status how.
        StatusCode::METHOD_NOT_ALLOWED => StatusCode::METHOD_NOT_ALLOWED,
        _ => status(error.code),
    };
    let headers = response.headers_mut();
    // The router has set that of the empty body.
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(ms) = error.retry_after_ms {
        headers.insert(RETRY_AFTER, header(ms.div_ceil(1_000)));
    }
    let json = serde_json::to_vec(&body).expect("text and numbers");
    *response.body_mut() = Either::Left(json.into());
}

fn status(code: Code) -> StatusCode {
    StatusCode::from_u16(code.http_status()).expect("the table has valid statuses")
}

/// The failures that any call may answer with, for its description.
pub(super) struct Failures;

impl IntoResponses for Failures {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let mut names: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
        for code in Code::ALL.into_iter().filter(|code| *code != Code::NotFound) {
            names.entry(code.http_status()).or_default().push(code.name());
        }
        let content = || Content::new(Some(Ref::from_schema_name("ErrorBody")));
        names
            .into_iter()
            .map(|(status, names)| {
                let response = ResponseBuilder::new().description(names.join(", "));
                (status.to_string(), RefOr::T(response.content("application/json", content()).build()))
            })
            .collect()
    }
}
