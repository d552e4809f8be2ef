//! `X-Request-Id`: the caller's where it is usable, otherwise one of ours.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header, and the key of gRPC metadata.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest ID that is taken from a caller, in bytes.
const BYTES_MAX: usize = 128;

/// Makes request IDs: a prefix of this run of the process, and a number.
pub(super) struct RequestIds {
    prefix: String,
    next: AtomicU64,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        let run = Uuid::new_v4().simple().to_string();
        Self { prefix: run[..12].to_owned(), next: AtomicU64::new(1) }
    }

    /// The request's own, if it is 1 to 128 visible ASCII characters.
    pub(super) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get(&X_REQUEST_ID) {
            Some(given) if is_usable(given.as_bytes()) => given.clone(),
            _ => self.make().1,
        }
    }

    /// The next one of ours, and its number.
    pub(super) fn make(&self) -> (u64, HeaderValue) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(number);
        let mut text = String::with_capacity(self.prefix.len() + 1 + digits.len());
        text.push_str(&self.prefix);
        text.push('-');
        text.push_str(digits);
        let id = HeaderValue::from_maybe_shared(bytes::Bytes::from(text));
        (number, id.expect("hexadecimal digits, a hyphen and digits"))
    }
}

fn is_usable(id: &[u8]) -> bool {
    (1..=BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}
