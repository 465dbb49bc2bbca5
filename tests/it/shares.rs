//! How organizations share memory, against a real engine.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    app::{App, ENGINE_LIMIT},
    eventually_ok,
    ignite::Ignite,
};

/// How many of the apps have a ready replica.
async fn running(ignite: &Ignite, apps: &[App]) -> u64 {
    let mut all = 0;
    for app in apps {
        all += app.figure(ignite, "runningReplicas").await;
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn five_small_reserved_apps_of_one_organization_do_not_keep_another_from_the_machine() {
    let ignite = Ignite::builder()
        .env("IGNITE_MEMORY_BUDGET", "320MiB")
        .env("IGNITE_MEMORY_BUDGET_PER_ORG", "240MiB")
        .env("IGNITE_ROOM_WAIT", "2s")
        .start()
        .await;
    // Together they would take all the memory.
    let reserved = json!({ "limits": { "memoryMb": 64 }, "scaling": { "reservedCapacity": 1 } });
    let mut evil = Vec::new();
    for n in 1..=5 {
        evil.push(App::deploy(&ignite, &format!("evil/a{n}"), reserved.clone()).await);
    }
    eventually_ok(ENGINE_LIMIT, || async {
        match running(&ignite, &evil).await {
            3 => Ok(()),
            n => Err(n),
        }
    })
    .await;
    let mut waiting = Vec::new();
    for app in &evil {
        if app.figure(&ignite, "runningReplicas").await == 0 {
            waiting.push(app);
        }
    }
    let refused = waiting[0].get(&ignite, "/").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.header("x-ignite-error"), Some("NO_ROOM"));
    let text = refused.text().await;
    for part in [
        "organization evil has 192 of the 240 MB",
        "IGNITE_MEMORY_BUDGET_PER_ORG",
    ] {
        assert!(text.contains(part), "{text}");
    }

    let small = json!({ "limits": { "memoryMb": 64 }, "scaling": { "scaledownPeriodSecs": 600 } });
    let good = App::deploy(&ignite, "good/a", small).await;
    good.get_ok(&ignite, "/").await;
    assert_eq!(running(&ignite, &evil).await, 3);

    // Memory that one of them gives back is available to its own organization again.
    let gone = evil.remove(0);
    let (status, _) = gone.api(&ignite, Method::DELETE, "", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    eventually_ok(ENGINE_LIMIT, || async {
        match running(&ignite, &evil).await {
            3 => Ok(()),
            n => Err(n),
        }
    })
    .await;
    good.get_ok(&ignite, "/").await;

    // An impossible demand is refused at once.
    let settings = json!({ "scaling": { "reservedCapacity": 4, "maxReplicas": 4 } });
    let (status, answer) = good.api(&ignite, Method::PATCH, "/config", settings).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let warned = answer["warnings"].to_string();
    assert!(
        warned.contains("is 256 MB of memory and one organization may have 240 MB here"),
        "{answer}"
    );
}
