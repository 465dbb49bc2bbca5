//! The Ignite API: generated contract, status mapping, JSON gateway, and the services' methods.
//!
//! Handlers convert and call; rules live in the modules below this one. JSON has no code per
//! route: [`json`] transcodes by descriptors into the same services that gRPC calls.

mod admission;
pub mod anonymous;
pub mod buffers;
pub mod builds;
pub mod compute;
mod convert;
pub mod executions;
pub(crate) mod export;
pub mod grpc;
pub mod json;
pub mod limits;
mod pages;
pub mod proto;
pub mod scaling;
pub mod secrets;
pub mod status;
