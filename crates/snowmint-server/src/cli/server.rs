//! Asking a server over REST.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::USER_AGENT;
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::server_url::ServerUrl;

/// How long an answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(15);
/// Who asks: the archive has it.
const AGENT: &str = concat!("snowmint/", env!("CARGO_PKG_VERSION"));
/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A server, and the connection to it.
pub(super) struct Server {
    url: ServerUrl,
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Server {
    pub(super) fn new(url: &ServerUrl) -> Self {
        Self { url: url.clone(), client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// What the server answers to a GET of `call`, which is a path below its URL.
    pub(super) async fn get<T: DeserializeOwned>(&self, call: &str) -> Result<T, ServerError> {
        let url = format!("{}{call}", self.url);
        let uri: Uri = url.parse().map_err(|_| ServerError::Url { url: url.clone() })?;
        let answer = timeout(ANSWER_WAIT, self.exchange(uri, &url)).await;
        let (succeeded, status, body) = answer.map_err(|_| ServerError::Late { url: url.clone() })??;
        if !succeeded {
            return Err(refusal(url, status, &body));
        }
        serde_json::from_slice(&body).map_err(|source| ServerError::Answer { url, source })
    }

    async fn exchange(&self, uri: Uri, url: &str) -> Result<(bool, u16, Bytes), ServerError> {
        let request = Request::get(uri).header(USER_AGENT, AGENT).body(Empty::new());
        let response = self
            .client
            .request(request.expect("all of it was parsed before, or is constant"))
            .await
            .map_err(|source| ServerError::Request { url: url.to_owned(), source })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|source| ServerError::Body { url: url.to_owned(), source })?;
        Ok((status.is_success(), status.as_u16(), body.to_bytes()))
    }
}

#[derive(Deserialize)]
struct Envelope {
    error: Refusal,
}

#[derive(Deserialize)]
struct Refusal {
    code: String,
    message: String,
}

fn refusal(url: String, status: u16, body: &[u8]) -> ServerError {
    match serde_json::from_slice(body) {
        Ok(Envelope { error: Refusal { code, message } }) => ServerError::Refused { url, code, message },
        Err(_) => ServerError::Status { url, status },
    }
}

/// Why a server gave no answer that is one.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    #[error("{url} is no URL")]
    Url { url: String },
    #[error("cannot get {url}")]
    Request { url: String, source: hyper_util::client::legacy::Error },
    #[error("the answer to {url} broke off")]
    Body { url: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{url} gave no answer within {} s", ANSWER_WAIT.as_secs())]
    Late { url: String },
    #[error("{url} was refused: {code}: {message}")]
    Refused { url: String, code: String, message: String },
    #[error("{url} answered with status {status}: is it a snowmint server?")]
    Status { url: String, status: u16 },
    #[error("{url} answered with something else than was asked for: is it a snowmint server?")]
    Answer { url: String, source: serde_json::Error },
}
