//! The generated contract and its descriptors.
//!
//! Everything here is generated from `proto/**` by `proto/build.rs`; the `.proto` files document
//! messages and fields. [`pool`] has the annotations that the generated types lack.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;
use tonic_reflection::server::{v1 as v1_reflection, v1alpha as v1alpha_reflection};

/// `dodil.ignite.v1`: the messages, clients and servers of the Ignite API.
#[allow(
    missing_docs,
    unreachable_pub,
    rust_2018_idioms,
    rustdoc::all,
    clippy::all,
    clippy::or_fun_call,
    clippy::unwrap_used,
    clippy::large_futures
)]
pub mod v1 {
    tonic::include_proto!("dodil.ignite.v1");
}

/// `dodil.ignite.local.v1`: what this platform adds to the Ignite API.
#[allow(
    missing_docs,
    unreachable_pub,
    rust_2018_idioms,
    rustdoc::all,
    clippy::all,
    clippy::or_fun_call,
    clippy::unwrap_used,
    clippy::large_futures
)]
pub mod local {
    pub mod v1 {
        tonic::include_proto!("dodil.ignite.local.v1");
    }
}

/// `google.rpc`: the form of errors on the wire.
#[allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all)]
pub mod rpc {
    tonic::include_proto!("google.rpc");
}

/// The encoded `FileDescriptorSet` of the whole contract, imports, options and comments included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The contract's descriptors, decoded once.
pub fn pool() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(DESCRIPTORS).expect("the build wrote a valid descriptor set")
    });
    &POOL
}

/// The services of the contract that clients call.
const SERVICES: [&str; 8] = [
    "dodil.ignite.local.v1.BuildService",
    "dodil.ignite.local.v1.DevService",
    "dodil.ignite.local.v1.ExecutionService",
    "dodil.ignite.local.v1.HostService",
    "dodil.ignite.local.v1.ScalingService",
    "dodil.ignite.local.v1.VersionService",
    "dodil.ignite.v1.ComputeService",
    "dodil.ignite.v1.SecretService",
];

/// The gRPC path of every method of the contract, such as
/// `/dodil.ignite.v1.ComputeService/CreateApp`.
pub fn method_names() -> impl Iterator<Item = String> {
    SERVICES
        .iter()
        .filter_map(|name| pool().get_service_by_name(name))
        .flat_map(|s| s.methods().collect::<Vec<_>>())
        .map(|m| format!("/{}/{}", m.parent_service().full_name(), m.name()))
}

/// gRPC server reflection for the contract and the health service: v1, and v1alpha for older
/// clients.
pub fn reflection_services() -> (
    v1_reflection::ServerReflectionServer<impl v1_reflection::ServerReflection>,
    v1alpha_reflection::ServerReflectionServer<impl v1alpha_reflection::ServerReflection>,
) {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    (
        builder().build_v1().expect("the descriptors are valid"),
        builder()
            .build_v1alpha()
            .expect("the descriptors are valid"),
    )
}
