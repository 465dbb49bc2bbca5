//! What an organization may keep in the store: its apps, versions and executions, and how much of
//! them one answer contains.

use serde_json::{Value, json};

use crate::support::{
    HANGS,
    app::App,
    code::{dockerfile, from_code, tar_gz},
    contract::{BOTH, Via, merge},
    eventually_ok,
    ignite::Ignite,
};

fn create(org: &str, name: &str, env: Value) -> Value {
    json!({ "organization_name": org, "name": name, "env": env })
}

/// An environment of so many bytes.
fn env(bytes: usize) -> Value {
    json!({ "A": "x".repeat(bytes) })
}

fn of(org: &str, name: &str) -> Value {
    json!({ "organization_name": org, "app_name": name })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_at_its_bounds_is_refused_and_others_are_not() {
    let ignite = Ignite::builder()
        .args(["--set", "apps_max_per_org=3"])
        .args(["--set", "stored_bytes_per_org=64KiB"])
        .start()
        .await;
    let (a, b) = (ignite.token("acme"), ignite.token("globex"));
    for via in BOTH {
        // Many at once: exactly the permitted number succeeds.
        let name = |n: usize| format!("{}-{n}", format!("{via:?}").to_lowercase());
        let names: Vec<_> = (0..12).map(name).collect();
        let fields: Vec<_> = names.iter().map(|n| create("acme", n, json!({}))).collect();
        let calls = fields.iter().map(|f| ignite.call(via, "CreateApp", &a, f));
        let answers = futures_util::future::join_all(calls).await;
        let (mut there, mut refused) = (Vec::new(), Vec::new());
        for (name, answer) in std::iter::zip(&names, answers) {
            match answer {
                Ok(_) => there.push(name),
                Err(refusal) => refused.push(refusal),
            }
        }
        assert_eq!((there.len(), refused.len()), (3, 9));
        for refusal in refused {
            let words = [
                "acme",
                "has 3 apps",
                "IGNITE_APPS_MAX_PER_ORG",
                "app delete",
            ];
            refusal.is(8, 429, "STORE_QUOTA", &words);
        }
        let fields = create("globex", names[0].as_str(), json!({}));
        ignite.ok(via, "CreateApp", &b, fields).await;
        ignite.ok(via, "DeleteApp", &a, of("acme", there[0])).await;
        let fields = create("acme", "again", env(40_000));
        ignite.ok(via, "CreateApp", &a, fields).await;

        // Bytes are bounded too: first by an update that exceeds them, then by a secret.
        let mut update = of("acme", there[1]);
        merge(&mut update, json!({ "env": env(40_000) }));
        let full = ignite
            .refused(via, "UpdateAppConfig", &a, update.clone())
            .await;
        let words = [
            "acme",
            "IGNITE_STORED_BYTES_PER_ORG",
            "of 65536 bytes",
            "delete",
        ];
        full.is(8, 429, "STORE_QUOTA", &words);
        let mut other = of("globex", &names[0]);
        merge(&mut other, json!({ "env": env(40_000) }));
        ignite.ok(via, "UpdateAppConfig", &b, other).await;
        ignite.ok(via, "DeleteApp", &a, of("acme", "again")).await;
        ignite.ok(via, "UpdateAppConfig", &a, update).await;
        for name in &there[1..] {
            ignite.ok(via, "DeleteApp", &a, of("acme", name)).await;
        }
        ignite
            .ok(via, "DeleteApp", &b, of("globex", &names[0]))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_above_the_bound_are_refused_and_accepted_ones_end_with_their_results() {
    let mut ignite = Ignite::builder()
        .args(["--set", "stored_bytes_per_org=300KiB"])
        .args(["--set", "versions_max_per_app=2"])
        .start()
        .await;
    let a = App::deploy(&ignite, "acme/a", json!({})).await;
    let b = App::deploy(&ignite, "globex/b", json!({})).await;
    let body = "x".repeat(100 * 1024);
    let invoke = |app: &App| {
        let mut fields = of(&app.org, &app.name);
        let http = json!({ "http": { "path": "/echo" }, "body": base64(&body) });
        merge(&mut fields, http);
        fields
    };
    let mut accepted = Vec::new();
    let refused = loop {
        assert!(accepted.len() < 4, "more than the bound was accepted");
        let fields = invoke(&a);
        match ignite
            .call(Via::Json, "InvokeAsync", &a.token, &fields)
            .await
        {
            Ok(answer) => accepted.push(answer["executionId"].clone()),
            Err(refusal) => break refusal,
        }
    };
    let words = [
        "IGNITE_STORED_BYTES_PER_ORG",
        "IGNITE_EXECUTION_RETENTION_SECS",
    ];
    refused.is(8, 429, "STORE_QUOTA", &words);
    assert!(!accepted.is_empty());
    let fields = invoke(&b);
    ignite.ok(Via::Grpc, "InvokeAsync", &b.token, fields).await;
    for id in &accepted {
        let ended = eventually_ok(HANGS, || async {
            let fields = json!({ "execution_id": id });
            let answer = ignite.ok(Via::Json, "GetExecution", &a.token, fields).await;
            match answer["execution"]["status"].as_str() {
                Some("EXECUTION_STATUS_COMPLETED") => Ok(answer),
                _ => Err(answer.to_string()),
            }
        })
        .await;
        assert!(
            ended["execution"]["result"]
                .as_str()
                .is_some_and(|r| r.len() > 100 * 1024)
        );
    }
    // The counts survive a crash and a restart.
    ignite.kill9();
    ignite.start().await;
    let fields = invoke(&a);
    let refused = ignite
        .refused(Via::Json, "InvokeAsync", &a.token, fields)
        .await;
    refused.is(8, 429, "STORE_QUOTA", &["of 307200 bytes"]);

    // Versions are kept forever, so their number is bounded.
    ignite
        .ok(Via::Json, "PublishDraft", &b.token, of("globex", "b"))
        .await;
    let full = ignite
        .refused(Via::Json, "PublishDraft", &b.token, of("globex", "b"))
        .await;
    full.is(
        8,
        429,
        "STORE_QUOTA",
        &["has 2 versions", "IGNITE_VERSIONS_MAX_PER_APP"],
    );
    let mut back = of("globex", "b");
    merge(&mut back, json!({ "version": 1 }));
    ignite.ok(Via::Json, "RollbackApp", &b.token, back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_of_builds_takes_in_an_organization_with_fewer_and_nobody_else() {
    let ignite = Ignite::builder()
        .env("IGNITE_BUILD_CONCURRENCY", "1")
        .env("IGNITE_BUILD_QUEUE_MAX", "2")
        .env("IGNITE_BUILD_QUEUE_MAX_PER_ORG", "2")
        .start()
        .await;
    // The step runs a server, which never ends.
    let endless = format!("{}USER 0\nRUN [\"/probe\"]\n", dockerfile("endless").await);
    let endless = from_code(&tar_gz(&[("Dockerfile", endless.as_bytes())]), json!({}));
    let (a, b) = (ignite.token("acme"), ignite.token("globex"));
    for (token, org, names) in [
        (&a, "acme", &["runs", "waits", "newest"][..]),
        (&b, "globex", &["first", "second"]),
    ] {
        for name in names {
            let mut fields = create(org, name, json!({}));
            merge(&mut fields, json!({ "code": endless }));
            ignite.ok(Via::Json, "CreateApp", token, fields).await;
        }
    }
    for name in ["runs", "waits", "newest"] {
        let compile = ignite.ok(Via::Json, "CompileDraft", &a, of("acme", name));
        compile.await;
    }
    let other = ignite.ok(Via::Json, "CompileDraft", &b, of("globex", "first"));
    other.await;
    eventually_ok(HANGS, || async {
        let info = ignite.ok(Via::Json, "GetDraftInfo", &a, of("acme", "newest"));
        let draft = info.await["draft"].clone();
        let error = draft["error"].as_str().unwrap_or_default();
        match draft["status"].as_str() {
            Some("VERSION_STATUS_FAILED") if error.contains("IGNITE_BUILD_QUEUE_MAX") => Ok(()),
            _ => Err(draft.to_string()),
        }
    })
    .await;
    // Now each has one that waits, and neither displaces the other's.
    for (token, org, name) in [(&b, "globex", "second"), (&a, "acme", "newest")] {
        let full = ignite.refused(Via::Json, "CompileDraft", token, of(org, name));
        let words = ["run or wait already", "IGNITE_BUILD_QUEUE_MAX"];
        full.await.is(8, 429, "BUILD_QUEUE_FULL", &words);
    }
    for (token, org, name) in [(&a, "acme", "waits"), (&b, "globex", "first")] {
        let info = ignite.ok(Via::Json, "GetDraftInfo", token, of(org, name));
        let status = info.await["draft"]["status"].clone();
        assert_eq!(status, "VERSION_STATUS_COMPILING", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_large_entries_stay_small_and_have_all_of_them() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    for n in 0..30 {
        let fields = create("acme", &format!("app-{n:02}"), env(90_000));
        ignite.ok(Via::Grpc, "CreateApp", &token, fields).await;
    }
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    loop {
        let fields = json!({ "organization_name": "acme", "limit": 1000, "cursor": cursor });
        let page = ignite.ok(Via::Json, "ListApps", &token, fields).await;
        assert!(
            page.to_string().len() < 1_200_000,
            "{}",
            page.to_string().len()
        );
        let apps = page["apps"].as_array().expect("apps").clone();
        seen.extend(
            apps.iter()
                .map(|app| app["name"].as_str().expect("a name").to_owned()),
        );
        match page["nextCursor"].as_str() {
            Some(next) if !next.is_empty() => next.clone_into(&mut cursor),
            _ => break,
        }
    }
    assert_eq!(
        seen,
        (0..30).map(|n| format!("app-{n:02}")).collect::<Vec<_>>()
    );
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
