//! Compiles `proto/**` without `protoc`.
//!
//! Produces the generated code for `src/api/proto.rs` and, beside it, `descriptors.bin`: the
//! whole descriptor set with comments and options, which the JSON gateway and gRPC reflection
//! read. Only `Compiler::encode_file_descriptor_set` keeps the `google.api.http` options.

use std::{error::Error, path::PathBuf};

use prost::Message as _;

const FILES: &[&str] = &[
    "dodil/ignite/local/v1/builds.proto",
    "dodil/ignite/local/v1/dev.proto",
    "dodil/ignite/local/v1/executions.proto",
    "dodil/ignite/local/v1/hosts.proto",
    "dodil/ignite/local/v1/scaling.proto",
    "dodil/ignite/local/v1/versions.proto",
    "dodil/ignite/v1/compute.proto",
    "dodil/ignite/v1/secret.proto",
    "google/rpc/code.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(FILES)?;

    let encoded = compiler.encode_file_descriptor_set();
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), &encoded)?;

    // Bodies are passed on, not looked at: `Bytes` shares the received buffer.
    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]);
    tonic_prost_build::configure()
        .build_server(true)
        .build_client(true)
        .compile_fds_with_config(
            tonic_prost_build::FileDescriptorSet::decode(&encoded[..])?,
            config,
        )?;
    Ok(())
}
