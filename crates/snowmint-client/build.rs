//! Compiles the gRPC contract. `proto` is a link to the one of the workspace, and a copy where the crate is packaged.

use std::error;

const PROTO: &str = "proto/v1/id_generator.proto";
const INCLUDE: &str = "proto";

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo::rerun-if-changed={INCLUDE}");
    let mut compiler = protox::Compiler::new([INCLUDE])?;
    compiler.open_file(PROTO)?;
    tonic_prost_build::configure().build_server(false).compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
