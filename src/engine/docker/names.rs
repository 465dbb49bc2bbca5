//! The names of this instance's containers, networks and volumes in the engine.
//!
//! Names are for people and for telling one instance's objects from another's. An object's labels
//! say what it is (`labels`).

use super::{Config, Owner};
use crate::model::{AppId, InstanceId};

/// The names by which containers know the engine's host: Docker Desktop's and Podman's.
pub const FROM_CONTAINERS: [&str; 2] = ["host.docker.internal", "host.containers.internal"];

/// The name of the network of an instance.
pub(super) fn network_name(config: &Config) -> String {
    let [open, isolated] = network_names(&config.instance);
    match config.egress {
        None => open,
        Some(_) => isolated,
    }
}

/// The possible names of an instance's network: without rules, and behind rules. A network keeps
/// the bridge that it was made with, so that one never turns into the other.
pub(super) fn network_names(instance: &InstanceId) -> [String; 2] {
    [
        format!("ignite-{instance}"),
        format!("ignite-{instance}-isolated"),
    ]
}

/// The name of a container: for people, and covered by the seal of its labels. For a container
/// whose seal does not hold, the name only decides whether it is to be removed.
pub(super) fn container_name(instance: &InstanceId, owner: &Owner) -> String {
    format!(
        "ignite-{instance}-{}-{}-{}",
        owner.app.org, owner.app.name, owner.replica
    )
}

/// The name of a container that keeps another one's network.
pub(super) fn holder_name(instance: &InstanceId, owner: &Owner) -> String {
    format!("{}-net", container_name(instance, owner))
}

/// A unique name for a container that is never run.
pub(super) fn helper_name(instance: &InstanceId) -> String {
    format!("ignite-{instance}-look-{}", unique())
}

/// A unique name for a relay: an earlier one may not be gone yet.
pub(super) fn relay_name(instance: &InstanceId) -> String {
    format!("ignite-{instance}-relay-{}", unique())
}

fn unique() -> String {
    ulid::Ulid::generate().to_string().to_ascii_lowercase()
}

/// Whether [`helper_name`] makes names like this.
pub(super) fn is_helper_name(instance: &InstanceId, name: &str) -> bool {
    let which = name.strip_prefix(&format!("ignite-{instance}-look-"));
    which.is_some_and(|which| ulid::Ulid::from_string(which).is_ok())
}

/// The name of an app's volume: for people, and the same for every replica.
pub(super) fn volume_name(instance: &InstanceId, app: &AppId, since: i64) -> String {
    // Names of organizations and apps have no underscore.
    format!("ignite-{instance}_{}_{}_{since}", app.org, app.name)
}
