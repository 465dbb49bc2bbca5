//! The labels that say which instance and app a container, a network or a volume belongs to.
//!
//! They are the only record that survives a crash. Both directions live here so that they cannot
//! drift apart.
//!
//! A container has the labels of its image, too, which a tenant may have written. So every label
//! that is ever read is set on every container ([`sealed`]), empty where there is nothing to say,
//! and an empty label counts as absent ([`get`]); and a container's claims are believed only with
//! its seal ([`origin`]). Networks and volumes have no labels but those they were made with.

use std::{collections::HashMap, path::PathBuf};

use super::{Config, ContainerId, Owner, names};
use crate::{
    engine::STAGE,
    model::{AppId, InstanceId, egress::Egress, instance_lease::Lease},
};

/// The instance; on every container and network that `ignite` makes.
pub(super) const INSTANCE: &str = "io.dodil.ignite.instance";
const DATA_DIR: &str = "io.dodil.ignite.data-dir";
const PID: &str = "io.dodil.ignite.pid";
const ORG: &str = "io.dodil.ignite.org";
const APP: &str = "io.dodil.ignite.app";
const VERSION: &str = "io.dodil.ignite.version";
const REPLICA: &str = "io.dodil.ignite.replica";
const CONFIG_HASH: &str = "io.dodil.ignite.config-hash";
/// On a container in another container's network: the id of that one.
const IN_NETWORK_OF: &str = "io.dodil.ignite.in-network-of";
/// The purpose of a container, a [`Role`].
const ROLE: &str = "io.dodil.ignite.role";
/// On a volume that outlives containers: when its app was created, Unix milliseconds.
const SINCE: &str = "io.dodil.ignite.since";
/// On a volume that is a lease: the lease as JSON.
const LEASE: &str = "io.dodil.ignite.lease";
/// On a container with its own network: where it may connect to.
const EGRESS: &str = "io.dodil.ignite.egress";
/// The value of [`EGRESS`] for an app that sets nothing.
const EGRESS_UNSET: &str = "unset";
/// On a helper container or a relay: the run of `ignite` that made it.
const HELPER_OF: &str = "io.dodil.ignite.look";
/// On the empty image that marks an instance's images: the instance.
pub(super) const BUILT_BY: &str = "io.dodil.ignite.built-by";
/// On the same: the instance's data directory.
pub(super) const BUILT_IN: &str = "io.dodil.ignite.built-in";
/// On a container: the seal over all of [`SEALED`].
const SEAL: &str = "io.dodil.ignite.seal";

/// Every label that is ever read, in the order in which they are sealed. A change of this list
/// takes a new version of the seal.
const SEALED: [&str; 17] = [
    INSTANCE,
    DATA_DIR,
    PID,
    ROLE,
    ORG,
    APP,
    VERSION,
    REPLICA,
    CONFIG_HASH,
    IN_NETWORK_OF,
    EGRESS,
    HELPER_OF,
    SINCE,
    LEASE,
    BUILT_BY,
    BUILT_IN,
    STAGE,
];

type Labels = HashMap<String, String>;

/// The instance that made an object, its data directory and its process at that time.
pub(super) type Maker = (String, Option<PathBuf>, Option<u32>);

/// The purpose of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It runs an app.
    Replica,
    /// It only keeps the network of a replica.
    Holder,
    /// It never runs: files are read or written through it.
    Helper,
    /// It carries names and connections of apps to the server.
    Relay,
}

impl Role {
    const ALL: [Self; 4] = [Self::Replica, Self::Holder, Self::Helper, Self::Relay];

    fn as_str(self) -> &'static str {
        match self {
            Self::Replica => "replica",
            Self::Holder => "holder",
            Self::Helper => "look",
            Self::Relay => "relay",
        }
    }
}

/// What is proved of a container that has this instance's label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// This instance made it and wrote these claims.
    Ours(Claims),
    /// By its name, an `ignite` before seals made it. Its labels may come from its image.
    Unsealed,
    /// It has a seal of another key or form, and the name that this instance would give to what its
    /// labels claim. Its labels are not believed. That it is ours is believed once it is found
    /// where only ours are ([`is_placed_by`]).
    OtherSeal,
    /// Nothing: its labels may come from its image or another program.
    Unproven,
}

