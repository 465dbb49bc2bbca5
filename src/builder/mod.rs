//! From code to an image on this machine.
//!
//! An archive, a git repository or one file becomes a [`Source`]: a tree in its own folder, with no
//! link that leads out. With its own Dockerfile, or one that a managed runtime writes, it becomes a
//! [`Context`], which the engine builds. The [`Builder`] runs builds: one after another for an app,
//! a bounded number in all, each with a bounded log, and a bounded number waiting. Reading a source
//! is within bounds, and ends when its build does. Images that exist already are found or pulled by
//! [`Images`].
//!
//! `apps` starts builds and records the state of drafts; nothing here knows the store's records.
//!
//! | File | Holds |
//! | --- | --- |
//! | `builds.rs` | [`Builder`]: running and waiting builds, their order and their end |
//! | `build.rs` | One build: settings, inputs, state |
//! | `steps.rs` | What one build does: source, context, engine |
//! | `queue.rs` | Admission to the bounded queue |
//! | `log.rs` | The bounded log of one build |
//! | `kept/` | The logs of builds on disk |
//! | `failure.rs` | The failures of builds |
//! | `source.rs`, `entries.rs` | [`Source`]: a checked tree of files |
//! | `archive/` | Zip and tar.gz, unpacked without trust |
//! | `git/` | Fetches of repositories by the `git` program |
//! | `limits.rs` | Bounds on a tree, and the count against them |
//! | `context.rs` | [`Context`]: what is sent to the engine |
//! | `dockerfile/` | What a Dockerfile asks of the engine: images, URLs |
//! | `dockerfile_policy.rs` | Which of those a Dockerfile may use |
//! | `source_policy.rs` | Which images and hosts an organization may name |
//! | `runtime/` | Managed runtimes: from a handler to a context |
//! | `recognize.rs` | The runtime of code without a Dockerfile |
//! | `images.rs` | [`Images`]: existing images, found or pulled |
//! | `sweep.rs` | Removal of built images that no record names |

mod archive;
mod build;
mod builds;
mod context;
mod dockerfile;
mod dockerfile_policy;
mod entries;
mod failure;
mod git;
mod images;
mod kept;
mod limits;
mod log;
mod queue;
mod recognize;
pub mod runtime;
mod source;
mod source_policy;
mod steps;
mod sweep;

pub use archive::{Format, Listing, format, inspect as inspect_archive};
pub use build::{Build, Config, OpenArgs, SecretUse, State, Vault};
pub use builds::{Builder, Found, Held, Record};
pub use context::{Context, MAX_DOCKERFILE, MAX_DOCKERFILE_LINE, check_context};
pub use entries::{Entries, Entry};
pub use images::{Images, Rules};
pub use kept::EndedLog;
pub use limits::Limits;
pub use log::{Line, Log};
pub use source::Source;
pub use source_policy::Admission;
pub use sweep::Named;
