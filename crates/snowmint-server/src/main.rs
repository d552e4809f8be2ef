//! The `snowmint` binary.

fn main() -> std::process::ExitCode {
    snowmint_server::cli::run()
}