/// The claims in the labels of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Claims {
    /// Its purpose; `None` when nothing is believed.
    pub(super) role: Option<Role>,
    /// The app and version that it belongs to.
    pub(super) owner: Option<Owner>,
    /// The holder that keeps its network.
    pub(super) holder: Option<ContainerId>,
    /// Where it may connect to; `None` means nowhere.
    pub(super) egress: Option<Egress>,
    /// The run of `ignite` that made it as a helper or a relay.
    pub(super) helper_of: Option<String>,
}

/// The value of a label; an empty one counts as absent.
fn get<'a>(labels: &'a Labels, key: &str) -> Option<&'a str> {
    let value = labels.get(key).map(String::as_str);
    value.filter(|value| !value.is_empty())
}

/// These labels for a container of this name: with every other label that is ever read set empty,
/// so that none of its image's shows through, and with the seal over them.
pub(super) fn sealed(config: &Config, name: &str, mut labels: Labels) -> Labels {
    for key in SEALED {
        labels.entry(key.to_owned()).or_default();
    }
    let seal = config.seal.over(name, &values(&labels));
    labels.insert(SEAL.to_owned(), seal);
    labels
}

fn values(labels: &Labels) -> [&str; SEALED.len()] {
    SEALED.map(|key| get(labels, key).unwrap_or_default())
}

/// Proves the origin of a container with these names and labels.
pub(super) fn origin(config: &Config, names: &[String], labels: &Labels) -> Origin {
    if get(labels, INSTANCE) != Some(config.instance.as_str()) {
        return Origin::Unproven;
    }
    let holds = |seal| {
        let values = values(labels);
        let mut names = names.iter().map(|name| plain(name));
        names.any(|name| config.seal.holds(seal, name, &values))
    };
    match labels.get(SEAL) {
        None if is_named_by(config.instance.as_str(), names) => Origin::Unsealed,
        Some(seal) if holds(seal) => Origin::Ours(claims(labels)),
        Some(seal) if !seal.is_empty() && is_own_name(config, names, labels) => Origin::OtherSeal,
        Some(_) | None => Origin::Unproven,
    }
}

/// Whether a container's only name is the one that this instance gives to what the labels claim.
fn is_own_name(config: &Config, names: &[String], labels: &Labels) -> bool {
    let [name] = names else { return false };
    let (name, instance) = (plain(name), &config.instance);
    if get(labels, ROLE) == Some(Role::Helper.as_str()) {
        return names::is_helper_name(instance, name);
    }
    owner(labels).is_some_and(|owner| {
        name == names::container_name(instance, &owner)
            || name == names::holder_name(instance, &owner)
    })
}

/// Whether a container is where this instance puts its own: on one of its networks, on that of
/// another container, or on none. An image cannot decide that, nor the name: the creator of a
/// container does.
pub(super) fn is_placed_by(instance: &InstanceId, network_mode: Option<&str>) -> bool {
    let Some(mode) = network_mode else {
        return false;
    };
    mode == "none"
        || mode.starts_with("container:")
        || names::network_names(instance)
            .iter()
            .any(|name| name == mode)
}

/// Whether a container of these names was made by this instance: images bring labels but no names.
fn is_named_by(instance: &str, names: &[String]) -> bool {
    let prefix = format!("ignite-{instance}-");
    names.iter().any(|name| plain(name).starts_with(&prefix))
}

/// A name as it was given; engines prepend a slash.
fn plain(name: &str) -> &str {
    name.strip_prefix('/').unwrap_or(name)
}

fn claims(labels: &Labels) -> Claims {
    let role = get(labels, ROLE);
    let Some(role) = Role::ALL.into_iter().find(|r| role == Some(r.as_str())) else {
        // A newer `ignite` made it; its other labels may mean something else there.
        return Claims::default();
    };
    Claims {
        role: Some(role),
        owner: owner(labels),
        holder: get(labels, IN_NETWORK_OF)
            .filter(|id| is_whole(id))
            .map(|id| ContainerId(id.to_owned())),
        egress: egress(labels),
        helper_of: get(labels, HELPER_OF).map(str::to_owned),
    }
}

