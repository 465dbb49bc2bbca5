//! Whether labels are read back as written, and when they are believed.

use super::*;
use crate::engine::docker::Seal;

const HOLDER_ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn config() -> Config {
    let instance = InstanceId::from_random(7);
    Config::new(instance, "/data dir".into(), Seal::new(&[7; 32]))
}

fn of_acme() -> Owner {
    Owner {
        app: "acme/my.app".parse().expect("valid"),
        replica: "0123456789".parse().expect("valid"),
        version: 3,
        config_hash: "abc".into(),
    }
}

fn names(name: &str) -> Vec<String> {
    vec![format!("/{name}")]
}

/// The labels of a container of this name with these labels and those of its image.
fn over_image(labels: Labels, image: &Labels) -> Labels {
    let mut all = image.clone();
    all.extend(labels);
    all
}

#[test]
fn what_we_say_of_a_container_is_read_back_whatever_its_image_says() {
    let (config, owner) = (config(), of_acme());
    let holder = ContainerId(HOLDER_ID.into());
    let evil: Labels = SEALED
        .iter()
        .chain([&SEAL])
        .map(|key| ((*key).to_owned(), HOLDER_ID.to_owned()))
        .collect();
    let expected = |role, owner: Option<&Owner>, holder, helper_of: Option<&str>| Claims {
        role: Some(role),
        owner: owner.cloned(),
        holder,
        egress: None,
        helper_of: helper_of.map(str::to_owned),
    };
    for (labels, claims) in [
        (
            of_container(&config, &owner),
            expected(Role::Replica, Some(&owner), None, None),
        ),
        (
            of_prepared(&config, &owner, &holder),
            expected(Role::Replica, Some(&owner), Some(holder.clone()), None),
        ),
        (
            of_holder(&config, &owner),
            expected(Role::Holder, Some(&owner), None, None),
        ),
        (
            of_helper(&config, "me"),
            expected(Role::Helper, None, None, Some("me")),
        ),
        (
            of_relay(&config, "me"),
            expected(Role::Relay, None, None, Some("me")),
        ),
    ] {
        let labels = over_image(sealed(&config, "name", labels), &evil);
        let found = origin(&config, &names("name"), &labels);
        assert_eq!(found, Origin::Ours(claims));
        assert_eq!(kept_for(&labels), None);
        assert!(!is_lease(&labels));
        let (instance, data_dir, pid) = maker(&labels).expect("has a maker");
        assert_eq!(instance, "000000000007");
        assert_eq!(data_dir, Some("/data dir".into()));
        assert_eq!(pid, Some(std::process::id()));
    }
}

#[test]
fn where_a_container_may_connect_to_is_read_back_and_nowhere_when_nobody_has_said_it() {
    let config = config();
    let found = |labels: Labels| {
        let image = Labels::from([(EGRESS.to_owned(), "allow".to_owned())]);
        let labels = over_image(sealed(&config, "name", labels), &image);
        match origin(&config, &names("name"), &labels) {
            Origin::Ours(claims) => claims.egress,
            other => panic!("{other:?}"),
        }
    };
    for text in ["", "deny", "allow", "10.0.0.0/8:80"] {
        let said: Egress = text.parse().expect(text);
        let labels = with_egress(of_container(&config, &of_acme()), &said);
        assert_eq!(found(labels), Some(said));
    }
    assert_eq!(found(of_container(&config, &of_acme())), None);
}

#[test]
fn a_container_with_any_other_label_name_or_key_proves_nothing() {
    let config = config();
    let holder = ContainerId(HOLDER_ID.into());
    let labels = of_prepared(&config, &of_acme(), &holder);
    let labels = sealed(&config, "ignite-000000000007-a", labels);
    let found = |name: &str, labels: &Labels| origin(&config, &names(name), labels);
    let ours = |name: &str, labels: &Labels| matches!(found(name, labels), Origin::Ours(_));
    assert!(ours("ignite-000000000007-a", &labels));
    for key in SEALED.into_iter().chain([SEAL]) {
        for value in ["", "other", "1"] {
            let mut changed = labels.clone();
            changed.insert(key.to_owned(), value.to_owned());
            let same = get(&labels, key).unwrap_or_default() == value;
            assert_eq!(
                found("ignite-000000000007-a", &changed) == Origin::Unproven,
                !same,
                "{key}={value}"
            );
        }
    }
    // A user ran an image of the container.
    for name in ["quirky_turing", "ignite-000000000007-b", ""] {
        assert_eq!(found(name, &labels), Origin::Unproven, "{name}");
    }
    assert_eq!(origin(&config, &[], &labels), Origin::Unproven);
    // A copy of the data directory with a new identity; and another data directory.
    for (instance, key) in [(8, 7), (7, 8)] {
        let instance = InstanceId::from_random(instance);
        let other = Config::new(instance, "/data dir".into(), Seal::new(&[key; 32]));
        let found = origin(&other, &names("ignite-000000000007-a"), &labels);
        assert_eq!(found, Origin::Unproven);
    }
}

