//! Several servers in one configuration.

use serde_json::Value;

use super::{fake::Fake, ignite, run};

#[test]
fn each_context_has_its_server_and_no_token_goes_to_another() {
    let (a, b) = (Fake::start(), Fake::start());
    let home = tempfile::tempdir().expect("a directory");
    let ok = |args: &[&str]| {
        let ran = run(ignite(home.path(), args));
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.err);
        ran.out
    };
    // What is set before there are contexts belongs to none of them.
    ok(&["config", "set", "token", "d.e.f"]);
    ok(&[
        "context",
        "add",
        "a",
        "--api-endpoint",
        &a.url(),
        "--org",
        "one",
        "--token",
        "a.a.a",
    ]);
    ok(&["context", "add", "b", "--api-endpoint", &b.url(), "--use"]);

    let refused = run(ignite(home.path(), &["app", "list"]));
    assert_eq!(refused.code, Some(3), "{}", refused.err);
    assert_eq!(b.tokens(), Vec::<String>::new());

    let mut named = ignite(home.path(), &["--context", "a", "app", "get", "there"]);
    // A variable is for what is not named on the command line.
    named
        .env("IGNITE_TOKEN", "x.y.z")
        .env("IGNITE_API_ENDPOINT", b.url());
    let named = run(named);
    assert_eq!(named.code, Some(0), "{}", named.err);
    assert_eq!(
        (a.tokens(), a.calls()),
        (
            vec!["a.a.a".to_owned()],
            vec!["GetApp one/there".to_owned()]
        )
    );

    let mut by_variable = ignite(home.path(), &["app", "get", "there"]);
    by_variable.env("IGNITE_CONTEXT", "a");
    assert_eq!(run(by_variable).code, Some(0));
    assert_eq!(a.tokens(), ["a.a.a"]);

    // What is kept from now on is kept for the context in use.
    ok(&["login", "--token", "b.b.b"]);
    ok(&["app", "get", "there"]);
    assert_eq!(b.tokens(), ["b.b.b"]);

    let listed: Value =
        serde_json::from_str(&ok(&["context", "list", "-o", "json"])).expect("JSON");
    let all: Vec<(&str, bool)> = listed["contexts"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|c| (c["name"].as_str().expect("a name"), c["inUse"] == true))
        .collect();
    assert_eq!(all, [("default", false), ("a", false), ("b", true)]);
    let table = ok(&["context", "list"]);
    assert!(
        table.contains("a token") && !table.contains("b.b.b"),
        "{table}"
    );
    let seen = ok(&["config", "view"]);
    assert!(!seen.contains("b.b.b") && !seen.contains("a.a.a"), "{seen}");

    ok(&["context", "remove", "b"]);
    assert!(
        ok(&["context", "list"])
            .lines()
            .any(|l| l.starts_with('*') && l.contains("default"))
    );
    ok(&["context", "use", "a"]);
    ok(&["app", "get", "there"]);
    assert_eq!(a.tokens(), ["a.a.a"]);
}
