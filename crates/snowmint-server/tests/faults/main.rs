//! Faults, on real processes: kill -9, SIGSTOP, clock steps, disks that take nothing more, bad starts.
//!
//! Clients write down every ID they receive, and a checker looks for one that came twice. That it would
//! find one is shown by nodes that are broken on purpose (`control`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod checker;
mod load;
mod process;

mod archive;
mod clock;
mod control;
mod crash;
mod disk;
mod fleet;
mod ntp;
mod pause;
mod records;
mod slots;
mod start;
mod stop;