/// Whether this is the full id of a container: engines also accept a prefix or a name in its place.
fn is_whole(id: &str) -> bool {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    id.len() == 64 && id.bytes().all(is_digit)
}

/// The labels of the instance itself, on networks and containers.
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
            (ROLE, Role::Replica.as_str().to_owned()),
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

/// The app that a container or a volume is for.
pub(super) fn app(labels: &Labels) -> Option<AppId> {
    Some(AppId {
        org: get(labels, ORG)?.parse().ok()?,
        name: get(labels, APP)?.parse().ok()?,
    })
}

fn owner(labels: &Labels) -> Option<Owner> {
    let get = |key: &str| get(labels, key);
    Some(Owner {
        app: app(labels)?,
        replica: get(REPLICA)?.parse().ok()?,
        version: get(VERSION)?.parse().ok()?,
        config_hash: get(CONFIG_HASH)?.to_owned(),
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
    labels.insert(ROLE.to_owned(), Role::Holder.as_str().to_owned());
    labels
}

/// Adds where the container may connect to.
pub(super) fn with_egress(mut labels: Labels, egress: &Egress) -> Labels {
    let text = match egress {
        Egress::Unset => EGRESS_UNSET.to_owned(),
        said => said.to_string(),
    };
    labels.insert(EGRESS.to_owned(), text);
    labels
}

/// Where a container may connect to; `None` when its labels do not say.
fn egress(labels: &Labels) -> Option<Egress> {
    match get(labels, EGRESS)? {
        EGRESS_UNSET => Some(Egress::Unset),
        said => said.parse().ok(),
    }
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

/// The app that a volume belongs to, and when that app was created; `None` for a volume that is
/// removed with its container.
pub(super) fn kept_for(labels: &Labels) -> Option<(AppId, i64)> {
    let since = get(labels, SINCE)?.parse().ok()?;
    Some((app(labels)?, since))
}

/// The labels of a lease.
pub(super) fn of_lease(config: &Config, lease: &Lease) -> Labels {
    let mut labels = of_instance(config);
    let text = serde_json::to_string(lease).expect("a lease has no maps and no odd numbers");
    labels.insert(LEASE.to_owned(), text);
    labels
}

/// The lease in these labels; `None` for labels of something else, or unreadable ones.
pub(super) fn lease(labels: &Labels) -> Option<Lease> {
    serde_json::from_str(get(labels, LEASE)?).ok()
}

/// Whether these are the labels of a lease, including one that a newer `ignite` made.
pub(super) fn is_lease(labels: &Labels) -> bool {
    get(labels, LEASE).is_some()
}

/// The labels of a helper container of this run.
pub(super) fn of_helper(config: &Config, run_id: &str) -> Labels {
    let mut labels = of_instance(config);
    labels.insert(ROLE.to_owned(), Role::Helper.as_str().to_owned());
    labels.insert(HELPER_OF.to_owned(), run_id.to_owned());
    labels
}

/// The labels of a relay of this run.
pub(super) fn of_relay(config: &Config, run_id: &str) -> Labels {
    let mut labels = of_helper(config, run_id);
    labels.insert(ROLE.to_owned(), Role::Relay.as_str().to_owned());
    labels
}

/// The maker of a network or a volume.
pub(super) fn maker(labels: &Labels) -> Option<Maker> {
    let pid = get(labels, PID).and_then(|pid| pid.parse().ok());
    Some((
        get(labels, INSTANCE)?.to_owned(),
        get(labels, DATA_DIR).map(PathBuf::from),
        pid,
    ))
}

/// As [`maker`], for a container. A prune does not have every instance's seal, but a container that
/// took its labels from its image has another name than ours.
pub(super) fn maker_of_container(names: &[String], labels: &Labels) -> Option<Maker> {
    maker(labels).filter(|(instance, ..)| {
        instance.parse::<InstanceId>().is_ok() && is_named_by(instance, names)
    })
}

/// The engine's filter for all objects of one instance.
pub(super) fn filter(instance: &InstanceId) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{INSTANCE}={instance}")])])
}

#[cfg(test)]
mod tests;
