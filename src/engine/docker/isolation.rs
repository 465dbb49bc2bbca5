//! Isolates containers from this host and the networks around it, as `trust` demands: the parts of
//! the engine's work that the rules (`firewall/`) need.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bollard::{
    errors::Error as ClientError,
    models::{ContainerCreateBody, EndpointSettings, NetworkingConfig},
};
use hyper::{Method, StatusCode};

use super::{
    Attached, Client, Config, ContainerId, ContainerSpec, Docker, Endpoints, Error, firewall,
    firewall::{CHECK_INTERVAL, Mac},
    info::Via,
    names,
    network::Calls,
    raw, remove_container,
};
use crate::{
    model::{InstanceId, egress::Ceiling},
    resolver,
};

/// Why there are no rules for a server in a container.
const IN_CONTAINER: &str = "this server runs in a container with a network of its own, and rules that it sets hold there alone; run it on the host, or in the host's network (--network host --cap-add NET_ADMIN)";
/// The port of name servers.
const DNS: u16 = 53;

impl Docker {
    /// Makes sure before anything is served that containers are isolated from this host, where they
    /// have to be. While the engine does not respond only the rules are installed; the rest is
    /// checked before the first container.
    ///
    /// # Errors
    /// Why they cannot be isolated, with the remedy.
    pub async fn isolate(&self) -> Result<(), Error> {
        let Some(firewall) = &self.firewall else {
            return Ok(());
        };
        socket(&self.client)?;
        if let Err(refusal @ Error::Refused { .. }) = self.facts().await {
            return Err(refusal);
        }
        match self.ensure_network_and_rules().await {
            Err(cause @ (Error::Unreachable { .. } | Error::TimedOut { .. })) => {
                tracing::warn!(%cause, "Apps can be isolated from this host only once the engine responds; none is started before");
                firewall.establish(Vec::new()).await?;
            }
            Err(refusal) => {
                self.clean_up().await;
                return Err(refusal);
            }
            Ok(_) => {}
        }
        let (ceiling, resolvers) = (firewall.ceiling(), resolver::beyond_loopback());
        let unserved = |ceiling: &Ceiling| {
            let served = resolvers.iter().any(|addr| ceiling.reaches(*addr, DNS));
            resolvers.first().copied().filter(|_| !served)
        };
        if let Some(first) = unserved(ceiling) {
            tracing::warn!(resolver = %first, "Apps can resolve no names, since they may not reach this machine's name server; to allow it, set egress_allow={first}:{DNS}");
        }
        tracing::info!(%ceiling, "Apps are isolated from this host; they reach at most the ceiling");
        if let Some(ceiling) = firewall.build_ceiling() {
            if let Some(first) = unserved(&ceiling) {
                tracing::warn!(resolver = %first, "Build steps can resolve no names, since they may not reach this machine's name server; to allow it, set build_egress=public,{first}:{DNS}");
            }
            tracing::info!(%ceiling, "Build steps are isolated from this host; they reach the ceiling");
        }
        Ok(())
    }

    /// Restores the rules whenever they have been removed. Never ends.
    pub async fn keep_isolated(&self) {
        let Some(firewall) = &self.firewall else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            match firewall.restore().await {
                Ok(false) => {}
                Ok(true) => tracing::error!(
                    "Someone removed or changed the rules that isolate apps from this host; they are restored, and apps may have reached it for some seconds"
                ),
                Err(cause) => {
                    tracing::error!(%cause, "Cannot check whether apps are isolated from this host")
                }
            }
        }
    }

    /// Removes a network that no container will use. One that still has containers of an earlier
    /// run stays, and so do its rules.
    async fn clean_up(&self) {
        let removed = async {
            self.remove_networks().await?;
            self.remove_rules().await
        };
        if let Err(cause) = removed.await {
            tracing::debug!(%cause, "The network for apps or its rules stay");
        }
    }

    /// Makes the instance's network and the rules for its containers, including those of builds.
    /// Returns what its containers get to call apps.
    pub(super) async fn ensure_network_and_rules(&self) -> Result<Attached, Error> {
        let facts = self.facts().await?;
        let calls = self.config.attach.as_ref().map(|attach| Calls {
            attach,
            is_direct: facts.via == Via::Direct,
        });
        let (firewall, own) = (self.firewall.as_deref(), facts.own.as_ref());
        if firewall.is_some() && own.is_some() {
            return Err(firewall::out_of_reach(IN_CONTAINER));
        }
        let attached = self
            .network
            .ensure(&self.client, &self.config, firewall, own, calls)
            .await?;
        self.with_folders_that_are_seen(attached).await
    }

    /// Whether the rules let the container at an address ask a name server. Those of this machine's
    /// loopback are asked for every app that reaches anything.
    pub fn may_ask(&self, client: IpAddr, server: IpAddr) -> bool {
        let firewall = self.firewall.as_ref();
        firewall.is_none_or(|firewall| firewall.may_reach(client, server, DNS))
    }

    /// Creates a container with its own network. The rules admit it before it can run, so they
    /// cover its first packet.
    pub(super) async fn create_admitted(
        &self,
        name: String,
        body: ContainerCreateBody,
        spec: &ContainerSpec,
        is_holder: bool,
    ) -> Result<ContainerId, Error> {
        let Some(firewall) = &self.firewall else {
            return self.create_named(name, body, None).await;
        };
        let mac = Mac::of(&self.config.instance, &spec.owner, is_holder);
        let id = self.create_named(name, body, Some(mac)).await?;
        match firewall.admit(&id, mac, &spec.egress).await {
            Ok(()) => Ok(id),
            Err(err) => {
                if let Err(cause) = remove_container(&self.client, &id).await {
                    tracing::warn!(container = %id, %cause, "An unfinished container was left behind");
                }
                firewall.forget(&id).await;
                Err(err)
            }
        }
    }

    /// Records the address of a container that has just started.
    pub(super) fn locate(&self, id: &ContainerId, endpoints: &Endpoints) {
        if let (Some(firewall), Endpoints::Direct(addr)) = (&self.firewall, endpoints) {
            firewall.locate(id, *addr);
        }
    }

    /// Removes a container that is gone from the rules.
    pub(super) async fn forget_rules(&self, id: &ContainerId) {
        if let Some(firewall) = &self.firewall {
            firewall.forget(id).await;
        }
    }

    /// Removes the rules, once no container is behind them.
    pub(super) async fn remove_rules(&self) -> Result<(), Error> {
        match &self.firewall {
            Some(firewall) => firewall.remove().await,
            None => Ok(()),
        }
    }
}

