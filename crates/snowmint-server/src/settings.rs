//! The settings all nodes share, as this node last read them: a cache that is refreshed when the registry tells
//! of a change, and every minute anyway. While the registry is away the last known values stand, flagged stale.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::registry::{Namespace, Registry, RegistryError};

/// How old the values may get before they are read again unasked, in milliseconds.
const TTL_MS: u64 = 60_000;

/// The pause before a registry that did not answer is asked again, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// The shortest time between two reads, in milliseconds: a registry that tells of changes over and over is not
/// asked more often than that.
const PAUSE_MS: u64 = 100;

/// The shared settings, and how fresh they are.
pub struct Settings {
    /// What this node started with: epoch, layout and cluster are never others.
    first: Namespace,
    /// The local configuration's, which wins.
    max_sequence: Option<u32>,
    current: ArcSwap<Current>,
}

/// The settings as they were read last.
#[derive(Clone, Debug)]
pub struct Current {
    /// The values in use.
    pub namespace: Namespace,
    /// When they were read.
    pub read_at: Instant,
    /// Why the values in use are not, or may not be, what the registry has now.
    pub problem: Option<String>,
    /// Whether the registry could not be read since.
    pub stale: bool,
}

impl Settings {
    /// What was read at the start. A `max_sequence` of the local configuration wins over the registry's.
    #[must_use]
    pub fn new(first: Namespace, max_sequence: Option<u32>) -> Self {
        let current =
            Current { namespace: first.clone(), read_at: Instant::now(), problem: None, stale: false };
        Self { first, max_sequence, current: ArcSwap::from_pointee(current) }
    }

    /// As they are now.
    #[must_use]
    pub fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    /// How far a millisecond's IDs count.
    #[must_use]
    pub fn max_sequence(&self) -> u32 {
        self.max_sequence.unwrap_or(self.current.load().namespace.max_sequence)
    }

    /// How far the wall clock may be off before that is worth a warning, in milliseconds.
    #[must_use]
    pub fn clock_drift_threshold_ms(&self) -> u64 {
        self.current.load().namespace.clock_drift_threshold_ms
    }

    /// Keeps them fresh until `stop`; `apply` is called after each read that changed a value in use.
    pub async fn run(&self, registry: Arc<dyn Registry>, apply: impl Fn(&Self), stop: CancellationToken) {
        let refresh = async {
            loop {
                let wait_ms = match registry.settings().await {
                    Ok((read, changed)) => {
                        if self.take(&read) {
                            apply(self);
                        }
                        tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
                        let unasked = Duration::from_millis(TTL_MS);
                        // Either way it is time to read again.
                        let _ = tokio::time::timeout(unasked, changed).await;
                        0
                    }
                    Err(error) => {
                        self.keep(&error);
                        RETRY_MS
                    }
                };
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            }
        };
        stop.run_until_cancelled(refresh).await;
    }

    /// Takes over what may change, and reports what may not. Says whether a value in use changed.
    fn take(&self, read: &Namespace) -> bool {
        let before = self.current.load();
        let mut namespace = self.first.clone();
        namespace.clock_drift_threshold_ms = read.clock_drift_threshold_ms;
        namespace.max_sequence = before.namespace.max_sequence;
        let highest = self.first.layout.max_sequence();
        let mut problem = self.refusal(read);
        if read.max_sequence <= highest {
            namespace.max_sequence = read.max_sequence;
        } else {
            problem.get_or_insert(format!(
                "the registry's max_sequence is {}, and 0 to {highest} is wanted: {} stays in use",
                read.max_sequence, namespace.max_sequence
            ));
        }
        if problem != before.problem
            && let Some(problem) = &problem
        {
            tracing::error!("{problem}");
        }
        let changed = namespace != before.namespace;
        if changed {
            let Namespace { max_sequence, clock_drift_threshold_ms, .. } = namespace;
            tracing::info!(max_sequence, clock_drift_threshold_ms, "settings changed in the registry");
        }
        self.current.store(Arc::new(Current { namespace, read_at: Instant::now(), problem, stale: false }));
        changed
    }

    /// What never changes was changed: another epoch or layout would move IDs back.
    fn refusal(&self, read: &Namespace) -> Option<String> {
        let first = &self.first;
        let values = [
            ("epoch", first.epoch_ms.to_string(), read.epoch_ms.to_string()),
            ("layout", first.layout.to_string(), read.layout.to_string()),
            ("cluster_id", first.cluster_id.to_string(), read.cluster_id.to_string()),
        ];
        let (key, own, changed) = values.into_iter().find(|(_, own, read)| own != read)?;
        Some(format!(
            "the registry's {key} was changed from {own} to {changed}, which is refused: IDs would get into each \
             other's way. This node keeps {own}; put it back"
        ))
    }

    /// The last known values stay.
    fn keep(&self, error: &RegistryError) {
        let before = self.current.load();
        let problem = error.to_string();
        if before.problem.as_ref() != Some(&problem) {
            tracing::warn!("the shared settings cannot be read, the last known stay in use: {problem}");
        }
        let current = Current { problem: Some(problem), stale: true, ..Current::clone(&before) };
        self.current.store(Arc::new(current));
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn namespace() -> Namespace {
        Namespace {
            cluster_id: Uuid::nil(),
            epoch_ms: snowmint::DEFAULT_EPOCH_MS,
            layout: snowmint::Split::DEFAULT,
            max_sequence: 4_095,
            clock_drift_threshold_ms: 100,
        }
    }

    fn problem(settings: &Settings) -> String {
        settings.current().problem.clone().unwrap_or_default()
    }

    #[test]
    fn what_may_change_is_applied_and_checked() {
        let settings = Settings::new(namespace(), None);
        assert!(settings.take(&Namespace { max_sequence: 9, clock_drift_threshold_ms: 5, ..namespace() }));
        assert_eq!((settings.max_sequence(), settings.clock_drift_threshold_ms()), (9, 5));
        assert!(!settings.take(&Namespace {
            max_sequence: 4_096,
            clock_drift_threshold_ms: 5,
            ..namespace()
        }));
        assert_eq!(settings.max_sequence(), 9, "the last good value stays");
        assert!(problem(&settings).contains("0 to 4095 is wanted"));
        settings.take(&namespace());
        assert_eq!((settings.max_sequence(), problem(&settings)), (4_095, String::new()));
        assert_eq!(Settings::new(namespace(), Some(7)).max_sequence(), 7, "the local configuration wins");
    }

    /// Invariant 5: a change of what never changes is reported and refused, and the rest is applied.
    #[test]
    fn what_may_not_change_is_reported_and_refused() {
        let settings = Settings::new(namespace(), None);
        settings.take(&Namespace { epoch_ms: 5, max_sequence: 9, ..namespace() });
        assert_eq!(settings.current().namespace.epoch_ms, snowmint::DEFAULT_EPOCH_MS);
        assert!(problem(&settings).contains("epoch was changed from 1609459200000 to 5"));
        assert_eq!(settings.max_sequence(), 9);
    }

    #[test]
    fn while_the_registry_is_away_the_last_known_stays() {
        let settings = Settings::new(namespace(), None);
        settings.take(&Namespace { max_sequence: 9, ..namespace() });
        settings.keep(&RegistryError::TimedOut);
        assert!(settings.current().stale && settings.max_sequence() == 9);
        settings.take(&namespace());
        assert!(!settings.current().stale);
    }
}
