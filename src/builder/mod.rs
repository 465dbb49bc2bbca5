//! From code to an image on this machine.
//!
//! An archive (`archive`), a git repository (`git`) or one file becomes a [`Source`]: a tree in its
//! own folder, with no link that leads out. With the Dockerfile that it brings, or that a managed
//! runtime writes (`runtime`), it becomes a [`Context`], which the engine builds. The [`Builder`]
//! runs builds: one after another for an app, a bounded number in all, each with a bounded log
//! (`log`), and a bounded number that waits (`queue`). Whatever is read of a source is within
//! bounds (`limits`), and ends when its build does. Images that exist already are found or pulled
//! by [`Images`].
//!
//! How drafts stand is written down by `apps`, which starts builds; nothing here knows the store's
//! records.

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
mod limits;
mod log;
mod queue;
pub mod runtime;
mod source;
mod source_policy;
mod steps;
mod sweep;

pub use archive::{Format, Listing, format, inspect as inspect_archive};
pub use build::{Build, Config, OpenArgs, SecretUse, State, Vault};
pub use builds::{Builder, Held, Record};
pub use context::{Context, MAX_DOCKERFILE, MAX_DOCKERFILE_LINE, check_context, dockerfile_in};
pub use entries::{Entries, Entry};
pub use images::{Images, Rules};
pub use limits::Limits;
pub use log::{Line, Log};
pub use source::Source;
pub use source_policy::Admission;
pub use sweep::Named;
