//! Which images and URLs a Dockerfile may use, and the Dockerfile that the engine is given.

use std::collections::BTreeMap;

use super::{
    Context,
    build::{Build, BuildEnv},
    dockerfile::{self, Plan},
    failure::failed,
};
use crate::{
    engine::Credentials,
    model::{
        Failure,
        secret::{registry_of_address, registry_of_image},
        work::Cancelled,
    },
};

/// Reads the context's Dockerfile and checks each image and URL in it. Where the host is isolated,
/// an unambiguous equivalent replaces the file. Returns what was read.
///
/// # Errors
/// BUILD_FAILED with the position and the remedy; why an image is not available.
pub(super) async fn enforce(
    env: &BuildEnv,
    build: &Build,
    context: &mut Context,
    secret: &str,
    credentials: Option<&Credentials>,
) -> Result<Plan, Failure> {
    let refused = |why: String| failed(format!("the Dockerfile is refused: {why}"));
    let file = context.brought(dockerfile::MAX_BYTES as u64);
    let file = file.ok_or_else(|| {
        refused(format!(
            "it has more than {} bytes, or cannot be read",
            dockerfile::MAX_BYTES
        ))
    })?;
    let args = context.build_args.clone();
    // Quick: the file is short, and the work on it is bounded.
    let read = move |_: Cancelled<'_>| Plan::read(&file, &args).map_err(refused);
    let mut plan = env.parse(build, read).await?;
    let admission = env.images.admission();
    let org = &build.app.org;
    let mut pinned = BTreeMap::new();
    let mut next = 0;
    // Triggers of a base may add to the list.
    while let Some(named) = plan.images.get(next).cloned() {
        next += 1;
        let at = |mut failure: Failure| {
            failure.message = format!("{}: {}", named.place, failure.message);
            failure
        };
        let name = admission.check_name(org, &named.image);
        name.map_err(|why| refused(format!("{}: {why}", named.place)))?;
        if named.is_hint {
            continue;
        }
        if admission.needs_grant(org, &named.image) && !named.can_be_pinned() {
            return Err(refused(format!(
                "{} takes from image {:?}, whose content cannot be fixed there before the build; begin a stage with it (FROM {0} AS name) and use the stage's name",
                named.place, named.image
            )));
        }
        let registry = registry_of_image(&named.image);
        let takes = |c: &&Credentials| {
            registry_of_address(c.server_address.as_deref().unwrap_or_default()) == registry
        };
        let credentials = credentials.filter(takes).cloned();
        // For another platform the engine pulls the image itself, and a local one may be for this
        // platform.
        let is_base = named.is_base && (!named.has_platform || admission.isolates_host());
        let pulling = || build.log.line(format!("Pulling {}", named.image));
        let base = env
            .images
            .base(org, (&named.image, is_base), secret, credentials, pulling)
            .await
            .map_err(at)?;
        if named.is_base {
            plan.add_triggers(&named.image, &base.triggers)
                .map_err(refused)?;
        }
        if let Some(name) = base.pinned {
            pinned.insert(named.image, name);
        }
    }
    if admission.isolates_host() {
        if let Some(url) = plan.urls.first() {
            return Err(refused(format!(
                "{} has the engine fetch {:?} in this machine's own network, which --trust sandbox alone allows; COPY a file of the code, fetch it in a RUN step, or begin a path with ./",
                url.place, url.source
            )));
        }
        let path = context.dockerfile.clone();
        context.add(&path, plan.pinned(&pinned), false);
    }
    Ok(plan)
}
