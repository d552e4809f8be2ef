//! The composition root.

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
#[error("this build has no service")]
pub struct ServeError;

/// Serves until told to stop.
pub fn run(_loaded: &crate::config::Loaded) -> Result<(), ServeError> {
    Err(ServeError)
}
