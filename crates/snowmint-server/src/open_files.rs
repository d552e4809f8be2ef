//! How many files may be open: a connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are open beside connections: those of the journal, the stores and the log, and listeners.
const OTHERS_MAX: u64 = 256;

/// Raises what this process is given of open files to what it may take, and says how many connections there may be
/// then: `None` where there is no limit. What it is given is small for the sake of programs that use `select`, which
/// counts to 1,024; this one does not.
pub(crate) fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::debug!("the limit of open files cannot be raised: {error}");
            limit.current
        }
    };
    now.map(|files| files.saturating_sub(OTHERS_MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_limit_becomes_the_highest_that_there_may_be() {
        let limit = getrlimit(Resource::Nofile);
        let Some(maximum) = limit.maximum else { return };
        setrlimit(Resource::Nofile, Rlimit { current: Some(maximum - 1), ..limit }).unwrap();
        assert_eq!(raise_limit(), Some(maximum.saturating_sub(OTHERS_MAX)));
        assert_eq!(getrlimit(Resource::Nofile).current, Some(maximum));
    }
}
