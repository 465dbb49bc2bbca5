//! Making containers: what a spec lacks, and the call itself.

use std::{path::PathBuf, sync::atomic::Ordering, time::Duration};

use bollard::{models::ContainerCreateBody, query_parameters::CreateContainerOptions};

use super::{
    Config, ContainerId, ContainerSpec, Docker, Error, cli_config::Reaches, client::Client,
    firewall::Mac, folders, info::Facts, isolation, labels, spec,
};

impl Docker {
    pub(super) fn warn_of_what_the_engine_lacks(&self, spec: &ContainerSpec, facts: &Facts) {
        let cpus = facts.info.cpus;
        if spec.init && !facts.has_init && !self.warned_of_init.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                app = %spec.owner.app,
                "The engine has no init (docker-init); the app's own program is the first process, and reaps what others leave or does not (said once)"
            );
        }
        if u64::from(spec.cpu_millicores) > u64::from(cpus) * 1000
            && !self.warned_of_cpu.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                app = %spec.owner.app, asked_millicores = spec.cpu_millicores, host_cpus = cpus,
                "The CPU limit is above what the engine's host has; it is lowered to all of the host's cores (said once)"
            );
        }
    }

    pub(super) async fn create_once(
        &self,
        spec: &ContainerSpec,
        facts: &Facts,
    ) -> Result<ContainerId, Error> {
        self.ensure_way().await?;
        let (spec, folder) = self.complete(spec).await?;
        let name = spec::container_name(&self.config.instance, &spec.owner);
        let body = spec::container(&self.config, facts.traits(), &spec);
        let body = self.bound(body, &spec, folder.as_deref());
        self.create_admitted(name, body, &spec, false).await
    }

    /// The spec with what only the engine's side knows: what its image has in its home, and proxies.
    /// A volume that the container's own creation may not make is there then. Beside it the folder
    /// that the app's volume is bound to.
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
                // What the app's owner says holds.
                spec.env.entry(name).or_insert(value);
            }
        }
        let folder = self.find_place(&spec).await?;
        let is_new = folder.as_deref().is_some_and(folders::is_empty);
        let filled = self
            .homes
            .fill_volume(client, config, &spec, folder.as_deref())
            .await;
        if let (Err(_), true, Some(folder)) = (&filled, is_new, &folder) {
            // Half of the image's files must not be taken for all of them.
            self.remove_folder(folder).await?;
        }
        filled?;
        self.open_place(&spec, folder.as_deref()).await?;
        Ok((spec, folder))
    }

    /// Makes a container of this name; `mac` is its Ethernet address, or the engine chooses one.
    pub(super) async fn create_named(
        &self,
        name: String,
        body: ContainerCreateBody,
        mac: Option<Mac>,
    ) -> Result<ContainerId, Error> {
        let call = ("create the container", self.client.limit());
        Box::pin(create(&self.client, &self.config, call, name, body, mac)).await
    }
}

/// Makes a container of this name, its labels sealed. Nothing else makes one, so that none is
/// without a seal. `call` is what is asked of the engine, as a verb, and how long that may take;
/// `mac` the container's Ethernet address where the engine is not to choose it.
async fn create(
    client: &Client,
    config: &Config,
    (call, limit): (&'static str, Duration),
    name: String,
    mut body: ContainerCreateBody,
    mac: Option<Mac>,
) -> Result<ContainerId, Error> {
    let labels = body.labels.take().unwrap_or_default();
    body.labels = Some(labels::sealed(config, &name, labels));
    if let Some(mac) = mac {
        return isolation::create_at(client, config, (call, limit), &name, body, mac).await;
    }
    let options = CreateContainerOptions {
        name: Some(name),
        ..CreateContainerOptions::default()
    };
    let made = client
        .run_within(call, limit, |docker| async move {
            docker.create_container(Some(options), body).await
        })
        .await?;
    Ok(ContainerId(made.id))
}

/// Makes a container that is never run: it is looked into, or something is written through it, by
/// those who call themselves `by`. `call` is as in [`create`].
pub(super) async fn create_helper(
    client: &Client,
    config: &Config,
    run_id: &str,
    call: (&'static str, Duration),
    mut body: ContainerCreateBody,
) -> Result<ContainerId, Error> {
    body.labels = Some(labels::of_helper(config, run_id));
    body.network_disabled = Some(true);
    let host = body.host_config.get_or_insert_default();
    host.network_mode = Some("none".to_owned());
    let name = spec::helper_name(&config.instance);
    // What an engine can be asked for is large, and so is what waits for its answer.
    Box::pin(create(client, config, call, name, body, None)).await
}
