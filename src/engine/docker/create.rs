//! Creates the container of a replica, after completing its spec.

use std::{path::PathBuf, sync::atomic::Ordering};

use bollard::models::ContainerCreateBody;

use super::{
    ContainerId, ContainerSpec, Docker, Error, cli_config::Reaches, firewall::Mac, folders,
    info::Facts, names, sealed, spec,
};

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
        self.create_admitted(name, body, &spec, false).await
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
