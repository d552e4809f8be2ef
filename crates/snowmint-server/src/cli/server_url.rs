//! Where a server is.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;

const HTTP_PORT: u16 = 80;

/// The URL of a server, which may have a path: `http://127.0.0.1:8080`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerUrl {
    host: String,
    port: u16,
    path: String,
}

impl ServerUrl {
    /// The host and the port to connect to.
    #[must_use]
    pub(super) fn address(&self) -> (&str, u16) {
        (self.host.trim_start_matches('[').trim_end_matches(']'), self.port)
    }

    /// What the `Host` header says.
    #[must_use]
    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The path and the query, without a slash at the end: empty where there is none.
    #[must_use]
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.path)
    }
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        let uri: Uri = text.parse().map_err(|_| ServerUrlError::NoUrl)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(ServerUrlError::Https),
            _ => return Err(ServerUrlError::NoUrl),
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(ServerUrlError::NoUrl)?.to_owned();
        let path = uri.path_and_query().map_or("", |path| path.as_str()).trim_end_matches('/').to_owned();
        Ok(Self { host, port: uri.port_u16().unwrap_or(HTTP_PORT), path })
    }
}

/// Why a text is no server's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ServerUrlError {
    /// It would need TLS.
    #[error("https is not supported: give an http:// URL")]
    Https,
    /// It is something else.
    #[error("a URL such as http://127.0.0.1:8080 is wanted")]
    NoUrl,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_url() {
        let url: ServerUrl = "http://[::1]:8080/".parse().unwrap();
        assert_eq!((url.address(), url.path()), (("::1", 8080), ""));
        assert_eq!((url.authority(), url.to_string()), ("[::1]:8080".into(), "http://[::1]:8080".into()));
        let url: ServerUrl = "http://example.org/a/b?c=d".parse().unwrap();
        assert_eq!((url.address(), url.path()), (("example.org", 80), "/a/b?c=d"));
    }

    #[test]
    fn what_is_no_url() {
        assert_eq!("https://example.org".parse::<ServerUrl>(), Err(ServerUrlError::Https));
        for text in ["", "example.org", "127.0.0.1:8080", "ftp://example.org", "/path", "http://"] {
            assert_eq!(text.parse::<ServerUrl>(), Err(ServerUrlError::NoUrl), "{text}");
        }
    }
}
