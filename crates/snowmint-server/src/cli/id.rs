//! `id`: IDs from a server.

use std::io::Write;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use snowmint::Format;

use super::server::Server;
use super::server_url::ServerUrl;
use super::{CliError, DEFAULT_SERVER, block_on, format_parser};

/// IDs of one request at most: the service's own bound.
const BATCH_MAX: u64 = 10_000;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How many
    #[arg(short = 'n', value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// How they are written
    #[arg(long, default_value_t = Format::Decimal, value_parser = format_parser())]
    format: Format,
    /// The server
    #[arg(long, value_name = "URL", default_value = DEFAULT_SERVER)]
    server: ServerUrl,
}

#[derive(Deserialize)]
struct One {
    id: Value,
}

#[derive(Deserialize)]
struct Several {
    ids: Vec<Value>,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), CliError> {
    block_on(async {
        let server = Server::new(&arguments.server);
        let format = arguments.format;
        if arguments.count == 1 {
            let One { id } = server.get(&format!("/api/v1/id?format={format}")).await?;
            return Ok(write_id(out, &id)?);
        }
        let mut left = arguments.count;
        while left > 0 {
            let count = left.min(BATCH_MAX);
            let Several { ids } = server.get(&format!("/api/v1/ids?count={count}&format={format}")).await?;
            ids.iter().try_for_each(|id| write_id(out, id))?;
            // What has come is of use already, however long the rest takes.
            out.flush()?;
            left -= count;
        }
        Ok(())
    })
}

/// Decimal IDs are numbers in JSON, the others text.
fn write_id(out: &mut dyn Write, id: &Value) -> std::io::Result<()> {
    match id {
        Value::String(text) => writeln!(out, "{text}"),
        number => writeln!(out, "{number}"),
    }
}
