//! The log: readable on a terminal, JSON where a program reads it. It goes to standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts the log for the rest of the process. A second call changes nothing.
pub fn init(settings: &Log) {
    let filter = EnvFilter::new(&settings.level);
    let to_terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let json = match settings.format {
        LogFormat::Auto => !to_terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let colours = to_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // Somebody who embeds the server may have a log already, which then is the one.
    let _ = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(colours).with_target(false).compact().try_init()
    };
}
