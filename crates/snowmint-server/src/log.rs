//! The log: readable on a terminal, JSON where a program reads it. It goes to standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts the log for the rest of the process. A second call changes nothing.
pub fn init(settings: &Log) {
    let filter = EnvFilter::new(&settings.level);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Where nobody reads standard error any more, saying so there would be a panic, which ends the task that logged.
    let builder = builder.log_internal_errors(false);
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    // Somebody who embeds the server may have a log already, which then is the one.
    let _ = if is_json(settings) {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(colours).with_target(false).compact().try_init()
    };
}

/// Whether the log is for programs.
#[must_use]
pub fn is_json(settings: &Log) -> bool {
    match settings.format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    }
}
