//! Compiles the services with protox, so that no protoc has to be installed.

use prost::Message as _;
use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/rain.proto");
    let descriptors = protox::compile(["proto/rain.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("rain.descriptors"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".rain.v1").compile_fds(descriptors)?;
    Ok(())
}
