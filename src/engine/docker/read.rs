//! From the engine's responses to our types: pure functions.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as Status, ContainerSummary,
    ContainerSummaryStateEnum as Listed, EndpointSettings, PortMap,
};

use super::{
    Container, ContainerId, ContainerState, Endpoints,
    info::Via,
    labels::{Claims, Role},
};

/// A container from its inspection, and the claims of its labels that are believed.
pub(super) fn inspected(
    answer: &ContainerInspectResponse,
    claims: Claims,
    via: Via,
    network: &str,
) -> Container {
    let id = ContainerId(answer.id.clone().unwrap_or_default());
    container(id, claims, state(answer, via, network))
}

fn container(id: ContainerId, claims: Claims, state: ContainerState) -> Container {
    Container {
        id,
        holder: claims.holder,
        is_holder: claims.role == Some(Role::Holder),
        owner: claims.owner,
        state,
    }
}

fn state(answer: &ContainerInspectResponse, via: Via, network: &str) -> ContainerState {
    let state = answer.state.clone().unwrap_or_default();
    match state.status {
        Some(Status::CREATED) => ContainerState::Created,
        Some(Status::PAUSED) => ContainerState::Paused(endpoints(answer, via, network)),
        Some(Status::EXITED | Status::DEAD | Status::REMOVING) => ContainerState::Exited {
            code: state.exit_code.unwrap_or_default(),
            oom_killed: state.oom_killed.unwrap_or_default(),
        },
        // Podman says "initialized" and the like between creation and start; for every state that
        // is not listed above, the engine's own flag decides.
        _ if state.running == Some(false) => ContainerState::Created,
        _ => ContainerState::Running(endpoints(answer, via, network)),
    }
}

/// Where an inspected container is reached; `None` until the engine reports an address for every
/// published port.
fn endpoints(answer: &ContainerInspectResponse, via: Via, network: &str) -> Option<Endpoints> {
    let settings = answer.network_settings.as_ref()?;
    match via {
        Via::Direct => own_address(settings.networks.as_ref()?, network).map(Endpoints::Direct),
        Via::Published { at, .. } => {
            let wanted = answer.host_config.as_ref()?.port_bindings.as_ref()?;
            published(wanted, settings.ports.as_ref()?, at).map(Endpoints::Published)
        }
    }
}

fn own_address(networks: &HashMap<String, EndpointSettings>, network: &str) -> Option<IpAddr> {
    networks.get(network)?.ip_address.as_ref()?.parse().ok()
}

fn published(wanted: &PortMap, given: &PortMap, at: IpAddr) -> Option<BTreeMap<u16, SocketAddr>> {
    if wanted.is_empty() {
        return None;
    }
    let address = |key: &String| {
        let inside: u16 = key.split('/').next()?.parse().ok()?;
        let bindings = given.get(key)?.as_ref()?;
        let outside = bindings.iter().find_map(|b| {
            b.host_port
                .as_ref()?
                .parse()
                .ok()
                .filter(|port: &u16| *port != 0)
        })?;
        Some((inside, SocketAddr::new(at, outside)))
    };
    wanted.keys().map(address).collect()
}

/// A container from a list, which has neither exit code nor cause of death: `None` for an ended
/// one, which is to be inspected.
pub(super) fn listed(
    answer: ContainerSummary,
    claims: Claims,
    via: Via,
    network: &str,
) -> (ContainerId, Option<Container>) {
    let id = ContainerId(answer.id.unwrap_or_default());
    let state = match answer.state {
        Some(Listed::CREATED) => ContainerState::Created,
        Some(Listed::PAUSED) => ContainerState::Paused(None),
        Some(Listed::RUNNING) => {
            let networks = answer
                .network_settings
                .as_ref()
                .and_then(|s| s.networks.as_ref());
            ContainerState::Running(match via {
                Via::Direct => networks
                    .and_then(|n| own_address(n, network))
                    .map(Endpoints::Direct),
                Via::Published { at, .. } => {
                    let ports: BTreeMap<_, _> = answer
                        .ports
                        .iter()
                        .flatten()
                        .filter_map(|p| Some((p.private_port, SocketAddr::new(at, p.public_port?))))
                        .collect();
                    (!ports.is_empty()).then_some(Endpoints::Published(ports))
                }
            })
        }
        _ => return (id, None),
    };
    (id.clone(), Some(container(id, claims, state)))
}

/// The container whose end an event reports. Podman says "died" where Docker says "die".
pub(super) fn death(event: bollard::models::EventMessage) -> Option<ContainerId> {
    matches!(event.action.as_deref(), Some("die" | "died")).then_some(())?;
    Some(ContainerId(event.actor?.id?))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: Via = Via::Published {
        bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
        at: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };

    fn answer(json: serde_json::Value) -> ContainerInspectResponse {
        serde_json::from_value(json).expect("an answer")
    }

    #[test]
    fn a_running_container_is_reached_in_its_network_or_by_all_its_ports() {
        let full = answer(serde_json::json!({
            "Id": "c1", "State": {"Status": "running", "Running": true},
            "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]}},
            "NetworkSettings": {
                "Ports": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "49153"}], "99/tcp": null},
                "Networks": {"n": {"IPAddress": "172.18.0.2"}, "other": {"IPAddress": "10.0.0.2"}}
            }
        }));
        let direct = Endpoints::Direct("172.18.0.2".parse().expect("ip"));
        assert_eq!(
            inspected(&full, Claims::default(), Via::Direct, "n").state,
            ContainerState::Running(Some(direct))
        );
        let ports = [(80, "127.0.0.1:49153".parse().expect("addr"))].into();
        assert_eq!(
            inspected(&full, Claims::default(), HERE, "n").state,
            ContainerState::Running(Some(Endpoints::Published(ports)))
        );
    }

    #[test]
    fn an_address_that_is_not_there_yet_is_none() {
        let early = answer(serde_json::json!({
            "Id": "c1", "State": {"Status": "running", "Running": true},
            "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]}},
            "NetworkSettings": {"Ports": {}, "Networks": {"n": {"IPAddress": ""}}}
        }));
        assert_eq!(
            inspected(&early, Claims::default(), Via::Direct, "n").state,
            ContainerState::Running(None)
        );
        assert_eq!(
            inspected(&early, Claims::default(), HERE, "n").state,
            ContainerState::Running(None)
        );
    }

    #[test]
    fn an_ended_container_has_its_code_and_cause() {
        let ended = answer(serde_json::json!({
            "Id": "c1", "State": {"Status": "exited", "Running": false, "OOMKilled": true, "ExitCode": 137}
        }));
        let state = inspected(&ended, Claims::default(), Via::Direct, "n").state;
        assert_eq!(
            state,
            ContainerState::Exited {
                code: 137,
                oom_killed: true
            }
        );
    }
}
