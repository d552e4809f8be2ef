//! Which NTP servers are asked.

use serde::{Deserialize, Serialize};

use super::registry;

const NTP_PORT: u16 = 123;

/// The most servers that are asked.
const SERVERS_MAX: usize = 15;

/// NTP servers, each as `host:port`. Written as a list, or as one text with commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct NtpServers(pub Vec<String>);

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a list of servers is wanted, each as HOST or HOST:PORT, or one text with commas between them"
)]
enum Written {
    Text(String),
    List(Vec<String>),
}

impl TryFrom<Written> for NtpServers {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let names = match written {
            Written::Text(text) if text.is_empty() => Vec::new(),
            Written::Text(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
            Written::List(names) => names,
        };
        let servers: Result<Vec<String>, String> =
            names.iter().map(|name| registry::address(name, NTP_PORT)).collect();
        let servers = servers?;
        if servers.len() > SERVERS_MAX {
            return Err(format!("at most {SERVERS_MAX} servers are wanted"));
        }
        // Each has one vote.
        let twice = servers.iter().enumerate().find(|(nth, server)| servers[..*nth].contains(server));
        match twice {
            Some((_, server)) => Err(format!("{server} is named twice: each server is wanted once")),
            None => Ok(Self(servers)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<Vec<String>, String> {
        serde_json::from_value(value).map(|NtpServers(servers)| servers).map_err(|error| error.to_string())
    }

    #[test]
    fn servers_are_read_as_a_list_or_a_text() {
        assert_eq!(read(json!("")).unwrap(), [""; 0]);
        assert_eq!(read(json!("a, b:5,[::1]")).unwrap(), ["a:123", "b:5", "[::1]:123"]);
        assert_eq!(read(json!(["a", "b:5"])).unwrap(), ["a:123", "b:5"]);
    }

    #[test]
    fn what_is_none_is_refused_with_what_would_be_right() {
        assert!(read(json!(5)).unwrap_err().contains("a list of servers is wanted"));
        assert!(read(json!("a,")).unwrap_err().contains("HOST:PORT is wanted"));
        assert!(read(json!("a,a:123")).unwrap_err().contains("a:123 is named twice"));
        let many: Vec<_> = (0..=SERVERS_MAX).map(|nth| format!("a{nth}")).collect();
        assert!(read(json!(many)).unwrap_err().contains("at most 15 servers"));
    }
}
