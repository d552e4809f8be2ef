//! What requests bring along: query parameters and JSON bodies, each refused with a clear error.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::failure::Failure;
use crate::error::{Code, Error};

/// How much of a body that is too large is read and thrown away, in bytes, so that the client, who is still
/// sending, gets to read the answer.
const DISCARD_BYTES_MAX: usize = 4 << 20;

/// The most bytes a body may have; found in a request's extensions.
#[derive(Clone, Copy)]
pub(super) struct BodyLimit(pub(super) usize);

/// Query parameters. One that is not known is refused: it is a mistake, most likely.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Query::try_from_uri(&parts.uri).map(|Query(params)| Self(params)).map_err(|error| {
            let cause =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Failure(Error::new(Code::InvalidParameter, format!("the query cannot be read: {cause}")))
        })
    }
}

/// A JSON body.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        // Read first: a client that is refused while it sends may never see why.
        let bytes = read(body, limit(&parts.extensions)).await?;
        check_type(&parts.headers)?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            Failure(Error::new(Code::InvalidRequest, format!("the body is not what it should be: {error}")))
        })
    }
}

fn limit(extensions: &Extensions) -> usize {
    extensions.get::<BodyLimit>().expect("every route has the layer that sets it").0
}

fn check_type(headers: &HeaderMap) -> Result<(), Error> {
    let given = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("not text"));
    let essence = given.map(|given| given.split(';').next().unwrap_or_default().trim());
    if essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    let given = given.map_or("missing".to_owned(), super::super::request::excerpt);
    Err(Error::new(Code::InvalidRequest, format!("the Content-Type is {given}, it must be application/json")))
}

async fn read(mut body: Body, bytes_max: usize) -> Result<Bytes, Error> {
    match Limited::new(&mut body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            // However that goes, the answer is the same.
            let _ = Limited::new(body, DISCARD_BYTES_MAX).collect().await;
            Err(Error::new(
                Code::PayloadTooLarge,
                format!("the body has more than {bytes_max} bytes, the most that is taken"),
            ))
        }
        Err(error) => Err(Error::new(Code::InvalidRequest, format!("the body could not be read: {error}"))),
    }
}
