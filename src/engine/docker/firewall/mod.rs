//! Isolates apps from this host and the networks around it, where `trust` demands it.
//!
//! The rules (`rules/`) are in the kernel, in a table that belongs to this instance alone; `nft`
//! installs them (`nft.rs`). A container that the table does not know reaches nothing, so each is
//! added between its creation and its start, and every failure leaves less reachable, not more. The
//! table outlives a crash of this process and keeps its entries; the next start rebuilds it from
//! the containers' labels. Flushing all rules of the host (`nft flush ruleset`) removes ours, too:
//! the next creation restores them first, and a check every few seconds ([`CHECK_INTERVAL`])
//! restores them for running containers.
//!
//! Build steps are behind rules of the same table, by the bridge that they come from
//! (`build_network`).

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    net::IpAddr,
    time::Duration,
};

use ipnet::Ipv4Net;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

pub use self::rules::Doors;
use self::rules::{Builds, table};
use super::{ContainerId, Error};
use crate::model::{
    InstanceId,
    egress::{Ceiling, Egress, Grant},
};

mod neighbour;
mod nft;
mod rules;

pub(super) use self::{
    nft::out_of_reach,
    rules::{Mac, bridge, build_bridge, is_bridge_of},
};

/// Time between two checks that the rules are still there.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Whether packets from one container to another on a bridge pass through rules at all.
const BRIDGED: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
/// The network interfaces that this process sees.
const INTERFACES: &str = "/proc/self/net/dev";

/// The rules of one instance.
#[derive(Debug)]
pub(super) struct Firewall {
    instance: InstanceId,
    ceiling: Ceiling,
    state: Mutex<State>,
    /// Serializes changes of the kernel's table, so that none is computed from outdated state.
    turn: Semaphore,
}

/// A container that exists, and what it may reach.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) id: ContainerId,
    pub(super) mac: Mac,
    pub(super) egress: Egress,
    /// Where it is, if it runs.
    pub(super) address: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct State {
    /// The grant of each container.
    apps: BTreeMap<Mac, Grant>,
    /// The networks of builds, and what may be reached from them.
    builds: Builds,
    /// The Ethernet address of each container.
    macs: HashMap<ContainerId, Mac>,
    /// The container at each address.
    addresses: HashMap<IpAddr, Mac>,
    /// What all containers reach.
    doors: Doors,
    /// How the kernel listed the table after it was installed, without the elements of sets; `None`
    /// before that, and after it was removed.
    shown: Option<String>,
}

impl Firewall {
    /// `builds` is what build steps may reach; `None` means nothing.
    pub(super) fn new(instance: InstanceId, ceiling: Ceiling, builds: Option<Ceiling>) -> Self {
        let state = State {
            builds: Builds {
                ceiling: builds,
                ..Builds::default()
            },
            ..State::default()
        };
        Self {
            instance,
            ceiling,
            state: Mutex::new(state),
            turn: Semaphore::new(1),
        }
    }

    /// Installs the table for these containers, and those admitted meanwhile.
    pub(super) async fn establish(&self, found: Vec<Admitted>) -> Result<(), Error> {
        let _turn = self.turn().await;
        {
            let mut state = self.state.lock();
            // Containers that were admitted while the list was taken stay.
            for found in found {
                let mac = found.mac;
                state.apps.insert(mac, self.ceiling.grant(&found.egress));
                state.macs.insert(found.id, mac);
                state.addresses.extend(found.address.map(|at| (at, mac)));
            }
        }
        self.replace().await
    }

    /// Lets all containers through these doors, and no others.
    pub(super) async fn open(&self, doors: Doors) -> Result<(), Error> {
        let _turn = self.turn().await;
        if self.state.lock().doors == doors {
            return Ok(());
        }
        self.state.lock().doors = doors;
        self.replace().await
    }

    /// Whether the container at an address may reach a port elsewhere. What is on this machine's
    /// loopback, where it reaches nothing itself, is for every one that may reach anything.
    pub(super) fn may_reach(&self, client: IpAddr, server: IpAddr, port: u16) -> bool {
        let state = self.state.lock();
        let mac = state.addresses.get(&client);
        let Some(grant) = mac.and_then(|mac| state.apps.get(mac)) else {
            return false;
        };
        match server {
            _ if server.is_loopback() => *grant != Grant::NONE,
            IpAddr::V4(server) => self.ceiling.grants(grant, server, port),
            IpAddr::V6(_) => false,
        }
    }

    /// Admits a container that is created and does not run yet.
    pub(super) async fn admit(
        &self,
        id: &ContainerId,
        mac: Mac,
        egress: &Egress,
    ) -> Result<(), Error> {
        let grant = self.ceiling.grant(egress);
        let table = table(&self.instance);
        let _turn = self.turn().await;
        let script = rules::change("add", &table, mac, &grant);
        {
            let mut state = self.state.lock();
            state.apps.insert(mac, grant);
            state.macs.insert(id.clone(), mac);
        }
        match nft::run(&script).await {
            Ok(_) => Ok(()),
            Err(cause) => {
                tracing::warn!(%cause, "The rules that isolate apps from this host are missing or changed; installing them again");
                self.replace().await
            }
        }
    }

    /// Admits an unused network for builds; its rules are in place after that.
    pub(super) async fn admit_network(&self, bridge: &str, net: Ipv4Net) -> Result<(), Error> {
        {
            let _turn = self.turn().await;
            let before = self.state.lock().builds.networks.get(bridge).copied();
            if before != Some(net) {
                let networks =
                    |state: &mut State| state.builds.networks.insert(bridge.to_owned(), net);
                networks(&mut self.state.lock());
                let put = self.replace().await;
                if put.is_err() {
                    self.state.lock().builds.networks.remove(bridge);
                }
                return put;
            }
        }
        if self.restore().await? {
            tracing::error!(
                "Someone removed or changed the rules that isolate apps and builds from this host; they are restored"
            );
        }
        Ok(())
    }

