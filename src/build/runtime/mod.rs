//! Managed runtimes: from a handler's source to a build context.

use super::{Config, Context, Source};
use crate::model::{Failure, Reason, code::Runtime};

/// The context that builds a handler into an image with an HTTP server around it.
///
/// # Errors
/// UNIMPLEMENTED: no runtime is built yet.
pub fn context(runtime: &Runtime, _source: Source, _config: &Config) -> Result<Context, Failure> {
    Err(Failure::new(
        Reason::Unimplemented,
        format!(
            "code.compile with the runtime {} is not built yet in this version of ignite; send code.image with a Dockerfile",
            runtime.as_str()
        ),
    ))
}
