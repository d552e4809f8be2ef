//! What of people leaves the journal: sinks tell of a client's address and user agent what this says.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::{self, Personal};
use crate::event::Request;

/// How long a hash is, in hexadecimal digits: the first half of an HMAC-SHA256.
pub const HASH_DIGITS: usize = 32;

/// How long a key is at least, in bytes. There are so few addresses that a key which can be guessed hides none.
pub const KEY_BYTES_MIN: usize = 16;

/// How much of an address stays when it is truncated, in bits.
pub const IPV4_BITS: u32 = 24;
/// The same, of IPv6.
pub const IPV6_BITS: u32 = 48;

/// What is told of people.
#[derive(Clone)]
pub struct Privacy {
    client_ip: Personal,
    user_agent: Personal,
    /// There where something is hashed.
    key: Option<Hmac<Sha256>>,
}

/// Why nothing can be hashed.
#[derive(Debug, thiserror::Error)]
#[error("audit.hash_key_file: {0}")]
pub struct PrivacyError(String);

impl Privacy {
    /// As the configuration says; reads the key where one is needed.
    pub fn new(audit: &config::Audit) -> Result<Self, PrivacyError> {
        let hashes = [audit.client_ip, audit.user_agent].contains(&Personal::Hash);
        let key = audit.hash_key_file.as_ref().filter(|_| hashes);
        let key = key.map(|file| {
            let key = config::password(file).map_err(PrivacyError)?;
            if key.len() < KEY_BYTES_MIN {
                let problem =
                    format!("{} has {} bytes, a key has {KEY_BYTES_MIN} at least", file.display(), key.len());
                return Err(PrivacyError(problem));
            }
            Ok(Hmac::new_from_slice(key.as_bytes()).expect("a key of any length will do"))
        });
        Ok(Self { client_ip: audit.client_ip, user_agent: audit.user_agent, key: key.transpose()? })
    }

    /// Everything is told as it is.
    #[must_use]
    pub const fn keep() -> Self {
        Self { client_ip: Personal::Keep, user_agent: Personal::Keep, key: None }
    }

    /// What is told of the client's address, if anything is.
    #[must_use]
    pub fn client_ip(&self, request: &Request) -> Option<String> {
        let ip = request.client_ip?;
        match self.client_ip {
            Personal::Keep => Some(ip.to_string()),
            Personal::Truncate => Some(truncated(ip.to_canonical()).to_string()),
            Personal::Hash => Some(self.hash(&ip.to_canonical().to_string())),
            Personal::Omit => None,
        }
    }

    /// What is told of the user agent; empty where nothing is.
    #[must_use]
    pub fn user_agent<'a>(&self, request: &'a Request) -> Cow<'a, str> {
        let told = request.user_agent();
        match (self.user_agent, told) {
            (_, told) if told.is_empty() => told,
            (Personal::Keep, told) => told,
            (Personal::Truncate, Cow::Borrowed(told)) => first_product(told).into(),
            (Personal::Truncate, Cow::Owned(told)) => first_product(&told).to_owned().into(),
            (Personal::Hash, told) => self.hash(&told).into(),
            (Personal::Omit, _) => Cow::Borrowed(""),
        }
    }

    fn hash(&self, text: &str) -> String {
        let mut mac = self.key.clone().expect("it was read, because something is hashed");
        mac.update(text.as_bytes());
        hex::encode(&mac.finalize().into_bytes()[..HASH_DIGITS / 2])
    }
}

fn truncated(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !(u32::MAX >> IPV4_BITS)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !(u128::MAX >> IPV6_BITS)).into(),
    }
}

/// `MyApp/1.0` of `MyApp/1.0 (of Jane's laptop) lib/2`.
fn first_product(user_agent: &str) -> &str {
    user_agent.split_ascii_whitespace().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use axum::http::HeaderValue;

    use super::*;
    use crate::event::Api;

    fn told(personal: Personal, ip: &str, user_agent: &str) -> (Option<String>, String) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        let audit = config::Audit {
            client_ip: personal,
            user_agent: personal,
            hash_key_file: Some(file),
            ..config::Audit::default()
        };
        let privacy = Privacy::new(&audit).unwrap();
        let user_agent = HeaderValue::from_str(user_agent).unwrap();
        let request = Request::new(
            Some(ip.parse().unwrap()),
            Some(&user_agent),
            &HeaderValue::from_static("req-1"),
            Api::Rest,
        );
        (privacy.client_ip(&request), privacy.user_agent(&request).into_owned())
    }

    #[test]
    fn as_much_is_told_as_was_asked_for() {
        let agent = "MyApp/1.0 (of Jane's laptop) lib/2";
        let some = |ip: &str, agent: &str| (Some(ip.to_owned()), agent.to_owned());
        assert_eq!(told(Personal::Keep, "192.168.1.100", agent), some("192.168.1.100", agent));
        assert_eq!(told(Personal::Truncate, "192.168.1.100", agent), some("192.168.1.0", "MyApp/1.0"));
        assert_eq!(told(Personal::Truncate, "2001:db8:1:2::3", ""), some("2001:db8:1::", ""));
        assert_eq!(told(Personal::Truncate, "::ffff:10.1.2.3", ""), some("10.1.2.0", ""));
        assert_eq!(told(Personal::Omit, "192.168.1.100", agent), (None, String::new()));
    }

    #[test]
    fn a_hash_is_what_common_tools_say() {
        // printf %s 192.168.1.100 | openssl dgst -sha256 -hmac 0123456789abcdef | cut -c1-32
        let (ip, agent) = told(Personal::Hash, "192.168.1.100", "MyApp/1.0");
        assert_eq!(ip.as_deref(), Some("040f83a5b1ca83e958c08e2d1b4f9774"));
        assert_eq!(agent, "2c93dfa67fc8e802cc9dadcf468b60de");
        assert_eq!(told(Personal::Hash, "::ffff:192.168.1.100", "").0, ip);
    }

    #[test]
    fn a_key_that_can_be_guessed_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, "secret\n").unwrap();
        let audit = config::Audit {
            client_ip: Personal::Hash,
            hash_key_file: Some(file),
            ..config::Audit::default()
        };
        let refused = Privacy::new(&audit).err().unwrap().to_string();
        assert!(refused.contains("has 6 bytes"), "{refused}");
    }
}
