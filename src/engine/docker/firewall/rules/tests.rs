//! The table that the kernel is given.

use super::*;
use crate::model::{Trust, egress::Egress};

fn instance() -> InstanceId {
    InstanceId::from_random(7)
}

fn mac(replica: &str, is_holder: bool) -> Mac {
    let owner = Owner {
        app: "acme/a".parse().expect("valid"),
        replica: replica.parse().expect("valid"),
        version: 1,
        config_hash: String::new(),
    };
    Mac::of(&instance(), &owner, is_holder)
}

fn ceiling(trust: Trust, allow: &str) -> Ceiling {
    Ceiling::of(trust, &allow.parse().expect(allow)).expect("one")
}

/// The rules of a chain.
fn rules_of<'a>(text: &'a str, chain: &str) -> Vec<&'a str> {
    let (_, rest) = text.split_once(&format!("chain {chain} {{")).expect(chain);
    let (inside, _) = rest.split_once('}').expect("its end");
    inside
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect()
}

#[test]
fn every_container_has_an_address_of_its_own_and_keeps_it() {
    let one = mac("0123456789", false);
    assert_eq!(one, mac("0123456789", false));
    assert_ne!(one, mac("0123456789", true));
    assert_ne!(one, mac("0123456780", false));
    let text = one.to_string();
    assert!(text.starts_with("02:") && text.len() == 17, "{text}");
    assert!(bridge(&instance()).len() < 16);
}

#[test]
fn what_is_not_accepted_is_rejected_at_the_end_and_answers_pass_first() {
    for trust in [Trust::Team, Trust::Tenants] {
        let none = Builds::default();
        let text = replace(
            &instance(),
            &ceiling(trust, "none"),
            &BTreeMap::new(),
            &Doors::default(),
            &none,
        );
        assert!(text.starts_with(
            "table inet ignite_000000000007\ndelete table inet ignite_000000000007\ntable inet"
        ));
        let host = rules_of(&text, "to_host");
        assert_eq!(host.first(), Some(&"jump answers;"));
        assert!(host.last().expect("some").starts_with("reject"));
        let beyond = rules_of(&text, "beyond");
        assert_eq!(
            beyond[..2],
            ["oifname \"ig-000000000007\" drop;", "jump answers;"]
        );
        assert!(beyond.last().expect("some").starts_with("reject"));
        let has_public = beyond.iter().any(|rule| rule.contains("@open"));
        assert_eq!(has_public, trust == Trust::Team, "{text}");
        for hook in ["input", "forward"] {
            assert!(rules_of(&text, hook)[1].starts_with("iifname \"ig-000000000007\" goto"));
        }
        assert!(host.iter().all(|rule| !rule.contains("narrowed")), "{text}");
    }
}

#[test]
fn grants_become_elements_for_the_address_of_their_container() {
    let ceiling = ceiling(Trust::Team, "10.0.0.0/8:5432,10.1.0.0/16");
    let (all, some, none) = (
        mac("0000000001", false),
        mac("0000000002", false),
        mac("0000000003", false),
    );
    let egress = |text: &str| ceiling.grant(&text.parse::<Egress>().expect(text));
    let grants = BTreeMap::from([
        (all, egress("")),
        (
            some,
            egress("10.2.0.1:5432,10.1.0.0/24,1.1.1.1:443,8.8.8.0/24"),
        ),
        (none, egress("deny")),
    ]);
    let text = replace(
        &instance(),
        &ceiling,
        &grants,
        &Doors::default(),
        &Builds::default(),
    );
    for set in [
        format!("set open {{ type ether_addr; elements = {{ {all} }}; }}"),
        "set listed_any { type ipv4_addr; flags interval; elements = { 10.1.0.0/16 }; }".to_owned(),
        "set listed_port { type ipv4_addr . inet_service; flags interval; elements = { 10.0.0.0/8 . 5432 }; }".to_owned(),
        format!("elements = {{ {some} . 10.1.0.0/24 }}"),
        format!("elements = {{ {some} . 10.2.0.1/32 . 5432 }}"),
        format!("elements = {{ {some} . 8.8.8.0/24 }}"),
        format!("elements = {{ {some} . 1.1.1.1/32 . 443 }}"),
    ] {
        assert!(text.contains(&set), "{set}\n{text}");
    }
    // It is known, and no more.
    assert_eq!(text.matches(&none.to_string()).count(), 1, "{text}");

    let table = table(&instance());
    let known = change("add", &table, none, &grants[&none]);
    assert_eq!(known, format!("add element {table} known {{ {none} }}\n"));
    let one = change("add", &table, all, &grants[&all]);
    assert_eq!(
        one,
        format!("add element {table} known {{ {all} }}\nadd element {table} open {{ {all} }}\n")
    );
    let four = change("delete", &table, some, &grants[&some]);
    assert_eq!(four.lines().count(), 5, "{four}");
}

