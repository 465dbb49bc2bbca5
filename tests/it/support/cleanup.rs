//! Removes what a data directory left in the engine, found by its label.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result};
use bollard::{
    Docker,
    errors::Error,
    query_parameters::{
        RemoveContainerOptionsBuilder, RemoveImageOptions, RemoveImageOptionsBuilder,
        RemoveVolumeOptions,
    },
};
use ignite_kit::owned;

/// Removes a data directory's containers, then its networks with their rules, volumes and the images
/// built for it. One that cannot be removed does not prevent the removal of the others.
pub(crate) async fn remove_all(docker: &Docker, data_dir: &Path) -> Result<()> {
    let mut failed = None;
    let force = RemoveContainerOptionsBuilder::new()
        .force(true)
        .v(true)
        .build();
    for id in owned::containers(docker, data_dir, true)
        .await?
        .into_iter()
        .filter_map(|found| found.id)
    {
        failed = docker
            .remove_container(&id, Some(force.clone()))
            .await
            .err()
            .or(failed);
    }
    for name in owned::networks(docker, data_dir).await? {
        failed = docker.remove_network(&name).await.err().or(failed);
        remove_rules(&name);
    }
    let leases = owned::leases(docker, data_dir).await?;
    for name in owned::volumes(docker, data_dir)
        .await?
        .into_iter()
        .chain(leases)
    {
        let gone = docker
            .remove_volume(&name, None::<RemoveVolumeOptions>)
            .await;
        failed = gone.err().or(failed);
    }
    let (images, marks) = owned::images(docker, data_dir).await?;
    for name in images.into_iter().chain(marks) {
        let removed = docker.remove_image(&name, None::<RemoveImageOptions>, None);
        failed = removed.await.err().or(failed);
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Removes the rules that kept a network's containers from this host, where there were any.
fn remove_rules(network: &str) {
    let instance = network.strip_prefix("ignite-");
    if let Some(instance) = instance.and_then(|rest| rest.strip_suffix("-isolated")) {
        let table = format!("ignite_{instance}");
        let removed = Command::new("nft")
            .args(["delete", "table", "inet", &table])
            .stderr(Stdio::null())
            .status();
        // A server that ended by itself has removed them.
        drop(removed);
    }
}

/// [`remove_all`] from code that is not async, such as `drop`. Failures are printed and do not
/// panic.
pub(crate) fn blocking(data_dir: &Path) {
    let data_dir = data_dir.to_owned();
    on_a_thread(async move |docker| remove_all(&docker, &data_dir).await);
}

/// Runs this on a thread with a runtime of its own, since the caller's may be shutting down.
fn on_a_thread(work: impl AsyncFnOnce(Docker) -> Result<()> + Send + 'static) {
    let cleaned = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime
            .context("a runtime")?
            .block_on(async { work(Docker::connect_with_defaults()?).await })
    });
    match cleaned.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("not everything of this test is cleaned up: {error:#}"),
        Err(_) => eprintln!("the cleaning up of this test panicked"),
    }
}

/// Removes an image when dropped: one that no other run would use.
pub(crate) struct Image(pub(crate) String);

impl Drop for Image {
    fn drop(&mut self) {
        let reference = self.0.clone();
        on_a_thread(async move |docker| {
            let force = RemoveImageOptionsBuilder::new().force(true).build();
            let removed = docker.remove_image(&reference, Some(force), None).await;
            match removed {
                Err(Error::DockerResponseServerError {
                    status_code: 404, ..
                }) => Ok(()),
                other => Ok(other.map(drop)?),
            }
        });
    }
}

/// Calls [`blocking`] when it is dropped, for tests that make containers themselves.
pub(crate) struct OnDrop(pub(crate) PathBuf);

impl Drop for OnDrop {
    fn drop(&mut self) {
        blocking(&self.0);
    }
}
