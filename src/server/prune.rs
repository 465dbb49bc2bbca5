//! `ignite prune`: which instances are gone.

use anyhow::{Result, bail};

use super::data_dir;
use crate::{
    config::Config,
    engine::docker::{self, InstanceOfOthers},
};

/// Removes the containers and networks of instances whose `ignite` is gone, and says what it
/// removed, a line each. Those that run, and those that a stop with `--keep-replicas` left, stay.
/// So do the volumes of apps, for as long as the data directory with the apps is there, and images
/// that were built for a data directory that is still there.
///
/// # Errors
/// When the engine does not answer or something could not be removed.
pub async fn prune(config: Config) -> Result<Vec<String>> {
    let report = docker::prune(config.docker_host, is_gone, is_forgotten, needs_images).await?;
    let line = |i: &InstanceOfOthers| {
        let from = i
            .data_dir
            .as_ref()
            .map_or_else(String::new, |d| format!(" of {}", d.display()));
        let volumes = match i.volumes {
            0 => String::new(),
            n => format!(", and {n} volumes,"),
        };
        format!(
            "removed {} containers, {} networks and {} images{volumes} of instance {}{from}",
            i.containers, i.networks, i.images, i.id
        )
    };
    let lines = report.removed.iter().map(line).collect();
    if !report.failures.is_empty() {
        bail!("{}", report.failures.join("\n"));
    }
    Ok(lines)
}

fn is_gone(instance: &InstanceOfOthers) -> bool {
    match &instance.data_dir {
        Some(dir) => !data_dir::in_use(dir, &instance.id) && !data_dir::kept(dir, &instance.id),
        // Without a directory to ask there is only the process that made them.
        None => !instance
            .pids
            .iter()
            .any(|pid| std::path::Path::new("/proc").join(pid.to_string()).exists()),
    }
}

/// Whether nobody can come back to the files of this instance's apps.
fn is_forgotten(instance: &InstanceOfOthers) -> bool {
    // Where no label says the directory, it may well be there.
    let dir = instance.data_dir.as_deref();
    dir.is_some_and(|dir| data_dir::is_forgotten(dir, &instance.id))
}

/// A data directory that can be served from again runs the images that its versions name.
fn needs_images(instance: &InstanceOfOthers) -> bool {
    let dir = instance.data_dir.as_ref();
    dir.is_some_and(|dir| data_dir::can_serve(dir, &instance.id))
}
