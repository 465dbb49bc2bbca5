//! The rules as text for `nft`: pure functions.
//!
//! Each instance has one table of the family `inet`, named after it, with its chains at the input
//! and forward hooks, ahead of the engine's. A packet is examined only when it arrives from the
//! instance's bridge. A packet that is dropped here stays dropped whatever other tables accept, and
//! an accepted one continues to them. Its Ethernet address identifies its container: the address is
//! chosen here at the container's creation, before it runs, and no app can change it without
//! `NET_ADMIN` or `NET_RAW` (see [`crate::model::capability::Capabilities::of_links`]).
//!
//! Build steps have separate bridges and rules: the engine chooses their Ethernet addresses, and
//! they may send with any other. So their bridge decides, and that the sender has an address of it;
//! all builds reach the same destinations.

use std::{collections::BTreeMap, fmt::Write as _, net::Ipv4Addr};

use ipnet::Ipv4Net;
use sha2::{Digest as _, Sha256};

use crate::{
    engine::Owner,
    model::{
        InstanceId,
        destination::INNER_V4,
        egress::{Ceiling, Destination, Grant},
    },
};

/// Ports of this host that all apps reach whatever their policy says, at one address. A listener on
/// one of them serves every app of every organization.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doors {
    /// The address; `None` opens nothing.
    pub at: Option<Ipv4Addr>,
    /// Ports of TCP.
    pub tcp: Vec<u16>,
    /// Ports of UDP.
    pub udp: Vec<u16>,
}

impl Doors {
    /// The rules that let known containers through.
    fn rules(&self) -> Vec<String> {
        let Some(at) = self.at else { return Vec::new() };
        let open = [("tcp", &self.tcp), ("udp", &self.udp)];
        let open = open.into_iter().filter(|(_, ports)| !ports.is_empty());
        open.map(|(protocol, ports)| {
            let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
            let ports = ports.join(", ");
            format!("ether saddr @known ip daddr {at} {protocol} dport {{ {ports} }} accept")
        })
        .collect()
    }
}

/// Ahead of the engine's own chains, which are at 0.
const PRIORITY: &str = "filter - 10";

/// The Ethernet address of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) struct Mac([u8; 6]);

impl Mac {
    /// The address of an owner's container, or of its holder: the same at every call, and another
    /// one for each replica.
    pub(in super::super) fn of(instance: &InstanceId, owner: &Owner, is_holder: bool) -> Self {
        let text = format!("{instance} {} {is_holder}", owner.replica);
        let digest = Sha256::digest(text);
        let [a, b, c, d, e] = [digest[0], digest[1], digest[2], digest[3], digest[4]];
        // Locally administered, and unicast.
        Self([0x02, a, b, c, d, e])
    }
}

