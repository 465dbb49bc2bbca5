//! Managed runtimes: from a handler's source to a build context.

pub mod python;

use super::{Config, Context, Source};
use crate::model::{Failure, Reason, code::Runtime};

/// The context that builds a handler into an image with an HTTP server around it.
///
/// # Errors
/// BUILD_FAILED when the source has no handler, UNIMPLEMENTED for a runtime that is not built yet.
pub fn context(runtime: &Runtime, source: Source, config: &Config) -> Result<Context, Failure> {
    match runtime {
        Runtime::Python => python::context(source, &config.python),
        Runtime::Rust { .. } | Runtime::Go | Runtime::Deno => Err(Failure::new(
            Reason::Unimplemented,
            format!(
                "code.compile with the runtime {} is not built yet in this version of ignite; send code.image with a Dockerfile",
                runtime.as_str()
            ),
        )),
    }
}
