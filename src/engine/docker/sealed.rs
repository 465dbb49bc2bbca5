//! The one place where containers are created, each with its labels sealed.

use std::time::Duration;

use bollard::{models::ContainerCreateBody, query_parameters::CreateContainerOptions};

use super::{Config, ContainerId, Error, client::Client, firewall::Mac, isolation, labels, names};

/// Creates a container of this name, with its labels sealed. Every container is created here, so
/// none is without a seal. `call` names the call in errors, as a verb, with its time limit; `mac`
/// is the container's Ethernet address, `None` lets the engine choose.
pub(super) async fn create(
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

/// Creates a helper container: it never runs, and files are read or written through it. `run_id`
/// labels it as this run's; `call` is as in [`create`].
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
    let name = names::helper_name(&config.instance);
    // The request and its response make a large future.
    Box::pin(create(client, config, call, name, body, None)).await
}
