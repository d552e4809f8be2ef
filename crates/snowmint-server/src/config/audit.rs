//! Where the audit archive is, and what of people is told.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::StoreUrl;

/// Where the audit archive is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ArchiveUrl {
    /// Nowhere: there is none.
    Off,
    /// There.
    At(StoreUrl),
}

/// What becomes of something personal when it leaves the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Personal {
    /// It is told as it is.
    #[default]
    Keep,
    /// So much of it is told that it is nobody's alone.
    Truncate,
    /// A name is told in its place, always the same for the same, which only the key leads to.
    Hash,
    /// It is left out.
    Omit,
}

impl fmt::Display for ArchiveUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(url) => url.fmt(f),
        }
    }
}

impl FromStr for ArchiveUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|problem| format!("{problem}; or off"))
    }
}

impl TryFrom<String> for ArchiveUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ArchiveUrl> for String {
    fn from(url: ArchiveUrl) -> Self {
        url.to_string()
    }
}
