//! What a caller is told when a request fails: one table of codes for every front end.

use std::borrow::Cow;

use serde_json::Value;
use tonic::Code as GrpcCode;

/// A stable error code. Its number is what an error event carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request cannot be understood: malformed JSON, the wrong method, an unknown field.
    InvalidRequest,
    /// One value is out of its range or of the wrong form.
    InvalidParameter,
    /// There is nothing at that path.
    NotFound,
    /// The body or the headers are larger than the limits.
    PayloadTooLarge,
    /// A fault of ours; the log has more.
    Internal,
    /// The clock is behind what was already issued, or too far off NTP.
    ClockRegression,
    /// More IDs were asked for than there will be within the longest wait.
    SequenceOverflow,
    /// The node has no worker slot, or its window is used up and cannot be extended.
    WorkerUnavailable,
    /// Who got the IDs could not be written down, and has to be.
    AuditUnavailable,
    /// The node is overloaded, slow, or about to stop.
    ServiceUnavailable,
}

/// One row of the table: number, stable name, HTTP status, gRPC code, what an error begins with in RESP.
struct Row(u16, &'static str, u16, GrpcCode, &'static str);

impl Code {
    /// Every code, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::InvalidRequest,
        Self::InvalidParameter,
        Self::NotFound,
        Self::PayloadTooLarge,
        Self::Internal,
        Self::ClockRegression,
        Self::SequenceOverflow,
        Self::WorkerUnavailable,
        Self::AuditUnavailable,
        Self::ServiceUnavailable,
    ];

    #[rustfmt::skip]
    const fn row(self) -> Row {
        match self {
            Self::InvalidRequest     => Row(1000, "INVALID_REQUEST",     400, GrpcCode::InvalidArgument,   "ERR"),
            Self::InvalidParameter   => Row(1001, "INVALID_PARAMETER",   400, GrpcCode::InvalidArgument,   "ERR"),
            Self::NotFound           => Row(1004, "NOT_FOUND",           404, GrpcCode::NotFound,          "ERR"),
            Self::PayloadTooLarge    => Row(1005, "PAYLOAD_TOO_LARGE",   413, GrpcCode::OutOfRange,        "ERR"),
            Self::Internal           => Row(2000, "INTERNAL_ERROR",      500, GrpcCode::Internal,          "ERR"),
            Self::ClockRegression    => Row(3000, "CLOCK_REGRESSION",    503, GrpcCode::Unavailable,       "TRYAGAIN CLOCK_REGRESSION"),
            Self::SequenceOverflow   => Row(3001, "SEQUENCE_OVERFLOW",   503, GrpcCode::ResourceExhausted, "TRYAGAIN SEQUENCE_OVERFLOW"),
            Self::WorkerUnavailable  => Row(3002, "WORKER_UNAVAILABLE",  503, GrpcCode::Unavailable,       "LOADING WORKER_UNAVAILABLE"),
            Self::AuditUnavailable   => Row(3003, "AUDIT_UNAVAILABLE",   503, GrpcCode::Unavailable,       "TRYAGAIN AUDIT_UNAVAILABLE"),
            Self::ServiceUnavailable => Row(3004, "SERVICE_UNAVAILABLE", 503, GrpcCode::Unavailable,       "TRYAGAIN SERVICE_UNAVAILABLE"),
        }
    }

    /// The number an error event carries.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.row().0
    }

    /// The name that never changes, such as `INVALID_PARAMETER`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// The HTTP status.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        self.row().2
    }

    /// The gRPC code.
    #[must_use]
    pub const fn grpc_code(self) -> GrpcCode {
        self.row().3
    }

    /// What an error begins with in RESP. Redis clients go by the first word: at `LOADING` they ask again,
    /// many of them on another connection, which may be another node's; at `TRYAGAIN` they ask again here.
    #[must_use]
    pub const fn resp_prefix(self) -> &'static str {
        self.row().4
    }
}

/// A failed request, as its caller is told of it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of failure.
    pub code: Code,
    /// What was wrong, where, and what would be right.
    pub message: Cow<'static, str>,
    /// More of it, for programs.
    pub details: Option<Value>,
    /// After how many milliseconds asking again may help.
    pub retry_after_ms: Option<u64>,
}

impl Error {
    /// An error with a message and nothing else.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), details: None, retry_after_ms: None }
    }

    /// A value that is out of range or of the wrong form; `parameter` goes into the details.
    pub fn parameter(parameter: &str, message: impl Into<Cow<'static, str>>) -> Self {
        let details = Some(serde_json::json!({ "parameter": parameter }));
        Self { details, ..Self::new(Code::InvalidParameter, message) }
    }

    /// A connection past the limit of `connections`.
    pub(crate) fn too_many_connections(connections: usize) -> Self {
        let message =
            format!("{connections} connections are open, the most that are taken; use fewer, or try again");
        Self::new(Code::ServiceUnavailable, message).retry_after_ms(1_000)
    }

    /// A request that took longer than it may, `limit_s` seconds.
    pub(crate) fn too_slow(limit_s: u64) -> Self {
        let message = format!("the request was not done within {limit_s} s");
        Self::new(Code::ServiceUnavailable, message).retry_after_ms(1_000)
    }

    /// With the time after which asking again may help.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::Code;

    #[test]
    fn numbers_and_names_are_unique() {
        let numbers: HashSet<_> = Code::ALL.iter().map(|code| code.number()).collect();
        let names: HashSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!((numbers.len(), names.len()), (Code::ALL.len(), Code::ALL.len()));
    }
}
