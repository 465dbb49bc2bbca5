//! Creates the container of a replica, after completing its spec.

use std::{io, path::PathBuf, sync::atomic::Ordering};

use bollard::{body_full, models::ContainerCreateBody, query_parameters::UploadToContainerOptions};

use super::{
    ContainerId, ContainerSpec, Docker, Error,
    cli_config::Reaches,
    client::{has_status, remove_container},
    firewall::Mac,
    folders,
    info::Facts,
    names, sealed, spec,
};
use crate::model::code::Overlay;

/// What the engine is asked to do, as a verb.
const PUT_FILES: &str = "put changed files into the container";

impl Docker {
    pub(super) fn warn_of_what_the_engine_lacks(&self, spec: &ContainerSpec, facts: &Facts) {
        let cpus = facts.info.cpus;
        if spec.init
            && !facts.info.abilities.has_init
            && !self.warned_of_init.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                app = %spec.owner.app,
                "The engine has no init (docker-init); the app's own program is the first process, and has to reap orphans itself (logged once)"
            );
        }
        if u64::from(spec.cpu_millicores) > u64::from(cpus) * 1000
            && !self.warned_of_cpu.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                app = %spec.owner.app, asked_millicores = spec.cpu_millicores, host_cpus = cpus,
                "The CPU limit is above what the engine's host has; it is lowered to all of the host's cores (logged once)"
            );
        }
    }

    pub(super) async fn create_once(
        &self,
        spec: &ContainerSpec,
        facts: &Facts,
    ) -> Result<ContainerId, Error> {
        let attached = self.ensure_network_and_rules().await?;
        let spec = self.attach(spec, &attached).await?;
        let (spec, folder) = self.complete(&spec).await?;
        let name = names::container_name(&self.config.instance, &spec.owner);
        let mut body = spec::container(&self.config, facts.traits(), &spec);
        attached.put_names(body.host_config.get_or_insert_default());
        attached.put_certificates(&mut body);
        let body = self.bind_volume(body, &spec, folder.as_deref());
        let id = self.create_admitted(name, body, &spec, false).await?;
        self.lay_over(&id, &spec).await?;
        Ok(id)
    }

    /// Puts the changed files of a development session into a container that was just created; a
    /// container that does not get them is removed.
    pub(super) async fn lay_over(
        &self,
        id: &ContainerId,
        spec: &ContainerSpec,
    ) -> Result<(), Error> {
        let Some(overlay) = &spec.overlay else {
            return Ok(());
        };
        let put = self.put_files(id, overlay).await;
        if put.is_err() {
            if let Err(cause) = remove_container(&self.client, id).await {
                tracing::warn!(container = %id, %cause, "An unfinished container was left behind");
            }
            self.forget_rules(id).await;
        }
        put
    }

    async fn put_files(&self, id: &ContainerId, overlay: &Overlay) -> Result<(), Error> {
        let refused = |message: String| Error::Refused {
            call: PUT_FILES,
            status: 0,
            message,
        };
        let mut read = Err(io::Error::from(io::ErrorKind::NotFound));
        for path in overlay.files.paths(&self.config.data_dir) {
            read = tokio::fs::read(path).await;
            if read.is_ok() {
                break;
            }
        }
        let files = read.map_err(|e| refused(format!("the changed files cannot be read: {e}")))?;
        let options = UploadToContainerOptions {
            path: overlay.path.clone(),
            ..UploadToContainerOptions::default()
        };
        let put = self
            .client
            .run(PUT_FILES, |docker| async move {
                docker
                    .upload_to_container(&id.0, Some(options), body_full(files.into()))
                    .await
            })
            .await;
        match put {
            Err(err) if has_status(&err, 404) => Err(refused(format!(
                "the image has no directory {}",
                overlay.path
            ))),
            other => other,
        }
    }

    /// Completes the spec with what only the engine's side knows: the content of the image's home,
    /// and proxies. Also makes the volumes that the container's own creation must not make. Returns
    /// the folder that the app's volume is bound to as well.
    pub(super) async fn complete(
        &self,
        spec: &ContainerSpec,
    ) -> Result<(ContainerSpec, Option<PathBuf>), Error> {
        let (client, config) = (&self.client, &self.config);
        let mut spec = self
            .homes
            .resolve_content(client, config, spec.clone())
            .await?;
        if config.container_proxies {
            let engine = client.connector().describe();
            let proxies = self.cli.proxies(&engine, Reaches::Itself).await;
            for (name, value) in proxies {
                // The app owner's own variables take precedence.
                spec.env.entry(name).or_insert(value);
            }
        }
        let folder = self.ensure_folder(&spec).await?;
        self.label_volume(&spec).await?;
        let is_new = folder.as_deref().is_some_and(folders::is_empty);
        let filled = self
            .homes
            .fill_volume(client, config, &spec, folder.as_deref())
            .await;
        if let (Err(_), true, Some(folder)) = (&filled, is_new, &folder) {
            // A partial copy of the image's files must not be mistaken for a full one.
            self.remove_folder(folder).await?;
        }
        filled?;
        self.open_volume(&spec, folder.as_deref()).await?;
        Ok((spec, folder))
    }

    /// Creates a container of this name; `mac` is its Ethernet address, `None` lets the engine
    /// choose.
    pub(super) async fn create_named(
        &self,
        name: String,
        body: ContainerCreateBody,
        mac: Option<Mac>,
    ) -> Result<ContainerId, Error> {
        let call = ("create the container", self.client.limit());
        Box::pin(sealed::create(
            &self.client,
            &self.config,
            call,
            name,
            body,
            mac,
        ))
        .await
    }
}
