//! Layers, refusals and the round trip through the file.

use std::{io::Write, path::PathBuf, time::Duration};

use crate::model::{Trust, capacity::Share};

use super::{Config, Flags, PublicUrl, Reach, default_data_dir, parse_duration};

fn vars<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    move |name| {
        let pair = pairs.iter().find(|(n, _)| *n == name);
        pair.map(|(_, v)| (*v).to_owned())
            .or_else(|| (name == "HOME").then(|| "/home/u".to_owned()))
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

#[test]
fn each_layer_covers_the_one_below() {
    let file = file(
        "max_replicas_cap = 7\npids_limit = 100\nbase_domain = \"a.test\"\nhold_max_bytes = \"8MiB\"\nstrict = true",
    );
    let env = vars(&[
        ("IGNITE_PIDS_LIMIT", "200"),
        ("IGNITE_BASE_DOMAIN", "b.test"),
        ("IGNITE_NETWORK", ""),
    ]);
    let mut flags = Flags::default();
    flags.set("base_domain", Some("c.test"), "--base-domain");
    flags.set("reach", None, "--reach");
    let config = Config::load(&env, Some(file.path().to_owned()), &flags).expect("valid");
    assert_eq!((config.max_replicas_cap, config.pids_limit), (7, 200));
    assert_eq!(config.base_domain, "c.test");
    assert_eq!(config.hold_max_bytes, 8 << 20);
    assert!(config.strict);
    assert_eq!((config.reach, config.network), (Reach::Auto, None));
    assert_eq!(
        config.data_dir,
        PathBuf::from("/home/u/.local/share/ignite")
    );
}

#[test]
fn an_organization_may_have_the_machine_unless_it_is_one_of_several_that_do_not_trust_each_other() {
    let load = |pairs: &[(&str, &str)]| {
        let config = Config::load(&vars(pairs), None, &Flags::default()).expect("valid");
        (config.memory_per_org(), config.replicas_per_org())
    };
    for (trust, share) in [
        ("sandbox", Share::All),
        ("team", Share::All),
        ("tenants", Share::ThreeQuarters),
    ] {
        let trust = ("IGNITE_TRUST", trust);
        assert_eq!(load(&[trust]), (share, share));
        let set = [
            trust,
            ("IGNITE_MEMORY_BUDGET_PER_ORG", "1GiB"),
            ("IGNITE_REPLICA_BUDGET_PER_ORG", "0"),
        ];
        assert_eq!(load(&set), (Share::AtMost(1 << 30), Share::All));
    }
}

#[test]
fn startup_timeout_follows_the_budget_unless_it_is_set() {
    let load = |pairs: &[(&str, &str)]| {
        Config::load(&vars(pairs), None, &Flags::default()).expect("valid")
    };
    let budget = ("IGNITE_COLD_START_BUDGET_SECS", "9");
    assert_eq!(load(&[budget]).startup_timeout, Duration::from_secs(9));
    assert_eq!(
        load(&[budget, ("IGNITE_STARTUP_TIMEOUT_SECS", "4")]).startup_timeout,
        Duration::from_secs(4)
    );
}

#[test]
fn everything_that_is_wrong_is_reported_at_once() {
    let file = file("no_such = 1\npids_limit = [1]\n");
    let env = vars(&[
        ("IGNITE_HTTP_ADDR", "localhost"),
        ("IGNITE_COLD_START_BUDGET_SECS", "10s"),
        ("IGNITE_RECONCILE_INTERVAL", "5"),
        ("IGNITE_HOLD_MAX_BYTES", "1MiB"),
        ("IGNITE_MAX_BODY_BYTES", "6 mib"),
        ("IGNITE_STRICT", "yes"),
        ("IGNITE_DEFAULT_ORG", "Acme"),
    ]);
    let mut flags = Flags::default();
    flags.set("reach", Some("tunnel"), "--reach");
    flags.set("nothing", Some("1"), "--set nothing=1");
    let invalid = Config::load(&env, Some(file.path().to_owned()), &flags).expect_err("wrong");
    let text = invalid.to_string();
    for expected in [
        "no_such in ",
        "a TOML array is not expected",
        "IGNITE_HTTP_ADDR: \"localhost\"",
        "IGNITE_COLD_START_BUDGET_SECS: \"10s\"",
        "IGNITE_RECONCILE_INTERVAL: 5 has no unit",
        "hold_max_bytes must be at least max_body_bytes",
        "IGNITE_MAX_BODY_BYTES: \"6 mib\"",
        "IGNITE_STRICT: \"yes\"",
        "'A'",
        "write auto, direct or published",
        "no setting \"nothing\"",
    ] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
    assert_eq!(invalid.problems.len(), 11);
}

#[test]
fn the_dump_is_a_file_that_gives_the_same_configuration() {
    let env = vars(&[
        ("IGNITE_PUBLIC_URL", "https://:443"),
        ("IGNITE_MAX_BODY_BYTES", "1000001"),
        ("IGNITE_EPHEMERAL", "1"),
    ]);
    let config = Config::load(&env, None, &Flags::default()).expect("valid");
    assert_eq!(
        config.public_url,
        Some(PublicUrl {
            scheme: "https".to_owned(),
            port: Some(443)
        })
    );
    let dump = file(&config.to_toml());
    let again =
        Config::load(&vars(&[]), Some(dump.path().to_owned()), &Flags::default()).expect("valid");
    assert_eq!(again, config);
}

#[test]
fn durations_need_a_unit_and_stay_within_a_year() {
    assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
    assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
    for wrong in ["5", "", "ten", "-1s", "9000d"] {
        assert!(parse_duration(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn relations_are_checked() {
    let mut config = Config::defaults("/d".into());
    config.validate().expect("the defaults are valid");
    config.grpc_addr = config.http_addr;
    config.keep_replicas = true;
    config.ephemeral = true;
    config.base_domain = ".Test".to_owned();
    config.readiness_poll_max = Duration::ZERO;
    assert_eq!(config.validate().expect_err("wrong").problems.len(), 4);
    let mut config = Config::defaults("/d".into());
    config.build_network = Some("host".to_owned());
    assert_eq!(config.validate(), Ok(()));
    config.trust = Trust::Team;
    assert_eq!(config.validate().expect_err("wrong").problems.len(), 1);
    config.build_network = Some("builds".to_owned());
    assert_eq!(config.validate(), Ok(()));
    let mut config = Config::defaults("/d".into());
    config.network = Some("db".to_owned());
    assert_eq!(config.validate(), Ok(()));
    config.trust = Trust::Team;
    let problems = config
        .validate()
        .expect_err("it leads past the rules")
        .problems;
    assert!(problems[0].contains("egress_allow"), "{problems:?}");
}

#[test]
fn a_server_is_exposed_where_others_reach_it_and_it_trusts_them() {
    let mut config = Config::defaults("/d".into());
    assert_eq!(config.exposed(), None);
    config.grpc_addr = "0.0.0.0:1".parse().expect("an address");
    assert_eq!(config.exposed(), Some(config.grpc_addr));
    for trust in [Trust::Team, Trust::Tenants] {
        config.trust = trust;
        assert_eq!(config.exposed(), None);
    }
}

#[test]
fn without_a_home_the_data_directory_must_be_given() {
    let none = |_: &str| None;
    assert_eq!(default_data_dir(&none), None);
    let invalid = Config::load(&none, None, &Flags::default()).expect_err("no home");
    assert!(invalid.to_string().contains("--data-dir"));
    let relative = |name: &str| (name == "XDG_DATA_HOME").then(|| "rel".to_owned());
    assert_eq!(default_data_dir(&relative), None);
}
