//! A place for objects, written as a URL.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is wanted, for whoever wrote something else.
const WANTED: &str = "the URL of a place for objects is wanted: file:///DIRECTORY (or its absolute path), s3://BUCKET/PREFIX, \
                      hdfs://NAMENODE:PORT/DIRECTORY, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX";

/// A place for objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StoreUrl {
    /// A directory of this machine, by its absolute path.
    Directory(PathBuf),
    /// Elsewhere.
    Remote {
        /// In what.
        scheme: Scheme,
        /// Which bucket or container, or which name node.
        authority: String,
        /// Below which path; neither starts nor ends with a slash.
        prefix: String,
    },
}

/// What keeps objects elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// S3, or what speaks like it.
    S3,
    /// HDFS.
    Hdfs,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl Scheme {
    const ALL: [Self; 4] = [Self::S3, Self::Hdfs, Self::Gcs, Self::Azure];

    fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Hdfs => "hdfs",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "file://{}", path.display()),
            Self::Remote { scheme, authority, prefix } if prefix.is_empty() => {
                write!(f, "{}://{authority}", scheme.name())
            }
            Self::Remote { scheme, authority, prefix } => {
                write!(f, "{}://{authority}/{prefix}", scheme.name())
            }
        }
    }
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix("file://").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Self::Directory(path.into()));
        }
        let (scheme, rest) = text.split_once("://").ok_or(WANTED)?;
        let scheme = Scheme::ALL.into_iter().find(|known| known.name() == scheme).ok_or(WANTED)?;
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(
                "keys do not belong into the URL: the section s3 has them, or the environment".to_owned()
            );
        }
        let prefix = prefix.trim_end_matches('/');
        if authority.is_empty() || prefix.split('/').any(|part| part.is_empty() && !prefix.is_empty()) {
            return Err(WANTED.to_owned());
        }
        Ok(Self::Remote { scheme, authority: authority.to_owned(), prefix: prefix.to_owned() })
    }
}

impl TryFrom<String> for StoreUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<StoreUrl> for String {
    fn from(url: StoreUrl) -> Self {
        url.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (text, shown) in [
            ("/var/lib/archive", "file:///var/lib/archive"),
            ("file:///a b", "file:///a b"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/audit/logs/", "s3://bucket/audit/logs"),
            ("hdfs://namenode:8020/audit", "hdfs://namenode:8020/audit"),
            ("gs://bucket/x", "gs://bucket/x"),
            ("az://container", "az://container"),
        ] {
            assert_eq!(text.parse::<StoreUrl>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_place_is_refused_with_what_would_be_one() {
        for text in
            ["", "archive", "file://archive", "s3:/bucket", "s3://", "s3:///x", "s3://a//b", "ftp://a/b"]
        {
            assert!(text.parse::<StoreUrl>().unwrap_err().contains("s3://BUCKET"), "{text}");
        }
        assert!("s3://key:secret@bucket".parse::<StoreUrl>().unwrap_err().contains("section s3"));
    }
}
