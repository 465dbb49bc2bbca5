//! The domain: pure types and pure decisions.
//!
//! | file | what |
//! |---|---|
//! | **names and ids** | |
//! | `id.rs` | names of organizations and apps; ids of executions, instances and replicas |
//! | `host.rs` | host labels, by which the ports of apps are addressed |
//! | `image_name.rs` | image references, and who may use which |
//! | `hex.rs` | bytes as hex digits |
//! | **apps and their settings** | |
//! | `app.rs` | an app, its draft and its versions |
//! | `catalog/` | all apps and secrets, and the rules that span apps |
//! | `settings.rs` | the settings of an app, and which are valid |
//! | `revision.rs` | what a replica runs: a version with the settings in force |
//! | `reach.rs` | the protocol and the CORS origins of an app |
//! | `schema.rs` | the check of JSON Schemas |
//! | `standby.rs` | how deep an app at zero sleeps |
//! | **code and builds** | |
//! | `code.rs` | where code comes from, and the outcome of its build |
//! | `build_args.rs` | values for a Dockerfile's `ARG`s |
//! | `ignorefile/` | `.dockerignore` |
//! | `platform.rs` | operating system and processor of images and hosts |
//! | **what a container gets** | |
//! | `capability.rs` | kernel capabilities |
//! | `egress.rs`, `destination.rs` | which networks it may connect to |
//! | `files.rs` | which paths are writable, and home |
//! | `process.rs` | whether an init is the first process |
//! | `ulimit.rs` | the kernel's limits of single processes |
//! | **capacity and fairness** | |
//! | `scaling/` | how many replicas an app should have |
//! | `capacity.rs` | who gets memory and replicas when they run short |
//! | `fair.rs` | who gets the next permit |
//! | **executions and storage** | |
//! | `execution.rs` | an asynchronous execution and how it may change |
//! | `stats.rs` | counts of how invocations ended |
//! | `stored.rs` | how many bytes of the store an organization takes |
//! | `secret.rs` | credentials for registries and git servers |
//! | **the rest** | |
//! | `failure.rs` | every way a request can fail, with HTTP and gRPC status |
//! | `instance_lease.rs` | who owns a data directory's identity, and whether it lives |
//! | `trust.rs` | how far the platform trusts those who deploy |
//! | `work.rs` | cancellation of long work |
//!
//! No file here knows tokio, sled, bollard, axum or tonic, so each rule is written once and tested
//! by itself. Conversions to and from the wire live in `api/`, to and from records in `store/`.

pub mod account;
pub mod app;
pub mod build_args;
pub mod capability;
pub mod capacity;
pub mod catalog;
pub mod code;
pub mod destination;
pub mod egress;
pub mod execution;
pub mod failure;
pub mod fair;
pub mod files;
pub(crate) mod hex;
pub mod host;
pub mod host_name;
pub mod id;
pub mod ignorefile;
pub mod image_name;
pub mod instance_lease;
pub mod platform;
pub mod process;
pub mod reach;
pub mod revision;
pub mod scaling;
pub mod schema;
pub mod scope;
pub mod secret;
pub mod settings;
mod standby;
pub mod stats;
pub mod stored;
mod trust;
pub mod ulimit;
pub mod work;

pub use account::AccountName;
pub use app::{App, Draft, ImageFacts, Pulled, Version};
pub use build_args::BuildArgs;
pub use code::{Blob, BuildId, CodeSource, ImageSource};
pub use failure::{Code, Failure, FieldViolation, Reason};
pub use id::{AppId, AppName, ExecutionId, InstanceId, MAX_NAME_LEN, OrgName, ReplicaId};
pub use platform::Platform;
pub use revision::{Defaults, HealthCheck, Revision};
pub use scaling::Scaling;
pub use scope::{Grants, Role, Scope, Scopes};
pub use settings::{Limits, Settings, StorageMode, Tier};
pub use standby::Standby;
pub use trust::Trust;
