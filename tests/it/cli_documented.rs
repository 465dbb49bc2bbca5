//! The command lines that the cloud documents, unchanged, against a real server and engine.

use std::{os::unix::process::CommandExt as _, path::Path};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    cli::{Ran, fails, ok, parsed, ran},
    support::{
        app::{App, ENGINE_LIMIT, instance, read, write},
        engine::volumes,
        ignite::Ignite,
        probe,
    },
};

/// A command line, its exit code, and words that it has to say: with `!` before them on stderr.
type Row<'a> = (&'a str, i32, &'a [&'a str]);

const SCHEMA: &str = r#"{"type":"object"}"#;

/// Runs a line with a home of its own and checks what it says.
#[track_caller]
fn run(ignite: &Ignite, home: &Path, image: &str, (line, code, words): Row<'_>) -> Ran {
    let line = line
        .replace("IMAGE", image)
        .replace("HOME", &home.display().to_string())
        .replace("SCHEMA", SCHEMA);
    let args: Vec<&str> = line.split(' ').collect();
    let mut command = ignite.client(&args);
    command.env("HOME", home);
    if args[0] == "dodil" {
        command = ignite.client(&args[1..]);
        command.env("HOME", home).arg0("dodil");
    }
    let ran = ran(command.output().expect("the binary runs"));
    assert_eq!(ran.code, code, "{line}: {}{}", ran.out, ran.err);
    for word in words {
        let (said, word) = match word.strip_prefix('!') {
            Some(word) => (&ran.err, word),
            None => (&ran.out, *word),
        };
        assert!(
            said.contains(word),
            "{line}: no {word:?} in {}{}",
            ran.out,
            ran.err
        );
    }
    ran
}

