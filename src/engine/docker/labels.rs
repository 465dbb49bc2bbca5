//! The labels that say whose a container or a network is.
//!
//! They are the only record that survives a crash, and the only way in which containers are
//! found: never by name. Both directions live here so that they cannot drift apart.

use std::{collections::HashMap, path::PathBuf};

use super::{Config, ContainerId, Owner};
use crate::model::{AppId, InstanceId, lease::Lease};

/// The instance; on every container and network that `ignite` makes.
pub(super) const INSTANCE: &str = "io.dodil.ignite.instance";
const DATA_DIR: &str = "io.dodil.ignite.data-dir";
const PID: &str = "io.dodil.ignite.pid";
const ORG: &str = "io.dodil.ignite.org";
const APP: &str = "io.dodil.ignite.app";
const VERSION: &str = "io.dodil.ignite.version";
const REPLICA: &str = "io.dodil.ignite.replica";
const CONFIG_HASH: &str = "io.dodil.ignite.config-hash";
/// On a container in another one's network: that one's id.
const IN_NETWORK_OF: &str = "io.dodil.ignite.in-network-of";
/// On a container that only keeps a network.
const ROLE: &str = "io.dodil.ignite.role";
const HOLDER: &str = "holder";
/// On a volume that outlives containers: when its app was created, Unix milliseconds.
const SINCE: &str = "io.dodil.ignite.since";
/// On a volume that is a lease: what it says, as JSON.
const LEASE: &str = "io.dodil.ignite.lease";
/// On a container that is only looked into: which look made it.
const LOOK: &str = "io.dodil.ignite.look";

type Labels = HashMap<String, String>;

/// The labels of the instance itself, which networks carry and containers too.
pub(super) fn of_instance(config: &Config) -> Labels {
    [
        (INSTANCE, config.instance.to_string()),
        (DATA_DIR, config.data_dir.to_string_lossy().into_owned()),
        (PID, std::process::id().to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The labels of one container.
pub(super) fn of_container(config: &Config, owner: &Owner) -> Labels {
    let mut labels = of_instance(config);
    labels.extend(
        [
            (ORG, owner.app.org.to_string()),
            (APP, owner.app.name.to_string()),
            (VERSION, owner.version.to_string()),
            (REPLICA, owner.replica.to_string()),
            (CONFIG_HASH, owner.config_hash.clone()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    labels
}

/// Whose container this is; `None` when a label is missing or unreadable.
pub(super) fn owner(labels: &Labels) -> Option<Owner> {
    let get = |key: &str| labels.get(key);
    Some(Owner {
        app: AppId {
            org: get(ORG)?.parse().ok()?,
            name: get(APP)?.parse().ok()?,
        },
        replica: get(REPLICA)?.parse().ok()?,
        version: get(VERSION)?.parse().ok()?,
        config_hash: get(CONFIG_HASH)?.clone(),
    })
}

/// The labels of a container in the network of a holder.
pub(super) fn of_prepared(config: &Config, owner: &Owner, holder: &ContainerId) -> Labels {
    let mut labels = of_container(config, owner);
    labels.insert(IN_NETWORK_OF.to_owned(), holder.0.clone());
    labels
}

/// The labels of a holder.
pub(super) fn of_holder(config: &Config, owner: &Owner) -> Labels {
    let mut labels = of_container(config, owner);
    labels.insert(ROLE.to_owned(), HOLDER.to_owned());
    labels
}

/// The labels of an app's volume.
pub(super) fn of_volume(config: &Config, app: &AppId, since: i64) -> Labels {
    let mut labels = of_instance(config);
    labels.extend(
        [
            (ORG, app.org.to_string()),
            (APP, app.name.to_string()),
            (SINCE, since.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    labels
}

/// The app whose volume this is, and when that was created; `None` for one that goes with its
/// container.
pub(super) fn kept_for(labels: &Labels) -> Option<(AppId, i64)> {
    let since = labels.get(SINCE)?.parse().ok()?;
    let app = AppId {
        org: labels.get(ORG)?.parse().ok()?,
        name: labels.get(APP)?.parse().ok()?,
    };
    Some((app, since))
}

/// The labels of a lease.
pub(super) fn of_lease(config: &Config, lease: &Lease) -> Labels {
    let mut labels = of_instance(config);
    let text = serde_json::to_string(lease).expect("a lease has no maps and no odd numbers");
    labels.insert(LEASE.to_owned(), text);
    labels
}

/// The lease that these are the labels of; `None` when they are of something else, or cannot be
/// read.
pub(super) fn lease(labels: &Labels) -> Option<Lease> {
    serde_json::from_str(labels.get(LEASE)?).ok()
}

/// Whether these are the labels of a lease, also of one that a newer `ignite` made.
pub(super) fn is_lease(labels: &Labels) -> bool {
    labels.contains_key(LEASE)
}

/// The labels of a container that is only looked into, by those who call themselves `by`.
pub(super) fn of_look(config: &Config, by: &str) -> Labels {
    let mut labels = of_instance(config);
    labels.insert(LOOK.to_owned(), by.to_owned());
    labels
}

/// Who looks into this container.
pub(super) fn look(labels: &Labels) -> Option<&str> {
    labels.get(LOOK).map(String::as_str)
}

/// The holder whose network a container is in.
pub(super) fn holder(labels: &Labels) -> Option<ContainerId> {
    labels.get(IN_NETWORK_OF).cloned().map(ContainerId)
}

/// Whether a container only keeps a network.
pub(super) fn is_holder(labels: &Labels) -> bool {
    labels.get(ROLE).is_some_and(|role| role == HOLDER)
}

/// The instance that made a thing, its data directory and its process then.
pub(super) fn maker(labels: &Labels) -> Option<(String, Option<PathBuf>, Option<u32>)> {
    let pid = labels.get(PID).and_then(|pid| pid.parse().ok());
    Some((
        labels.get(INSTANCE)?.clone(),
        labels.get(DATA_DIR).map(PathBuf::from),
        pid,
    ))
}

/// The engine's filter for everything of one instance.
pub(super) fn filter(instance: &InstanceId) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{INSTANCE}={instance}")])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_survives_its_labels() {
        let config = Config::new(InstanceId::from_random(7), "/data dir".into());
        let before = Owner {
            app: "acme/my.app".parse().expect("valid"),
            replica: "0123456789".parse().expect("valid"),
            version: 3,
            config_hash: "abc".into(),
        };
        let mut labels = of_container(&config, &before);
        assert_eq!(owner(&labels), Some(before));
        let (instance, data_dir, pid) = maker(&labels).expect("has a maker");
        assert_eq!(instance, "000000000007");
        assert_eq!(data_dir, Some("/data dir".into()));
        assert_eq!(pid, Some(std::process::id()));

        labels.insert(VERSION.into(), "three".into());
        assert_eq!(
            owner(&labels),
            None,
            "an unreadable label is no owner, not a panic"
        );
    }
}
