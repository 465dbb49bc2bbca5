//! Managed runtimes: from a handler's source to a build context.
//!
//! Each is a base image, a recipe (the Dockerfile that it writes) and the server around the
//! handler.

mod python;

use super::{Config, Context, Source};
use crate::model::{Failure, Reason, code::Runtime};

/// What managed runtimes build with.
#[derive(Debug, Clone)]
pub struct Bases {
    /// The image with Python and pip.
    pub python: String,
    /// Where pip finds packages; empty for its own default.
    pub pip_index_url: String,
}

/// The context that builds a handler into an image with an HTTP server around it.
///
/// # Errors
/// BUILD_FAILED when the source is not a handler of its runtime; UNIMPLEMENTED for a runtime that
/// is not built yet.
pub fn context(runtime: &Runtime, source: Source, config: &Config) -> Result<Context, Failure> {
    match runtime {
        Runtime::Python => python::context(source, &config.bases),
        other => Err(Failure::new(
            Reason::Unimplemented,
            format!(
                "code.compile with the runtime {} is not built yet in this version of ignite; send code.image with a Dockerfile",
                other.as_str()
            ),
        )),
    }
}