const LINES: &[Row<'_>] = &[
    // app create: what says nothing here is taken with a warning.
    (
        "app create web --runtime python -t small --memory 0 --cpu 0 --timeout-secs 0 --max-replicas 0 --reserved 0",
        0,
        &["acme/web", "256 MB", "!warning: --runtime", "!draft save"],
    ),
    (
        "app create acme:rs --runtime rust --rust-target wasm --toolchain 1.82 --description processor",
        0,
        &[
            "acme/rs",
            "!warning: --rust-target",
            "!warning: --toolchain",
        ],
    ),
    (
        "fn create auto --auto-mode tier-only --auto-min-tier small --auto-window=5m --max-replicas 3",
        0,
        &[
            "acme/auto",
            "!warning: --auto-mode",
            "!warning: --auto-min-tier",
            "!warning: --auto-window",
        ],
    ),
    ("app create off --auto-mode disabled", 0, &["acme/off"]),
    ("app create bad --auto-mode sometimes", 2, &["!tier-only"]),
    (
        "app create tool --mcp-enabled --description tool --input-schema SCHEMA --output-schema HOME/schema.json",
        0,
        &["acme/tool"],
    ),
    (
        "app create temp --storage-mode ephemeral --ttl 0",
        0,
        &["acme/temp"],
    ),
    ("app create timed --storage-mode ttl", 0, &["acme/timed"]),
    (
        "app create bad --storage-mode persistent --ttl 60",
        2,
        &["!--storage-mode ttl"],
    ),
    (
        "app create minute --storage-mode ttl --ttl 60",
        0,
        &["acme/minute"],
    ),
    ("app create hour --ttl 3600", 0, &["acme/hour"]),
    ("app update hour --ttl 7200", 0, &["acme/hour"]),
    ("app update web --ttl 60", 2, &["!storage_ttl_secs"]),
    ("app create bad --storage-mode forever", 2, &["!ephemeral"]),
    (
        "app create bad --input-schema HOME/none.json",
        2,
        &["!no JSON object", "!none.json"],
    ),
    (
        "app get web -o json",
        0,
        &["STORAGE_MODE_PERSISTENT", "RESOURCE_TIER_SMALL"],
    ),
    (
        "app get tool -o json",
        0,
        &[
            "\"mcpEnabled\": true",
            "{\\\"type\\\":\\\"object\\\"}",
            "\"outputSchema\"",
        ],
    ),
    ("app get timed -o json", 0, &["STORAGE_MODE_TTL"]),
    (
        "app get hour -o json",
        0,
        &["STORAGE_MODE_TTL", "\"storageTtlSecs\": 7200"],
    ),
    ("function list", 0, &["acme/web", "acme/temp"]),
    ("app list -o yaml", 0, &["id: acme/web"]),
    ("app list -o wide", 0, &["METRIC"]),
    // draft
    ("draft info web", 0, &["{\"status\":\"no draft\"}"]),
    ("draft info web -o json", 0, &["{\"status\":\"no draft\"}"]),
    ("draft status web -o yaml", 0, &["status: no draft"]),
    ("draft info none", 5, &["!acme/none"]),
    (
        "draft save web -c HOME/handler.py -d requests -d numpy --input-schema SCHEMA",
        0,
        &["sdk", "!warning: --dependency", "!requirements.txt"],
    ),
    (
        "draft save rs --code HOME/src --runtime rust --rust-target native --toolchain 1.82",
        0,
        &["sdk"],
    ),
    (
        "draft save rs --code HOME/src --runtime rust --rust-target wasm",
        2,
        &["!--rust-target native"],
    ),
    (
        "draft save web -c HOME/handler.py --runtime python --rust-target native",
        2,
        &["!--runtime rust"],
    ),
    ("draft save web -c HOME/schema.json", 2, &["!--runtime"]),
    ("draft save web --image-ref IMAGE", 0, &["draft"]),
    ("draft info web", 0, &["draft", "IMAGE"]),
    (
        "draft test web --payload {\"name\":\"world\"}",
        0,
        &["world"],
    ),
    ("draft publish web", 0, &["web-acme.ignite.localhost"]),
    // version
    ("version list web", 0, &["active"]),
    ("version get web 1", 0, &["IMAGE"]),
    ("version code web --version 1", 0, &["version 1", "IMAGE"]),
    ("version code web 1", 0, &["version 1"]),
    ("version code web 1 --version 1", 2, &["!cannot be used"]),
    (
        "version test web 1 --payload {\"name\":\"world\"}",
        0,
        &["world"],
    ),
    ("version rollback web 1", 0, &["active version"]),
    // invoke and executions
    (
        "invoke acme:web --payload {\"name\":\"world\"}",
        0,
        &["world"],
    ),
    (
        "invoke web --payload-file HOME/handler.py",
        0,
        &["def handler"],
    ),
    ("exec list", 0, &["EXECUTION"]),
    // secrets
    (
        "secret create ghcr-pull --type registry --username user --password pass --server-address ghcr.io",
        0,
        &["registry_secret"],
    ),
    (
        "secret create gh-clone --type git --username user --token pat",
        0,
        &["git_secret"],
    ),
    ("secret create gh-other --token pat", 0, &["git_secret"]),
    (
        "secret create bad --type registry --token pat",
        2,
        &["!--password", "!ignite --token T secret create"],
    ),
    ("secret list", 0, &["ghcr-pull", "gh-clone"]),
    (
        "secret get gh-clone -o json",
        0,
        &["\"token\": \"pat\"", "\"username\": \"user\""],
    ),
    (
        "secret get ghcr-pull -o json",
        0,
        &["\"serverAddress\": \"ghcr.io\"", "\"password\": \"pass\""],
    ),
    ("secret delete ghcr-pull", 0, &["ghcr-pull"]),
    ("secret delete ghcr-pull", 0, &[]),
    // global options, before and after
    (
        "--debug --timeout 5m --org-name acme app get web",
        0,
        &["acme/web"],
    ),
    (
        "app get web --org other --org-name acme -o yaml",
        0,
        &["id: acme/web"],
    ),
    ("app get web --config HOME/none.yaml", 2, &["!none.yaml"]),
    // configuration
    ("config set org_id acme", 0, &["!org_id"]),
    (
        "config set api_endpoint rpc.example:443",
        0,
        &["!api_endpoint"],
    ),
    ("config view", 0, &["ignite.org_id", "rpc.example:443"]),
    ("config set api_endpoint  ", 0, &["!unset"]),
    ("config set colour blue", 2, &["!api_endpoint"]),
    // what is the cloud's
    ("models list", 2, &["!no models here", "!MODEL_API_BASE"]),
    ("models chat --model x -p hi", 2, &["!no models here"]),
    ("build create --code .", 2, &["!app deploy --code"]),
    // the shared client's name
    ("dodil ignite app state web", 0, &["active version"]),
    (
        "dodil ignite app deploy more --image-ref IMAGE --tier small --allow-unauthenticated --env A=b",
        0,
        &["more-acme"],
    ),
    ("dodil auth status", 0, &["acme"]),
    (
        "dodil auth service-account grant-role cli-a k3-authorization-service k3.admin",
        0,
        &["!warning"],
    ),
    // deleting asks nobody where nobody is
    ("app delete more", 0, &["acme/more"]),
    ("app delete acme:rs", 0, &["acme/rs"]),
    ("app get rs", 5, &["!acme/rs"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn documented_command_lines_run_unchanged() {
    let image = probe::image().await;
    let ignite = Ignite::builder()
        .env("IGNITE_DEFAULT_ORG", "acme")
        .start()
        .await;
    let home = tempfile::tempdir().expect("a directory");
    let put = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    put("schema.json", r#"{"type":"string"}"#);
    put("handler.py", "def handler(payload, ctx): return payload\n");
    put("src/main.rs", "fn main() {}\n");
    for &(line, code, words) in LINES {
        let words: Vec<_> = words.iter().map(|w| w.replace("IMAGE", &image)).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        // An argument that is empty.
        let line = line.replace("  ", " ");
        run(&ignite, home.path(), &image, (&line, code, &words));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn create_keeps_files_and_deploy_and_update_leave_that_alone() {
    let image = probe::image().await;
    let mut ignite = Ignite::builder()
        .arg("--ephemeral")
        .env("IGNITE_DEFAULT_ORG", "acme")
        .start()
        .await;
    let app = App {
        org: "acme".to_owned(),
        name: "kept".to_owned(),
        token: ignite.token("acme"),
    };
    let file = "/home/ignite/note";
    ok(&ignite, &["app", "create", "kept"]);
    ok(
        &ignite,
        &[
            "app",
            "deploy",
            "kept",
            "--image-ref",
            &image,
            "--cpu",
            "200",
        ],
    );
    assert_eq!(write(&ignite, &app, file, "kept").await, Ok(()));
    ok(&ignite, &["app", "update", "kept", "--env", "A=b"]);
    assert_eq!(read(&ignite, &app, file).await, Ok("kept".to_owned()));
    // An app that `deploy` makes has what the API has by default.
    ok(&ignite, &["app", "deploy", "plain", "--image-ref", &image]);
    let mode = |name: &str| {
        let got = parsed(&ok(&ignite, &["app", "get", name, "-o", "json"]));
        got["app"]["storageMode"].clone()
    };
    assert_eq!(mode("kept"), "STORAGE_MODE_PERSISTENT");
    assert_eq!(mode("plain"), "STORAGE_MODE_EPHEMERAL");
    assert_eq!(volumes(&ignite).await.len(), 1);
    ignite.terminate(ENGINE_LIMIT).await;
    assert_eq!(volumes(&ignite).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_returns_once_requests_see_it_and_says_why_they_do_not() {
    let image = probe::image().await;
    let ignite = Ignite::builder()
        .env("IGNITE_DEFAULT_ORG", "acme")
        .start()
        .await;
    ok(&ignite, &["app", "deploy", "a", "--image-ref", &image]);
    let app = App {
        org: "acme".to_owned(),
        name: "a".to_owned(),
        token: ignite.token("acme"),
    };
    for n in 0..3 {
        let env = format!("PROBE_VERSION=number {n}");
        let updated = ran(ignite.cli(&["app", "update", "a", "--env", &env]));
        assert_eq!(updated.code, 0, "{}", updated.err);
        assert!(updated.err.contains("Updating acme/a"), "{}", updated.err);
        assert!(updated.err.contains("is being started"), "{}", updated.err);
        assert!(updated.out.contains(&env), "{}", updated.out);
        assert_eq!(app.version(&ignite).await, format!("number {n}"));
    }
    // What needs no other replica is there at once.
    let before = instance(&app.get_ok(&ignite, "/").await);
    let described = ran(ignite.cli(&["app", "update", "a", "--description", "d"]));
    assert_eq!(described.code, 0, "{}", described.err);
    assert!(!described.err.contains("Updating"), "{}", described.err);
    assert_eq!(instance(&app.get_ok(&ignite, "/").await), before);

    // One that does not start: the one before serves on, and the reason is told.
    let broken = [
        "--env",
        "PROBE_EXIT_AT_START=3",
        "--env",
        "PROBE_LOG=no database",
    ];
    fails(
        &ignite,
        &[&["app", "update", "a"], &broken[..]].concat(),
        1,
        &[
            "CONTAINER_EXITED",
            "exit code 3",
            "no database",
            "keeps serving",
        ],
    );
    assert_eq!(instance(&app.get_ok(&ignite, "/").await), before);
    // Nobody has to wait for it.
    let unseen = [
        &["app", "update", "a", "--no-wait", "--cpu", "200"],
        &broken[..],
    ]
    .concat();
    ok(&ignite, &unseen);
    assert_eq!(instance(&app.get_ok(&ignite, "/").await), before);
    ok(
        &ignite,
        &[
            "app",
            "update",
            "a",
            "--clear-env",
            "--env",
            "PROBE_VERSION=mended",
        ],
    );
    assert_eq!(app.version(&ignite).await, "mended");

    // At zero there is nothing to wait for.
    for step in ["idle", "wait"] {
        ok(&ignite, &["app", step, "a", "--depth", "absent"]);
    }
    let at_zero = ran(ignite.cli(&["app", "update", "a", "--env", "PROBE_VERSION=cold"]));
    assert_eq!(at_zero.code, 0, "{}", at_zero.err);
    assert!(!at_zero.err.contains("Updating"), "{}", at_zero.err);
    assert_eq!(app.version(&ignite).await, "cold");
    let (status, events) = app.api(&ignite, Method::GET, "/events", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{events}");
    let kinds = events["events"].as_array().cloned().unwrap_or_default();
    let of = |kind: &str| kinds.iter().any(|e| e["type"] == json!(kind));
    assert!(of("ROLLING_OUT") && of("ROLL_OUT_FAILED"), "{events}");
}