/// The engine's socket file.
fn socket(client: &Client) -> Result<PathBuf, Error> {
    client.connector().socket().ok_or_else(|| {
        firewall::out_of_reach(
            "the engine is not reached by its socket file, as one on this machine is; set docker_host to it (unix:///var/run/docker.sock)",
        )
    })
}

/// Creates a container with this Ethernet address, for `sealed::create` alone, which seals the
/// labels. The request is written by hand, since the client has no field for the address that
/// engines before 25.0 understand.
pub(super) async fn create_at(
    client: &Client,
    config: &Config,
    (call, limit): (&'static str, Duration),
    name: &str,
    body: ContainerCreateBody,
    mac: Mac,
) -> Result<ContainerId, Error> {
    let socket = socket(client)?;
    let body = with_address(config, body, mac)?;
    let version = client.connector().version();
    let version = version.map_or_else(String::new, |version| format!("/v{version}"));
    let path = format!("{version}/containers/create?name={name}");
    let made = client.run_within(
        call,
        limit,
        |_| async move { post(&socket, &path, body).await },
    );
    Ok(ContainerId(made.await?))
}

/// Removes the rules of an instance that is gone.
pub(super) async fn remove_rules_of(instance: &InstanceId) -> Result<(), Error> {
    firewall::remove(instance).await
}

/// The request for a container with this address, which engines before 25.0 and later ones read
/// from different fields.
fn with_address(
    config: &Config,
    mut body: ContainerCreateBody,
    mac: Mac,
) -> Result<Vec<u8>, Error> {
    let address = mac.to_string();
    let endpoint = EndpointSettings {
        mac_address: Some(address.clone()),
        ..EndpointSettings::default()
    };
    body.networking_config = Some(NetworkingConfig {
        endpoints_config: Some([(names::network_name(config), endpoint)].into()),
    });
    let request = serde_json::to_value(&body).and_then(|mut request| {
        request["MacAddress"] = address.into();
        serde_json::to_vec(&request)
    });
    request.map_err(|cause| Error::Refused {
        call: "create the container",
        status: 0,
        message: cause.to_string(),
    })
}

/// Asks the engine to create a container; returns its id.
async fn post(socket: &Path, path: &str, body: Vec<u8>) -> Result<String, ClientError> {
    let (status, body) = raw::request(socket, Method::POST, path, body).await?;
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    match (status, answer["Id"].as_str()) {
        (StatusCode::CREATED, Some(id)) => Ok(id.to_owned()),
        _ => Err(ClientError::DockerResponseServerError {
            status_code: status.as_u16(),
            message: match answer["message"].as_str() {
                Some(message) => message.to_owned(),
                None => String::from_utf8_lossy(&body).into_owned(),
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Owner, docker::Seal};

    #[test]
    fn the_address_is_said_in_both_ways_that_engines_understand() {
        let instance = InstanceId::from_random(7);
        let mut config = Config::new(instance, "/d".into(), Seal::new(&[7; 32]));
        config.egress = crate::model::egress::Ceiling::of(
            crate::model::Trust::Team,
            &crate::model::egress::EgressAllow::default(),
        );
        let owner = Owner {
            app: "acme/a".parse().expect("valid"),
            replica: "0123456789".parse().expect("valid"),
            version: 1,
            config_hash: String::new(),
        };
        let mac = Mac::of(&config.instance, &owner, false);
        let body = ContainerCreateBody {
            image: Some("i".to_owned()),
            ..ContainerCreateBody::default()
        };
        let request = with_address(&config, body, mac).expect("it can be written");
        let request: serde_json::Value = serde_json::from_slice(&request).expect("JSON");
        assert_eq!(request["Image"], "i");
        assert_eq!(request["MacAddress"], mac.to_string());
        let endpoints = &request["NetworkingConfig"]["EndpointsConfig"];
        let endpoint = &endpoints["ignite-000000000007-isolated"];
        assert_eq!(endpoint["MacAddress"], mac.to_string());
    }
}
