//! What the archive proves: archives in a directory, right ones and such with every fault there is.

#![allow(clippy::unwrap_used, reason = "tests")]

mod archive;
mod cat;
mod faults;
mod lifecycle;
mod property;