    /// Tells this host's kernel the address of a container that has just started; without it the
    /// first connections may take seconds.
    pub(super) fn locate(&self, id: &ContainerId, addr: IpAddr) {
        let mac = {
            let mut state = self.state.lock();
            let mac = state.macs.get(id).copied();
            state.addresses.extend(mac.map(|mac| (addr, mac)));
            mac
        };
        let (Some(mac), IpAddr::V4(addr)) = (mac, addr) else {
            return;
        };
        if let Err(cause) = neighbour::set(&bridge(&self.instance), addr, mac) {
            tracing::debug!(container = %id, %cause, "The kernel could not be given a container's address, and finds it by itself");
        }
    }

    /// Forgets a container that is gone.
    pub(super) async fn forget(&self, id: &ContainerId) {
        let gone = {
            let mut state = self.state.lock();
            let mac = state.macs.remove(id);
            state.addresses.retain(|_, at| Some(*at) != mac);
            mac.and_then(|mac| Some((mac, state.apps.remove(&mac)?)))
        };
        let Some((mac, grant)) = gone else { return };
        let _turn = self.turn().await;
        let script = rules::change("delete", &table(&self.instance), mac, &grant);
        if let Err(cause) = nft::run(&script).await {
            // No other container ever has this address.
            tracing::debug!(container = %id, %cause, "A removed container's grant stays in the rules until they are installed again");
        }
    }

    /// Restores the table when it is missing or changed; returns whether it was.
    pub(super) async fn restore(&self) -> Result<bool, Error> {
        let _turn = self.turn().await;
        let Some(expected) = self.state.lock().shown.clone() else {
            return Ok(false);
        };
        if self.show().await.is_ok_and(|shown| shown == expected) {
            return Ok(false);
        }
        self.replace().await.map(|()| true)
    }

    /// Removes the table.
    pub(super) async fn remove(&self) -> Result<(), Error> {
        let _turn = self.turn().await;
        {
            let mut state = self.state.lock();
            let ceiling = state.builds.ceiling.take();
            *state = State::default();
            state.builds.ceiling = ceiling;
        }
        remove(&self.instance).await
    }

    /// What build steps may reach; `None` where none is on a network of ours.
    pub(super) fn build_ceiling(&self) -> Option<Ceiling> {
        self.state.lock().builds.ceiling.clone()
    }

    /// The most that apps may reach.
    pub(super) fn ceiling(&self) -> &Ceiling {
        &self.ceiling
    }

    /// Checks that the kernel applies the rules to what containers send.
    ///
    /// # Errors
    /// Why it does not, and the remedy.
    pub(super) fn check_enforced(&self) -> Result<(), Error> {
        check_bridge(&bridge(&self.instance))?;
        match fs::read_to_string(BRIDGED) {
            Ok(on) if on.trim() == "1" => Ok(()),
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(out_of_reach(&format!("{BRIDGED} cannot be read: {cause}")))
            }
            _ => Err(out_of_reach(
                "packets between containers pass by no rules on this machine; load the kernel's module (`modprobe br_netfilter`) and turn it on (`sysctl -w net.bridge.bridge-nf-call-iptables=1`)",
            )),
        }
    }

    async fn replace(&self) -> Result<(), Error> {
        let script = {
            let state = self.state.lock();
            rules::replace(
                &self.instance,
                &self.ceiling,
                &state.apps,
                &state.doors,
                &state.builds,
            )
        };
        nft::run(&script).await?;
        let shown = self.show().await?;
        self.state.lock().shown = Some(shown);
        Ok(())
    }

    /// The table in the kernel, without the elements of sets.
    async fn show(&self) -> Result<String, Error> {
        nft::run(&rules::list(&table(&self.instance))).await
    }

    async fn turn(&self) -> SemaphorePermit<'_> {
        let turn = self.turn.acquire().await;
        turn.expect("the semaphore is never closed")
    }
}

/// Checks that a network's bridge is on this machine.
///
/// # Errors
/// Why this process's rules do not cover that network, and the remedy.
pub(super) fn check_bridge(bridge: &str) -> Result<(), Error> {
    let interfaces = fs::read_to_string(INTERFACES).unwrap_or_default();
    if has_interface(&interfaces, bridge) {
        return Ok(());
    }
    Err(out_of_reach(&format!(
        "the engine's network for apps or builds is not on this machine (there is no interface {bridge}), so no rules set here hold its containers back: it is a remote or rootless engine, one in a virtual machine, or `ignite` is in a container with a network of its own; run `ignite` on the engine's host, in its network"
    )))
}

/// Removes the table of an instance, whether or not it exists.
pub(super) async fn remove(instance: &InstanceId) -> Result<(), Error> {
    nft::run(&rules::remove(&table(instance))).await.map(drop)
}

fn has_interface(listing: &str, name: &str) -> bool {
    listing
        .lines()
        .filter_map(|line| line.split_once(':'))
        .any(|(found, _)| found.trim() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_found_by_its_whole_name() {
        let listing = "Inter-|   Receive\n face |bytes\n    lo: 1 2\nig-000000000007: 3 4\n";
        assert!(has_interface(listing, "ig-000000000007"));
        assert!(!has_interface(listing, "ig-00000000000"));
        assert!(has_interface(listing, "lo"));
    }
}
