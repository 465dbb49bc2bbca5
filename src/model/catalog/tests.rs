//! Names across apps, and pages of apps.

use super::*;

fn app(id: &str, ports: &[u16]) -> App {
    let mut app = crate::model::app::bare(id);
    app.settings.ports = ports.to_vec();
    app
}

fn with(apps: &[App]) -> Catalog {
    let mut c = Catalog::default();
    for a in apps {
        let change = c.create(a.clone()).expect("no conflict");
        c.apply(&change);
    }
    c
}

#[test]
fn apps_whose_labels_collide_are_refused_and_the_other_named_to_its_own_org_only() {
    let c = with(&[
        app("c/a-b", &[]),
        app("acme/a.b", &[]),
        app("acme/web", &[9090]),
    ]);
    let foreign = c.create(app("b-c/a", &[])).expect_err("collides");
    assert_eq!(foreign.reason, Reason::AlreadyExists);
    assert!(foreign.message.contains("another organization") && !foreign.message.contains("c/a-b"));
    let own = c.create(app("acme/a-dot-b", &[])).expect_err("collides");
    assert!(own.message.contains("acme/a.b"), "{own}");
    // `web` of org `acme` on port 9090 has the label that `web` of org `acme-9090` has on port
    // 80.
    assert!(c.create(app("acme-9090/web", &[])).is_err());
    assert!(c.create(app("acme-9090/web", &[81])).is_ok());
}

#[test]
fn a_label_is_kept_for_the_longest_named_organization_that_has_apps_and_could_have_it() {
    let mut c = with(&[
        app("c/x-b", &[]),
        app("acme/old", &[9090]),
        app("b-c/first", &[]),
        app("acme-9090/first", &[]),
    ]);
    for (id, ports) in [
        ("c/a-b", &[][..]),
        ("c/long-name-b", &[]),
        ("c/a-b", &[81]),
        ("acme/web", &[9090]),
        ("acme/web", &[80, 9090]),
    ] {
        let refused = c.create(app(id, ports)).expect_err(id);
        assert_eq!(refused.reason, Reason::AlreadyExists, "{id}");
        assert!(refused.message.contains("kept for"), "{refused}");
    }
    for (id, ports) in [
        ("c/a-bb", &[][..]),
        ("c/b", &[]),
        ("acme/web", &[9091]),
        ("b-c/a", &[]),
        ("acme-9090/web", &[]),
        ("acme-9090/web", &[81]),
        // No organization of that name has apps.
        ("c/a-d", &[]),
    ] {
        assert!(c.create(app(id, ports)).is_ok(), "{id} {ports:?}");
    }
    // Whoever had a label before keeps it, even through changes.
    for id in ["c/x-b", "acme/old"] {
        let changed = c.update(&id.parse().expect("valid"), |a| {
            a.updated_at_ms = 9;
            Ok(())
        });
        c.apply(&changed.expect("its own"));
    }
    let taken = c.create(app("b-c/x", &[])).expect_err("taken before");
    assert!(
        taken.message.contains("another organization has"),
        "{taken}"
    );
}

#[test]
fn a_label_that_is_too_long_is_refused_with_its_length() {
    let id = format!("{}/{}", "o".repeat(30), "a".repeat(33));
    let e = Catalog::default()
        .create(app(&id, &[]))
        .expect_err("too long");
    assert!(e.message.contains("64 characters"), "{e}");
}

#[test]
fn labels_are_free_again_after_a_change_of_ports_or_a_delete() {
    let mut c = with(&[app("c/a-b", &[])]);
    let moved = c.update(&"c/a-b".parse().expect("valid"), |a| {
        a.settings.ports = vec![81];
        Ok(())
    });
    c.apply(&moved.expect("valid"));
    assert!(c.create(app("b-c/a", &[])).is_ok());
    let gone = c.delete(&"c/a-b".parse().expect("valid")).expect("exists");
    c.apply(&gone);
    assert!(c.create(app("c/a-b", &[81])).is_ok());
}

#[test]
fn a_host_name_leads_to_one_app_until_that_gives_it_up() {
    let mut c = with(&[app("a/x", &[]), app("b/x", &[]), app("b/y", &[])]);
    let give = |c: &Catalog, id: &str, hosts: &[&str]| {
        c.update(&id.parse().expect("valid"), |app| {
            app.hosts = hosts.iter().map(|h| h.parse().expect("valid")).collect();
            Ok(())
        })
    };
    let both = ["a.example", "b.example"];
    c.apply(&give(&c, "b/x", &both).expect("free"));
    c.apply(&give(&c, "b/x", &both).expect("its own"));
    let refused = give(&c, "a/x", &both[1..]).expect_err("taken");
    assert_eq!(refused.reason, Reason::AlreadyExists);
    assert!(!refused.message.contains("b/x"), "{refused}");
    let refused = give(&c, "b/y", &both).expect_err("taken");
    assert!(refused.message.contains("app b/x"), "{refused}");
    c.apply(&give(&c, "b/x", &both[..1]).expect("its own"));
    assert!(give(&c, "a/x", &both[1..]).is_ok());
    c.apply(&c.delete(&"b/x".parse().expect("valid")).expect("exists"));
    assert!(give(&c, "a/x", &both).is_ok());
}

#[test]
fn pages_hold_one_organization_in_order() {
    let c = with(&[
        app("a/x", &[]),
        app("b/1", &[]),
        app("b/2", &[]),
        app("b/3", &[]),
        app("c/x", &[]),
    ]);
    let org: OrgName = "b".parse().expect("valid");
    let names = |v: Vec<Arc<App>>| v.iter().map(|a| a.id.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(c.page(&org, None, 2)), ["1", "2"]);
    assert_eq!(
        names(c.page(&org, Some(&"2".parse().expect("valid")), 2)),
        ["3"]
    );
    let mut c = c;
    for id in ["b/2", "b/3"] {
        let published = c.update(&id.parse().expect("valid"), |app| {
            app.active_version = 1;
            Ok(())
        });
        c.apply(&published.expect("there"));
    }
    assert_eq!(names(c.published(&org, None, 1)), ["2"]);
    assert_eq!(
        names(c.published(&org, Some(&"2".parse().expect("valid")), 2)),
        ["3"]
    );
}
