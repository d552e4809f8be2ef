//! Compiles the gRPC contract, and keeps its description for reflection; and the part of etcd's that is used.

use std::path::PathBuf;
use std::{env, error, fs};

const PROTO: &str = "../../proto/snowmint/v1/id_generator.proto";
const ETCD: &str = "../../proto/etcd/rpc.proto";
const INCLUDE: &str = "../../proto";

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo::rerun-if-changed={INCLUDE}");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new([INCLUDE])?;
    compiler.include_source_info(true).include_imports(true).open_file(PROTO)?;
    fs::write(out.join("snowmint.v1.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;

    let mut etcd = protox::Compiler::new([INCLUDE])?;
    etcd.open_file(ETCD)?;
    tonic_prost_build::configure().build_server(false).compile_fds(etcd.file_descriptor_set())?;
    Ok(())
}
