//! The processes of a replica: which is the first, which reaps, and how many there may be.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    app::{App, ENGINE_LIMIT, read},
    contract::{BOTH, merge},
    eventually_ok,
    ignite::Ignite,
    probe,
};

async fn is_under_init(ignite: &Ignite, app: &App) -> bool {
    let first = read(ignite, app, "/proc/1/cmdline").await.expect("it");
    first.contains("docker-init")
}

async fn zombies(ignite: &Ignite, app: &App) -> u64 {
    let answer = app.get_ok(ignite, "/zombies").await.text().await;
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    answer["zombies"].as_u64().expect("a number")
}

/// Why the app's draft does not run, as reported by the publish or by the first request.
async fn failure(ignite: &Ignite, app: &App) -> String {
    match app.publish(ignite).await {
        (StatusCode::OK, _) => app.get(ignite, "/").await.text().await,
        (_, answer) => answer.to_string(),
    }
}

async fn events(ignite: &Ignite, app: &App) -> String {
    app.api(ignite, Method::GET, "/events", Value::Null)
        .await
        .1
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_app_leaves_is_reaped_unless_its_program_is_an_init_or_its_owner_wants_none() {
    let ignite = Ignite::builder().start().await;
    let app = App::deploy(&ignite, "acme/a", Value::Null).await;
    for depth in ["absent", "prepared"] {
        app.get_ok(&ignite, "/orphan").await;
        assert!(is_under_init(&ignite, &app).await, "{depth}");
        eventually_ok(ENGINE_LIMIT, || async {
            match zombies(&ignite, &app).await {
                0 => Ok(()),
                n => Err(format!("{n} zombies")),
            }
        })
        .await;
        for step in ["idle", "wait"] {
            let output = ignite.cli(&["app", step, "acme:a", "--depth", depth]);
            assert!(output.status.success(), "{output:?}");
        }
    }
    // The app's own program is the first process, and reaps nothing.
    let output = ignite.cli(&["app", "update", "acme:a", "--init=off"]);
    assert!(output.status.success(), "{output:?}");
    eventually_ok(ENGINE_LIMIT, || async {
        app.get_ok(&ignite, "/orphan").await;
        match (
            is_under_init(&ignite, &app).await,
            zombies(&ignite, &app).await,
        ) {
            (false, 1..) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // A program that is an init itself gets no other init.
    let image = probe::image_as("/sbin/init").await;
    let own = App::create(&ignite, "acme/own", Value::Null).await;
    let (status, answer) = own.publish_image(&ignite, &image).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(!is_under_init(&ignite, &own).await);
    let output = ignite.cli(&["app", "update", "acme:own", "--init"]);
    assert!(output.status.success(), "{output:?}");
    eventually_ok(ENGINE_LIMIT, || async {
        if is_under_init(&ignite, &own).await {
            Ok(())
        } else {
            Err("the replica of before answers")
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_init_is_in_the_api_and_no_business_of_a_strict_platform() {
    let ignite = Ignite::builder().arg("--strict").start().await;
    for via in BOTH {
        let name = format!("{via:?}").to_lowercase();
        let id = json!({ "organization_name": "acme", "app_name": name });
        let app = App::create(
            &ignite,
            &format!("acme/{name}"),
            json!({ "init": "APP_INIT_ON" }),
        )
        .await;
        let shown = ignite.ok(via, "GetApp", &app.token, id.clone()).await;
        assert_eq!(shown["app"]["init"], "APP_INIT_ON", "{shown}");
        let (status, answer) = app.publish(&ignite).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert!(!is_under_init(&ignite, &app).await);
        let mut change = id.clone();
        merge(&mut change, json!({ "init": "APP_INIT_UNSPECIFIED" }));
        let changed = ignite.ok(via, "UpdateAppConfig", &app.token, change).await;
        assert_eq!(changed["app"]["init"], Value::Null, "{changed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_the_memory_limit_read_under_an_init_as_without_it() {
    let ignite = Ignite::builder().start().await;
    for init in ["APP_INIT_ON", "APP_INIT_OFF"] {
        for (n, (name, value, word)) in [
            ("PROBE_EXIT_AT_START", "7", "exit code 7"),
            (
                "PROBE_ALLOC_AT_START_MIB",
                "100",
                "memory limit (exit code 137)",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let id = format!("acme/{}-{n}", init.to_lowercase().replace('_', "-"));
            let settings = json!({
                "init": init, "limits": { "memoryMb": 32 }, "env": { name: value },
            });
            let app = App::create(&ignite, &id, settings).await;
            let text = failure(&ignite, &app).await;
            assert!(text.contains(word), "{init}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_needs_capabilities_is_told_so_and_gets_those_that_it_names() {
    let ignite = Ignite::builder().start().await;
    let settings = json!({ "env": { "PROBE_LIKE_NGINX": "1" }, "writableRootFs": true });
    let app = App::create(&ignite, "acme/a", settings).await;
    let image = probe::root_image().await;
    let (status, answer) = app.publish_image(&ignite, &image).await;
    // Reported by the publish or by the first request.
    let text = match status {
        StatusCode::OK => app.get(&ignite, "/").await.text().await,
        _ => answer.to_string(),
    };
    for word in ["chown", "Operation not permitted", "--cap CHOWN"] {
        assert!(text.contains(word), "{text}");
    }
    let mut args = vec!["app", "update", "acme:a"];
    for name in ["chown", "CAP_SETUID", "SETGID"] {
        args.extend(["--cap", name]);
    }
    let output = ignite.cli(&args);
    assert!(output.status.success(), "{output:?}");
    // One capability is missing: nginx writes into a directory that root no longer owns.
    let text = failure(&ignite, &app).await;
    assert!(text.contains("open("), "{text}");
    let all = json!(["CHOWN", "SETUID", "SETGID", "DAC_OVERRIDE"]);
    app.update(&ignite, json!({ "capabilities": all })).await;
    let (status, answer) = app.publish(&ignite).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    app.get_ok(&ignite, "/").await;
    let status = read(&ignite, &app, "/proc/self/status").await.expect("it");
    // 0, 1, 6 and 7.
    assert!(status.contains("CapEff:\t00000000000000c3"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let told = events(&ignite, &app).await;
    assert!(told.contains("CHOWN,DAC_OVERRIDE,SETGID,SETUID"), "{told}");
    // Capabilities belong to the version and can be removed.
    let shown = app.api(&ignite, Method::GET, "", Value::Null).await.1;
    let expected = json!(["CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"]);
    assert_eq!(shown["app"]["capabilities"], expected, "{shown}");
    // It cannot start without them, for which nothing is waited here.
    let output = ignite.cli(&["app", "update", "acme:a", "--cap", "none", "--no-wait"]);
    assert!(output.status.success(), "{output:?}");
    let shown = app.api(&ignite, Method::GET, "", Value::Null).await.1;
    assert_eq!(shown["app"]["capabilities"], Value::Null, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_beyond_what_the_server_gives_are_refused_and_all_are_by_a_strict_one() {
    let ignite = Ignite::builder().start().await;
    let strict = Ignite::builder().arg("--strict").start().await;
    let named =
        |name: &str| json!({ "organization_name": "acme", "name": "a", "capabilities": [name] });
    for (server, name, field, word) in [
        (&ignite, "SYS_ADMIN", "capabilities", "allowed_caps"),
        (&ignite, "ALL", "capabilities[0]", "not to be had"),
        (&ignite, "ROOT", "capabilities[0]", "no capability"),
        (&strict, "CHOWN", "capabilities", "strict"),
    ] {
        for via in BOTH {
            let token = server.token("acme");
            let refused = server.refused(via, "CreateApp", &token, named(name)).await;
            refused.is(3, 400, "INVALID_ARGUMENT", &[word]);
            assert_eq!(refused.fields, [field]);
        }
    }
    let wide = Ignite::builder()
        .env("IGNITE_ALLOWED_CAPS", "SYS_NICE,CHOWN")
        .start()
        .await;
    App::create(&wide, "acme/a", json!({ "capabilities": ["SYS_NICE"] })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_refused_another_thread_has_an_event_of_it() {
    let ignite = Ignite::builder()
        .env("IGNITE_PIDS_LIMIT", "32")
        .env("IGNITE_LIVENESS_INTERVAL", "100ms")
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/a", Value::Null).await;
    let answer = app.get_ok(&ignite, "/threads/100").await.text().await;
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert!(answer["refused"].as_u64() > Some(50), "{answer}");
    eventually_ok(ENGINE_LIMIT, || async {
        match events(&ignite, &app).await {
            now if now.contains("LIMIT_REACHED") && now.contains("pids_limit") => Ok(()),
            now => Err(now),
        }
    })
    .await;
}
