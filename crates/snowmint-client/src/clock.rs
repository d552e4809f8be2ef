//! The time that the age of an ID is measured with.

/// Nanoseconds since some moment in the past. The time for which the machine was suspended counts.
#[cfg(target_os = "linux")]
pub(crate) fn now_ns() -> u64 {
    let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(since_boot.tv_sec).unwrap_or(0);
    let rest_ns = u64::try_from(since_boot.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + rest_ns
}

/// Nanoseconds since some moment in the past. Whether the time counts for which the machine was suspended is the
/// platform's choice.
#[cfg(not(target_os = "linux"))]
pub(crate) fn now_ns() -> u64 {
    use std::sync::LazyLock;
    use std::time::Instant;

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
