//! The Ignite API: generated contract, status mapping, JSON gateway, and the services' methods.
//!
//! Handlers convert and call; rules live in the modules below this one. JSON has no code per
//! route: [`json`] transcodes by descriptors into the same services that gRPC calls.
//!
//! | File | Holds |
//! | --- | --- |
//! | `proto.rs` | The generated contract and its descriptors |
//! | `compute/` | `ComputeService`: apps, drafts, versions, invocations, executions, logs |
//! | `secrets.rs` | `SecretService` |
//! | `builds.rs`, `executions.rs`, `scaling.rs` | The platform's own services |
//! | `convert/` | Between the wire and the model |
//! | `pages.rs` | Pages of lists, and their cursors |
//! | `status.rs` | Failures as gRPC status and as HTTP response |
//! | `json/` | The JSON gateway, and its description (OpenAPI) |
//! | `grpc.rs` | The gRPC listener |
//! | `admission.rs`, `anonymous.rs` | Calls with a token; the bounds on calls without one |
//! | `limits.rs`, `buffers.rs` | Sizes of messages, and the memory for them |
//! | `export.rs` | Records as API messages, for `ignite store export` |

mod admission;
pub mod anonymous;
pub mod authorization;
pub mod buffers;
pub mod builds;
pub mod compute;
mod convert;
pub mod dev;
mod elsewhere;
pub mod executions;
pub(crate) mod export;
pub mod grpc;
pub mod hosts;
pub mod json;
pub mod limits;
pub mod mcp;
pub mod oauth;
mod pages;
pub mod proto;
pub mod scaling;
pub mod secrets;
pub mod status;
pub mod versions;
