//! The domain: names, apps, scaling, failures. Pure types and pure decisions.
//!
//! Nothing here knows tokio, sled, bollard, axum or tonic, so every rule can be tested by
//! itself and is written once. Conversions to and from the wire live in `api/`, to and from
//! records in `store/`.

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
pub mod secret;
pub mod settings;
mod standby;
pub mod stats;
pub mod stored;
mod trust;
pub mod ulimit;
pub mod work;

pub use app::{App, Draft, ImageFacts, Pulled, Version};
pub use build_args::BuildArgs;
pub use code::{Blob, BuildId, CodeSource, ImageSource};
pub use failure::{Code, Failure, FieldViolation, Reason};
pub use id::{AppId, AppName, ExecutionId, InstanceId, OrgName, ReplicaId};
pub use platform::Platform;
pub use revision::{Defaults, HealthCheck, Revision};
pub use scaling::Scaling;
pub use settings::{Limits, Settings, StorageMode, Tier};
pub use standby::Standby;
pub use trust::Trust;
