//! What clients are sent, in either version of the protocol.

use crate::error::Error;

/// The version of the protocol that a client has chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Version {
    #[default]
    Two,
    Three,
}

/// An error on its way to a client: what it begins with, by which clients tell what to do, and the rest.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) prefix: &'static str,
    pub(super) error: Error,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { prefix: error.code.resp_prefix(), error }
    }
}

/// Answers that wait to be sent, in order.
#[derive(Default)]
pub(super) struct Replies {
    pub(super) bytes: Vec<u8>,
    pub(super) version: Version,
}

impl Replies {
    pub(super) fn integer(&mut self, value: impl itoa::Integer) {
        self.number(b':', value);
    }

    pub(super) fn simple(&mut self, text: &str) {
        self.bytes.push(b'+');
        self.line(text);
    }

    pub(super) fn ok(&mut self) {
        self.simple("OK");
    }

    pub(super) fn bulk(&mut self, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.number(b'$', value.len());
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Text for people.
    pub(super) fn text(&mut self, text: &str) {
        match self.version {
            Version::Two => self.bulk(text),
            Version::Three => {
                self.number(b'=', text.len() + 4);
                self.bytes.extend_from_slice(b"txt:");
                self.line(text);
            }
        }
    }

    pub(super) fn null(&mut self) {
        self.bytes.extend_from_slice(match self.version {
            Version::Two => b"$-1\r\n",
            Version::Three => b"_\r\n",
        });
    }

    /// In place of an array that there is none of.
    pub(super) fn null_array(&mut self) {
        self.bytes.extend_from_slice(match self.version {
            Version::Two => b"*-1\r\n",
            Version::Three => b"_\r\n",
        });
    }

    pub(super) fn boolean(&mut self, value: bool) {
        match self.version {
            Version::Two => self.integer(u8::from(value)),
            Version::Three => self.bytes.extend_from_slice(if value { b"#t\r\n" } else { b"#f\r\n" }),
        }
    }

    /// Begins an array.
    pub(super) fn array(&mut self, length: usize) {
        self.number(b'*', length);
    }

    /// Begins a map, of which first a key and then its value is to follow.
    pub(super) fn map(&mut self, entries: usize) {
        match self.version {
            Version::Two => self.array(2 * entries),
            Version::Three => self.number(b'%', entries),
        }
    }

    pub(super) fn error(&mut self, Failure { prefix, error }: &Failure) {
        self.bytes.push(b'-');
        self.bytes.extend_from_slice(prefix.as_bytes());
        self.bytes.push(b' ');
        // An error is one line.
        let message = error.message.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte });
        self.bytes.extend(message);
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn line(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn number(&mut self, kind: u8, value: impl itoa::Integer) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }
}