impl Mac {
    pub(super) fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The name of an instance's table.
pub(super) fn table(instance: &InstanceId) -> String {
    format!("inet ignite_{instance}")
}

/// The name of an instance's bridge: at most 15 bytes, the kernel's limit.
pub(in super::super) fn bridge(instance: &InstanceId) -> String {
    format!("ig-{instance}")
}

/// The name of the bridge of a network for builds, by its number below 100.
pub(in super::super) fn build_bridge(instance: &InstanceId, number: u8) -> String {
    format!("{}{number:02}", build_prefix(instance))
}

/// The prefix of these names. With the number they reach the kernel's limit, so two digits of the
/// instance's id are left out.
fn build_prefix(instance: &InstanceId) -> String {
    let id = instance.as_str();
    format!("igb{}", &id[id.len().saturating_sub(10)..])
}

/// Whether an instance's rules apply to packets from this bridge.
pub(in super::super) fn is_bridge_of(name: &str, instance: &InstanceId) -> bool {
    name == bridge(instance) || name.starts_with(&build_prefix(instance))
}

/// What build steps may reach, and their networks.
#[derive(Debug, Default)]
pub(super) struct Builds {
    /// The most, which is also the least; `None` means nothing.
    pub(super) ceiling: Option<Ceiling>,
    /// The addresses behind each bridge; a bridge that is not listed reaches nothing.
    pub(super) networks: BTreeMap<String, Ipv4Net>,
}

/// The destination that the sender asked for, before any address translation.
const DIALLED: &str = "ct original ip daddr";
/// The same with the port.
const WITH_PORT: &str = "ct original ip daddr . ct original proto-dst";
/// Public both as the sender asked for it and after translation.
const PUBLIC: &str = "ip daddr != @inner ct original ip daddr != @inner";
/// How a packet that no rule admits is refused.
const REJECT: &str = "reject with icmpx type admin-prohibited";

/// Removes a table, whether or not it exists.
pub(super) fn remove(table: &str) -> String {
    format!("table {table}\ndelete table {table}\n")
}

/// Lists a table; fails unless it exists.
pub(super) fn list(table: &str) -> String {
    format!("list table {table}\n")
}

/// Replaces the whole table in one step.
pub(super) fn replace(
    instance: &InstanceId,
    ceiling: &Ceiling,
    apps: &BTreeMap<Mac, Grant>,
    doors: &Doors,
    builds: &Builds,
) -> String {
    let (table, bridge) = (table(instance), bridge(instance));
    // A `*` at the end matches any suffix.
    let build_bridges = format!("{}*", build_prefix(instance));
    let mut out = remove(&table);
    out.push_str(&format!("table {table} {{\n"));
    put_sets(&mut out, ceiling, apps, builds);
    put_hooks(&mut out, &bridge, &build_bridges);
    put_app_chains(&mut out, ceiling, doors, &bridge);
    put_build_chains(&mut out, builds, &bridge, &build_bridges);
    out.push_str("}\n");
    out
}

/// Writes the sets that the chains query: the ceiling for all, and the grant of each app.
fn put_sets(out: &mut String, ceiling: &Ceiling, apps: &BTreeMap<Mac, Grant>, builds: &Builds) {
    let sets = Sets::of(apps.iter());
    let (any, port) = by_port(ceiling.listed());
    set(out, "known", "ether_addr", false, &sets.known);
    set(out, "open", "ether_addr", false, &sets.open);
    let inner = INNER_V4.map(|net| net.to_string());
    set(out, "inner", "ipv4_addr", true, &inner);
    for (name, any, port) in [
        ("listed", any, port),
        ("granted", sets.granted_any, sets.granted_port),
        ("narrowed", sets.narrowed_any, sets.narrowed_port),
    ] {
        let key = match name {
            "listed" => "ipv4_addr",
            _ => "ether_addr . ipv4_addr",
        };
        set(out, &format!("{name}_any"), key, true, &any);
        let key = format!("{key} . inet_service");
        set(out, &format!("{name}_port"), &key, true, &port);
    }
    let (any, port) = by_port(builds.ceiling.as_ref().map_or(&[][..], Ceiling::listed));
    set(out, "build_any", "ipv4_addr", true, &any);
    let key = "ipv4_addr . inet_service";
    set(out, "build_port", key, true, &port);
}

/// Writes the chains at the kernel's hooks. They dispatch packets from our bridges.
fn put_hooks(out: &mut String, bridge: &str, build_bridges: &str) {
    for (hook, of_apps, of_builds) in [
        ("input", "to_host", "build_to_host"),
        ("forward", "beyond", "build_beyond"),
    ] {
        chain(
            out,
            hook,
            &[
                &format!("type filter hook {hook} priority {PRIORITY}; policy accept"),
                &format!("iifname \"{bridge}\" goto {of_apps}"),
                &format!("iifname \"{build_bridges}\" goto {of_builds}"),
            ],
        );
    }
}

/// Writes the rules for apps' packets to this host (`to_host`) and through it (`beyond`).
fn put_app_chains(out: &mut String, ceiling: &Ceiling, doors: &Doors, bridge: &str) {
    // The platform opens connections to apps, and their responses pass.
    chain(
        out,
        "answers",
        &[
            "ct direction reply accept",
            "meta l4proto icmp ct state related accept",
        ],
    );
    let mut listed = vec![
        format!("ether saddr @open {DIALLED} @listed_any accept"),
        format!("ether saddr . {DIALLED} @granted_any accept"),
    ];
    for protocol in ["tcp", "udp"] {
        listed.extend([
            format!("meta l4proto {protocol} ether saddr @open {WITH_PORT} @listed_port accept"),
            format!("meta l4proto {protocol} ether saddr . {WITH_PORT} @granted_port accept"),
        ]);
    }
    chain(out, "listed", &refs(&listed));
    let doors = doors.rules();
    let mut to_host = vec!["jump answers"];
    to_host.extend(doors.iter().map(String::as_str));
    to_host.extend(["jump listed", REJECT]);
    chain(out, "to_host", &to_host);

    let mut beyond = vec![
        // Apps talk to each other only through the platform.
        format!("oifname \"{bridge}\" drop"),
        "jump answers".to_owned(),
        "jump listed".to_owned(),
    ];
    if ceiling.has_public() {
        beyond.extend([
            format!("ether saddr @open {PUBLIC} accept"),
            format!("{PUBLIC} ether saddr . {DIALLED} @narrowed_any accept"),
        ]);
        for protocol in ["tcp", "udp"] {
            beyond.push(format!(
                "{PUBLIC} meta l4proto {protocol} ether saddr . {WITH_PORT} @narrowed_port accept"
            ));
        }
    }
    beyond.push(REJECT.to_owned());
    chain(out, "beyond", &refs(&beyond));
}

/// Writes the same for build steps.
fn put_build_chains(out: &mut String, builds: &Builds, bridge: &str, build_bridges: &str) {
    // A step can forge any sender, even what resembles an app's response: no responses pass here.
    let sources = builds.networks.iter();
    let mut source: Vec<_> = sources
        .map(|(bridge, net)| format!("iifname \"{bridge}\" ip saddr {net} return"))
        .collect();
    source.push("drop".to_owned());
    chain(out, "build_source", &refs(&source));
    let mut listed = vec![format!("{DIALLED} @build_any accept")];
    for protocol in ["tcp", "udp"] {
        listed.push(format!(
            "meta l4proto {protocol} {WITH_PORT} @build_port accept"
        ));
    }
    chain(out, "build_listed", &refs(&listed));
    let to_host = ["jump build_source", "jump build_listed", REJECT];
    chain(out, "build_to_host", &to_host);
    let to_public = format!("{PUBLIC} accept");
    let to_containers = [bridge, build_bridges].map(|to| format!("oifname \"{to}\" drop"));
    let mut beyond: Vec<&str> = to_containers.iter().map(String::as_str).collect();
    beyond.extend(["jump build_source", "jump build_listed"]);
    if builds.ceiling.as_ref().is_some_and(Ceiling::has_public) {
        beyond.push(&to_public);
    }
    beyond.push(REJECT);
    chain(out, "build_beyond", &beyond);
}

/// Adds a container and its grant, or removes them; fails without the table.
pub(super) fn change(verb: &str, table: &str, mac: Mac, grant: &Grant) -> String {
    let sets = Sets::of([(&mac, grant)].into_iter());
    let mut out = String::new();
    for (name, elements) in sets.named() {
        if !elements.is_empty() {
            let elements = elements.join(", ");
            let _ = writeln!(out, "{verb} element {table} {name} {{ {elements} }}");
        }
    }
    out
}

/// The set elements of the containers' grants.
#[derive(Default)]
struct Sets {
    known: Vec<String>,
    open: Vec<String>,
    granted_any: Vec<String>,
    granted_port: Vec<String>,
    narrowed_any: Vec<String>,
    narrowed_port: Vec<String>,
}

impl Sets {
    fn of<'a>(apps: impl Iterator<Item = (&'a Mac, &'a Grant)>) -> Self {
        let mut sets = Self::default();
        for (mac, grant) in apps {
            sets.known.push(mac.to_string());
            let of_app = |to: &mut Vec<String>, elements: Vec<String>| {
                to.extend(elements.into_iter().map(|e| format!("{mac} . {e}")));
            };
            match grant {
                Grant::All => sets.open.push(mac.to_string()),
                Grant::Only { listed, public } => {
                    let (any, port) = by_port(listed);
                    of_app(&mut sets.granted_any, any);
                    of_app(&mut sets.granted_port, port);
                    let (any, port) = by_port(public);
                    of_app(&mut sets.narrowed_any, any);
                    of_app(&mut sets.narrowed_port, port);
                }
            }
        }
        sets
    }

