//! The logs of builds: kept over restarts and kills, within bounds, and gone with their app.

use serde_json::{Value, json};

use crate::{
    builds::{bare, ended, save, slow},
    support::{
        code::{dockerfile, from_code, tar_gz},
        contract::{BOTH, Via, acme_app, method, with},
        engine, eventually_ok,
        ignite::Ignite,
    },
};

const LIMIT: std::time::Duration = crate::support::HANGS;

fn of(name: &str, build: &Value) -> Value {
    with(acme_app(name), json!({ "build_id": build }))
}

/// The names of the files of logs, and what is in them.
fn files(ignite: &Ignite) -> Vec<(String, String)> {
    let folder = ignite.data_dir().join("build-logs");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        (name, std::fs::read_to_string(path).unwrap_or_default())
    };
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(read)
        .collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_outlives_a_restart_and_a_kill_and_goes_with_its_app() {
    let _guard = engine::PruneGuard::no_prune().await;
    let mut ignite = Ignite::builder().start().await;
    let (done, cut) = (bare(&ignite, "done").await, bare(&ignite, "cut").await);
    let code = tar_gz(&[("Dockerfile", dockerfile("done").await.as_bytes())]);
    save(&ignite, Via::Json, &done, from_code(&code, json!({}))).await;
    let started = ignite
        .ok(Via::Json, "CompileDraft", &done.token, acme_app("done"))
        .await;
    let build = started["deployId"].clone();
    assert_eq!(
        ended(&ignite, &done).await["status"],
        "VERSION_STATUS_READY"
    );
    let whole = ignite
        .ok(Via::Json, "GetBuildLog", &done.token, of("done", &build))
        .await;
    assert!(whole["lines"].to_string().contains("Step 1/"), "{whole}");
    ignite.terminate(LIMIT).await;
    ignite.start().await;

    // One that is killed in its middle.
    let code = slow("cut").await;
    save(&ignite, Via::Json, &cut, from_code(&code, json!({}))).await;
    let started = ignite
        .ok(Via::Json, "CompileDraft", &cut.token, acme_app("cut"))
        .await;
    let broken = started["deployId"].clone();
    eventually_ok(LIMIT, || async {
        let all = files(&ignite);
        let found = all
            .iter()
            .find(|(name, _)| name.ends_with("_acme_cut.open"));
        match found {
            Some((_, text)) if text.contains("Step 6/") => Ok(()),
            _ => Err(format!("{all:?}")),
        }
    })
    .await;
    ignite.kill9();
    ignite.start().await;
    for via in BOTH {
        let again = ignite
            .ok(via, "GetBuildLog", &done.token, of("done", &build))
            .await;
        assert_eq!(again, whole, "as before");
        let log = ignite
            .ok(via, "GetBuildLog", &cut.token, of("cut", &broken))
            .await;
        assert_eq!(log["status"], "VERSION_STATUS_FAILED", "{log}");
        let lines = log["lines"].as_array().expect("lines");
        assert!(log.to_string().contains("Step 6/"), "{log}");
        let last = lines.last().expect("a line");
        assert_eq!(last["done"], true, "{last}");
        assert!(last["message"].to_string().contains("killed"), "{last}");
    }
    // Followed, it comes whole and ends.
    let path = format!("/v1/ignite/compile/{}/logs", build.as_str().expect("an id"));
    let stream = ignite.request(hyper::Method::GET, &path).token(&done.token);
    let text = stream.send().await.expect("an answer").text().await;
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(&json!(lines), &whole["lines"]);
    // Nobody else hears of it, and it cannot be ended any more.
    let stranger = ignite.token("other");
    let foreign = json!({ "deploy_id": build });
    let foreign = ignite
        .begin(&method("StreamCompileLogs"), &stranger, &message(foreign))
        .await;
    foreign.expect_err("another's").is(5, 404, "NOT_FOUND", &[]);
    let over = ignite
        .refused(Via::Json, "CancelBuild", &done.token, of("done", &build))
        .await;
    over.is(9, 400, "FAILED_PRECONDITION", &[]);

    ignite
        .ok(Via::Json, "DeleteApp", &done.token, acme_app("done"))
        .await;
    let left = files(&ignite);
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].0.ends_with("_acme_cut.log"), "{left:?}");
}

fn message(fields: Value) -> prost_reflect::DynamicMessage {
    let input = method("StreamCompileLogs").input();
    prost_reflect::DynamicMessage::deserialize(input, fields).expect("of the method")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_logs_are_kept() {
    let _guard = engine::PruneGuard::no_prune().await;
    let ignite = Ignite::builder()
        .env("IGNITE_BUILD_LOGS_KEPT", "2")
        .start()
        .await;
    let app = bare(&ignite, "a").await;
    let code = tar_gz(&[("Dockerfile", dockerfile("kept").await.as_bytes())]);
    save(&ignite, Via::Json, &app, from_code(&code, json!({}))).await;
    let mut builds = Vec::new();
    for _ in 0..3 {
        let started = ignite
            .ok(Via::Json, "CompileDraft", &app.token, acme_app("a"))
            .await;
        ended(&ignite, &app).await;
        builds.push(started["deployId"].clone());
    }
    assert_eq!(files(&ignite).len(), 2);
    let gone = ignite
        .refused(Via::Json, "GetBuildLog", &app.token, of("a", &builds[0]))
        .await;
    gone.is(5, 404, "NOT_FOUND", &["not kept any more"]);
    for build in &builds[1..] {
        ignite
            .ok(Via::Json, "GetBuildLog", &app.token, of("a", build))
            .await;
    }
}