#[test]
fn what_an_older_ignite_made_is_known_by_its_name_and_not_believed() {
    let config = config();
    let labels = of_holder(&config, &of_acme());
    let found = |name: &str, labels: &Labels| origin(&config, &names(name), labels);
    let name = "ignite-000000000007-acme-my.app-0123456789-net";
    assert_eq!(found(name, &labels), Origin::Unsealed);
    assert_eq!(found("quirky_turing", &labels), Origin::Unproven);
    let by = |name: &str| maker_of_container(&names(name), &labels).map(|(id, ..)| id);
    assert_eq!(by(name).as_deref(), Some("000000000007"));
    assert_eq!(by("quirky_turing"), None);
    assert_eq!(by("ignite-000000000008-acme-a-0123456789"), None);
    // A seal that is present has to be the right one.
    let mut with_seal = labels.clone();
    with_seal.insert(SEAL.into(), String::new());
    assert_eq!(found(name, &with_seal), Origin::Unproven);
    let mut odd = labels.clone();
    odd.insert(INSTANCE.into(), "000000000007-acme".into());
    assert_eq!(maker_of_container(&names(name), &odd), None);
}

#[test]
fn what_another_key_sealed_is_known_by_its_whole_name_and_its_place_alone() {
    let config = config();
    let other = Config::new(
        config.instance.clone(),
        "/data dir".into(),
        Seal::new(&[8; 32]),
    );
    let owner = of_acme();
    let helper = names::helper_name(&config.instance);
    let whole = names::container_name(&config.instance, &owner);
    let holder = names::holder_name(&config.instance, &owner);
    for (name, labels) in [
        (&whole, of_container(&config, &owner)),
        (&holder, of_holder(&config, &owner)),
        (&helper, of_helper(&config, "me")),
    ] {
        let labels = sealed(&other, name, labels);
        let found = |names: &[String]| origin(&config, names, &labels);
        assert_eq!(found(&names(name)), Origin::OtherSeal, "{name}");
        // A container that a user runs from an image of it.
        for name in [
            "quirky_turing",
            "ignite-000000000007-x",
            &format!("{name}0"),
            &whole.replace("-acme-", "-rival-"),
        ] {
            assert_eq!(found(&names(name)), Origin::Unproven, "{name}");
        }
        let two = [names(name), names("two")].concat();
        assert_eq!(found(&two), Origin::Unproven);
    }
    let placed = |mode: Option<&str>| is_placed_by(&config.instance, mode);
    for network in names::network_names(&config.instance) {
        assert!(placed(Some(&network)), "{network}");
    }
    assert!(placed(Some("none")) && placed(Some("container:0011")));
    for mode in [
        None,
        Some("default"),
        Some("bridge"),
        Some("ignite-000000000008"),
    ] {
        assert!(!placed(mode), "{mode:?}");
    }
}

#[test]
fn only_the_whole_id_of_a_holder_is_one_and_what_cannot_be_read_is_no_owner() {
    let config = config();
    for id in [
        "",
        "00",
        &HOLDER_ID[..12],
        &HOLDER_ID[1..],
        "name",
        &"A".repeat(64),
    ] {
        let labels = of_prepared(&config, &of_acme(), &ContainerId(id.to_owned()));
        let labels = sealed(&config, "name", labels);
        let Origin::Ours(claims) = origin(&config, &names("name"), &labels) else {
            panic!("{id}: not ours");
        };
        assert_eq!(claims.holder, None, "{id}");
    }
    let mut labels = of_container(&config, &of_acme());
    for (key, value) in [(VERSION, "three"), (ROLE, "pool")] {
        let before = labels.insert(key.into(), value.into()).expect("it has one");
        let sealed = sealed(&config, "name", labels.clone());
        let Origin::Ours(claims) = origin(&config, &names("name"), &sealed) else {
            panic!("{key}: not ours");
        };
        assert_eq!(claims.owner, None, "{key}");
        labels.insert(key.into(), before);
    }
}