#[test]
fn doors_are_for_known_containers_at_one_address_and_for_no_build() {
    let doors = Doors {
        at: Some([172, 18, 0, 1].into()),
        tcp: vec![53, 80],
        udp: vec![53],
    };
    let none = Builds::default();
    let text = replace(
        &instance(),
        &ceiling(Trust::Tenants, "none"),
        &BTreeMap::new(),
        &doors,
        &none,
    );
    let (_, to_host) = text.split_once("chain to_host {\n").expect("the chain");
    let lines: Vec<_> = to_host.lines().map(str::trim).take(3).collect();
    assert_eq!(
        lines,
        [
            "jump answers;",
            "ether saddr @known ip daddr 172.18.0.1 tcp dport { 53, 80 } accept;",
            "ether saddr @known ip daddr 172.18.0.1 udp dport { 53 } accept;",
        ]
    );
    assert_eq!(text.matches("172.18.0.1").count(), 2, "{text}");
}

#[test]
fn builds_reach_what_is_theirs_from_networks_that_are_known_and_never_this_host() {
    let apps = ceiling(Trust::Team, "10.0.0.0/8");
    let text = |allow: &str, networks: BTreeMap<String, Ipv4Net>| {
        let ceiling = Ceiling::of_builds(Trust::Tenants, &allow.parse().expect(allow));
        let builds = Builds { ceiling, networks };
        replace(
            &instance(),
            &apps,
            &BTreeMap::new(),
            &Doors::default(),
            &builds,
        )
    };
    let bridge = build_bridge(&instance(), 3);
    assert_eq!(bridge, "igb000000000703");
    assert!(is_bridge_of(&bridge, &instance()) && !is_bridge_of("igb0", &instance()));
    let net = "172.20.0.0/16".parse().expect("a network");
    let open = text("public,10.1.0.0/16:53", [(bridge, net)].into());
    assert_eq!(
        rules_of(&open, "build_source"),
        [
            "iifname \"igb000000000703\" ip saddr 172.20.0.0/16 return;",
            "drop;"
        ]
    );
    for (hook, chain) in [("input", "build_to_host"), ("forward", "build_beyond")] {
        let jump = format!("iifname \"igb0000000007*\" goto {chain};");
        assert_eq!(rules_of(&open, hook).last(), Some(&jump.as_str()));
        let rules = rules_of(&open, chain);
        assert!(
            rules.last().expect("some").starts_with("reject"),
            "{rules:?}"
        );
        let at = |rule: &str| rules.iter().position(|r| *r == rule);
        assert!(at("jump build_source;") < at("jump build_listed;"));
        assert!(!rules.contains(&"jump answers;"), "{rules:?}");
    }
    assert!(
        open.contains("set build_any { type ipv4_addr; flags interval; }"),
        "{open}"
    );
    assert!(open.contains("elements = { 10.1.0.0/16 . 53 }"), "{open}");
    let accepts = |text: &str| {
        let rules = rules_of(text, "build_beyond");
        rules.iter().any(|rule| rule.ends_with("accept;"))
    };
    assert!(accepts(&open) && !accepts(&text("none", BTreeMap::new())));
    let unasked = replace(
        &instance(),
        &apps,
        &BTreeMap::new(),
        &Doors::default(),
        &Builds::default(),
    );
    assert!(!accepts(&unasked));
}