    fn named(&self) -> [(&'static str, &[String]); 6] {
        [
            ("known", &self.known),
            ("open", &self.open),
            ("granted_any", &self.granted_any),
            ("granted_port", &self.granted_port),
            ("narrowed_any", &self.narrowed_any),
            ("narrowed_port", &self.narrowed_port),
        ]
    }
}

/// The destinations without a port, and those with one. Elements of a set in the kernel may not
/// overlap in part, as a network with all ports and a smaller one with a single port would.
fn by_port(all: &[Destination]) -> (Vec<String>, Vec<String>) {
    let any = all.iter().filter(|d| d.port.is_none());
    let any = any.map(|d| d.net.to_string()).collect();
    let port = all
        .iter()
        .filter_map(|d| Some(format!("{} . {}", d.net, d.port?)));
    (any, port.collect())
}

fn set(out: &mut String, name: &str, key: &str, has_ranges: bool, elements: &[String]) {
    let flags = if has_ranges { "; flags interval" } else { "" };
    let elements = if elements.is_empty() {
        String::new()
    } else {
        format!("; elements = {{ {} }}", elements.join(", "))
    };
    let _ = writeln!(out, "  set {name} {{ type {key}{flags}{elements}; }}");
}

fn chain(out: &mut String, name: &str, rules: &[&str]) {
    let _ = writeln!(out, "  chain {name} {{");
    for rule in rules {
        let _ = writeln!(out, "    {rule};");
    }
    out.push_str("  }\n");
}

fn refs(rules: &[String]) -> Vec<&str> {
    rules.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests;
