//! From an archive with a Dockerfile to an answer.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::support::{
    app::App,
    code::{dockerfile, from_code, tar_gz, zip},
    contract::{BOTH, Refusal, Via, acme_app, prebuilt, with},
    engine, eventually_ok,
    ignite::Ignite,
    probe,
};

/// The longest build on a machine that is busy with tests.
const BUILD_LIMIT: Duration = crate::support::HANGS;

/// An app without code, and a token.
pub(crate) async fn bare(ignite: &Ignite, name: &str) -> App {
    let token = ignite.token("acme");
    let create = json!({ "organization_name": "acme", "name": name });
    ignite.ok(Via::Json, "CreateApp", &token, create).await;
    App {
        org: "acme".to_owned(),
        name: name.to_owned(),
        token,
    }
}

pub(crate) async fn save(ignite: &Ignite, via: Via, app: &App, code: Value) -> Value {
    let save = with(acme_app(&app.name), json!({ "code": code }));
    ignite.ok(via, "SaveDraft", &app.token, save).await["draft"].clone()
}

async fn draft(ignite: &Ignite, via: Via, app: &App) -> Value {
    let info = ignite.ok(via, "GetDraftInfo", &app.token, acme_app(&app.name));
    info.await["draft"].clone()
}

/// Waits until the draft's build has ended.
pub(crate) async fn ended(ignite: &Ignite, app: &App) -> Value {
    eventually_ok(BUILD_LIMIT, || async {
        let now = draft(ignite, Via::Json, app).await;
        match now["status"].as_str() {
            Some("VERSION_STATUS_COMPILING") => Err("it is being built"),
            _ => Ok(now),
        }
    })
    .await
}

/// Code whose build takes some seconds: many steps of which none is in the engine's cache.
pub(crate) async fn slow(version: &str) -> Vec<u8> {
    let steps: String = (0..40).map(|i| format!("COPY big /b{i}\n")).collect();
    let text = dockerfile(version).await;
    let noise: Vec<u8> = unseen(256 * 1024);
    tar_gz(&[
        ("Dockerfile", format!("{text}{steps}").as_bytes()),
        ("big", &noise),
    ])
}

/// Bytes that no earlier build has seen, so that nothing is cached.
fn unseen(len: usize) -> Vec<u8> {
    let seed = std::process::id()
        ^ std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("past 1970")
            .subsec_nanos();
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_saved_built_published_and_answers_and_its_images_go_with_it() {
    let ignite = Ignite::builder().start().await;
    let file = dockerfile("one").await;
    for (via, pack) in BOTH
        .into_iter()
        .zip([tar_gz as fn(&[(&str, &[u8])]) -> Vec<u8>, zip])
    {
        let app = bare(&ignite, &format!("a-{via:?}").to_lowercase()).await;
        let archive = pack(&[
            ("docker/File", file.as_bytes()),
            (".dockerignore", b"secret\n"),
            ("kept", b"k"),
            ("secret", b"s"),
        ]);
        let code = from_code(
            &archive,
            json!({ "dockerfile_path": "docker/File", "build_args": { "GREETING": "hi" } }),
        );
        let saved = save(&ignite, via, &app, code.clone()).await;
        assert_eq!(saved["status"], "VERSION_STATUS_DRAFT", "{saved}");
        assert_eq!(saved["codeKind"], "CODE_KIND_IMAGE_FROM_CODE");
        // The code comes back unchanged.
        let got = ignite
            .ok(via, "GetAppCode", &app.token, acme_app(&app.name))
            .await;
        assert_eq!(got["codeHash"], saved["codeHash"]);
        let back = &got["code"]["image"]["fromCode"];
        assert_eq!(back["archive"], STANDARD.encode(&archive));
        assert_eq!(back["dockerfilePath"], "docker/File");
        assert_eq!(back["buildArgs"], json!({ "GREETING": "hi" }));

        let started = ignite
            .ok(via, "CompileDraft", &app.token, acme_app(&app.name))
            .await;
        let build = started["deployId"].clone();
        assert_eq!(started["draft"]["deployId"], build, "{started}");
        let built = ended(&ignite, &app).await;
        assert_eq!(built["status"], "VERSION_STATUS_READY", "{built}");
        assert_eq!(built["deployId"], build);
        let image = built["imageRef"].as_str().expect("an image").to_owned();
        assert!(ignite.images().await.contains(&image));

        let log = with(acme_app(&app.name), json!({ "build_id": build }));
        let log = ignite.ok(via, "GetBuildLog", &app.token, log).await;
        assert_eq!(log["status"], "VERSION_STATUS_READY");
        let lines: Vec<&str> = log["lines"]
            .as_array()
            .expect("lines")
            .iter()
            .map(|l| l["message"].as_str().expect("text"))
            .collect();
        assert!(lines.iter().any(|l| l.starts_with("Step 4/")), "{lines:?}");
        assert!(
            lines.last().is_some_and(|l| l.contains(&image)),
            "{lines:?}"
        );

        // The image is removed: the publish builds it again.
        let docker = engine::docker().await;
        let options = None::<bollard::query_parameters::RemoveImageOptions>;
        let removed = docker.remove_image(&image, options, None).await;
        removed.expect("it was there");
        let published = ignite
            .ok(via, "PublishDraft", &app.token, acme_app(&app.name))
            .await;
        let image = draft(&ignite, via, &app).await["imageRef"].clone();
        let image = image.as_str().expect("an image").to_owned();
        assert_eq!(published["version"]["imageRef"], image.as_str());
        assert_eq!(
            published["version"]["codeKind"],
            "CODE_KIND_IMAGE_FROM_CODE"
        );
        let answer = app.get_ok(&ignite, "/").await;
        assert_eq!(answer.header("x-probe-version"), Some("one"));

        // Publishing an unbuilt draft builds it from the newest code.
        let second = dockerfile("two").await;
        let second = pack(&[("Dockerfile", second.as_bytes())]);
        save(&ignite, via, &app, from_code(&second, json!({}))).await;
        ignite
            .ok(via, "PublishDraft", &app.token, acme_app(&app.name))
            .await;
        eventually_ok(BUILD_LIMIT, || async {
            match app.get_ok(&ignite, "/").await.header("x-probe-version") {
                Some("two") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        // Versions keep their code and image.
        let first = with(acme_app(&app.name), json!({ "version": 1 }));
        let got = ignite
            .ok(via, "GetAppCode", &app.token, first.clone())
            .await;
        assert_eq!(
            got["code"]["image"]["fromCode"]["archive"],
            STANDARD.encode(&archive)
        );
        ignite.ok(via, "RollbackApp", &app.token, first).await;
        assert_eq!(
            app.get_ok(&ignite, "/").await.header("x-probe-version"),
            Some("one")
        );
        assert_eq!(ignite.images().await.len(), 2);

        ignite
            .ok(via, "DeleteApp", &app.token, acme_app(&app.name))
            .await;
        eventually_ok(BUILD_LIMIT, || async {
            let code = std::fs::read_dir(ignite.data_dir().join("code"))
                .expect("a folder")
                .count();
            match (ignite.images().await.len(), code) {
                (0, 0) => Ok(()),
                left => Err(format!("{left:?} images and files are left")),
            }
        })
        .await;
    }
}

/// Code that no build could use, with the field and words of the refusal.
fn unbuildable() -> Vec<(Value, &'static str, &'static str)> {
    let zeros = vec![0; 3_000_000];
    let file: &[u8] = b"FROM scratch\n";
    vec![
        (from_code(b"", json!({})), "archive", "missing"),
        (
            from_code(b"hello", json!({})),
            "archive",
            "neither a .zip nor a .tar.gz",
        ),
        (
            from_code(&tar_gz(&[("../Dockerfile", file)][..0]), json!({})),
            "dockerfile_path",
            "no Dockerfile",
        ),
        (
            from_code(&tar_gz(&[("x/Dockerfile", file)]), json!({})),
            "dockerfile_path",
            "x/Dockerfile",
        ),
        (
            from_code(&tar_gz(&[("index.js", file)]), json!({})),
            "dockerfile_path",
            "handler.py (python); deno.json, deno.jsonc, main.ts, main.js (deno)",
        ),
        (
            from_code(&tar_gz(&[("main.ts", file), ("go.mod", file)]), json!({})),
            "dockerfile_path",
            "several runtimes: main.ts of deno, go.mod of go",
        ),
        (
            from_code(&zip(&[("Dockerfile", file), ("../e", file)]), json!({})),
            "archive",
            "leads up",
        ),
        (
            from_code(&tar_gz(&[("Dockerfile", file), ("z", &zeros)]), json!({})),
            "archive",
            "IGNITE_CODE_MAX_RATIO",
        ),
        (
            from_code(
                &tar_gz(&[("Dockerfile", file)]),
                json!({ "dockerfile_path": "../D" }),
            ),
            "dockerfile_path",
            "below",
        ),
        (
            from_code(
                &tar_gz(&[("Dockerfile", file)]),
                json!({ "build_args": { "A=B": "" } }),
            ),
            "build_args",
            "A=B",
        ),
    ]
}

/// Checks the report of a step that fails: the step, the engine's words and the log's last lines.
async fn failing_step_is_reported(ignite: &Ignite, app: &App) {
    let broken = format!("{}RUN [\"/none\", \"of\"]\n", dockerfile("x").await);
    save(
        ignite,
        Via::Json,
        app,
        from_code(&tar_gz(&[("Dockerfile", broken.as_bytes())]), json!({})),
    )
    .await;
    let check = |refused: &Refusal| {
        refused.is(
            9,
            400,
            "BUILD_FAILED",
            &["failed at \"Step 5/", "/none", "Step 4/"],
        )
    };
    for via in BOTH {
        check(
            &ignite
                .refused(via, "PublishDraft", &app.token, acme_app("a"))
                .await,
        );
        check(
            &ignite
                .refused(via, "TestDraft", &app.token, acme_app("a"))
                .await,
        );
        let failed = draft(ignite, via, app).await;
        assert_eq!(failed["status"], "VERSION_STATUS_FAILED", "{failed}");
        assert!(
            failed["error"]
                .as_str()
                .is_some_and(|e| e.contains("Step 5/")),
            "{failed}"
        );
        let none = ignite
            .refused(via, "CancelBuild", &app.token, acme_app("a"))
            .await;
        none.is(9, 400, "FAILED_PRECONDITION", &["no build", "under way"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_built_is_refused_with_the_reason_as_early_as_can_be() {
    let ignite = Ignite::builder()
        .env("IGNITE_MAX_CODE_BYTES", "1000000")
        .env("IGNITE_CODE_MAX_UNPACKED_BYTES", "4000000")
        .start()
        .await;
    let app = bare(&ignite, "a").await;
    let other = ignite.token("other");
    let large = unseen(1_200_000);
    for via in BOTH {
        let at = |field: &str| format!("code.image.from_code.{field}");
        for (code, field, words) in unbuildable() {
            let save = with(acme_app("a"), json!({ "code": code }));
            let refused = ignite.refused(via, "SaveDraft", &app.token, save).await;
            refused.is(3, 400, "INVALID_ARGUMENT", &[words]);
            assert_eq!(refused.fields, [at(field)]);
        }
        let save = with(
            acme_app("a"),
            json!({ "code": from_code(&large, json!({})) }),
        );
        let refused = ignite.refused(via, "SaveDraft", &app.token, save).await;
        refused.is(8, 413, "BODY_TOO_LARGE", &["IGNITE_MAX_CODE_BYTES"]);

        let none = ignite
            .refused(via, "CompileDraft", &app.token, acme_app("a"))
            .await;
        none.is(5, 404, "NOT_FOUND", &["no draft"]);
        let unknown = json!({ "deploy_id": "dep_01ARZ3NDEKTSV4RRFFQ69G5FAV", "build_id": "dep_01ARZ3NDEKTSV4RRFFQ69G5FAV" });
        let log = with(acme_app("a"), json!({ "build_id": unknown["build_id"] }));
        let none = ignite
            .refused(via, "GetBuildLog", &app.token, log.clone())
            .await;
        none.is(5, 404, "NOT_FOUND", &["no build", "ignite draft compile"]);
        for (rpc, fields) in [
            ("CompileDraft", acme_app("a")),
            ("GetBuildLog", log),
            ("CancelBuild", acme_app("a")),
        ] {
            let foreign = ignite.refused(via, rpc, &other, fields.clone()).await;
            foreign.is(7, 403, "PERMISSION_DENIED", &[]);
            let nobody = ignite.refused(via, rpc, "", fields).await;
            nobody.is(16, 401, "UNAUTHENTICATED", &[]);
        }
    }
    // None of that was kept.
    let code = std::fs::read_dir(ignite.data_dir().join("code")).expect("a folder");
    assert_eq!(code.count(), 0);

    failing_step_is_reported(&ignite, &app).await;
    assert_eq!(ignite.images().await.len(), 0);
    assert_eq!(app.figure(&ignite, "activeVersion").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_ends_when_it_is_cancelled_replaced_or_takes_too_long() {
    let ignite = Ignite::builder()
        .env("IGNITE_BUILD_CONCURRENCY", "1")
        .env("IGNITE_BUILD_QUEUE_MAX", "1")
        .start()
        .await;
    let app = bare(&ignite, "a").await;
    let next = bare(&ignite, "b").await;
    let third = bare(&ignite, "c").await;
    // The step runs a server, which never ends.
    let endless = format!("{}USER 0\nRUN [\"/probe\"]\n", dockerfile("endless").await);
    let slow = tar_gz(&[("Dockerfile", endless.as_bytes())]);
    let quick = tar_gz(&[("Dockerfile", dockerfile("quick").await.as_bytes())]);
    for via in BOTH {
        save(&ignite, via, &app, from_code(&slow, json!({}))).await;
        save(&ignite, via, &next, from_code(&quick, json!({}))).await;
        save(&ignite, via, &third, from_code(&quick, json!({}))).await;
        let first = ignite
            .ok(via, "CompileDraft", &app.token, acme_app("a"))
            .await;
        // A repeated request returns the same build; another app's build waits; a third finds the
        // queue full.
        let again = ignite
            .ok(via, "CompileDraft", &app.token, acme_app("a"))
            .await;
        assert_eq!(first["deployId"], again["deployId"]);
        assert_eq!(first["draft"]["status"], "VERSION_STATUS_COMPILING");
        ignite
            .ok(via, "CompileDraft", &app.token, acme_app("b"))
            .await;
        let full = ignite
            .refused(via, "CompileDraft", &app.token, acme_app("c"))
            .await;
        full.is(8, 429, "BUILD_QUEUE_FULL", &["IGNITE_BUILD_QUEUE_MAX"]);
        let waits = draft(&ignite, via, &next).await;
        assert_eq!(waits["status"], "VERSION_STATUS_COMPILING");

        let cancelled = ignite
            .ok(via, "CancelBuild", &app.token, acme_app("a"))
            .await;
        assert_eq!(cancelled["deployId"], first["deployId"]);
        assert_eq!(
            cancelled["draft"]["status"], "VERSION_STATUS_FAILED",
            "{cancelled}"
        );
        assert!(
            cancelled["draft"]["error"]
                .as_str()
                .is_some_and(|e| e.contains("cancelled"))
        );
        // The waiting build has the permit now.
        assert_eq!(
            ended(&ignite, &next).await["status"],
            "VERSION_STATUS_READY"
        );

        // Newer code cancels the build of the code it replaces.
        ignite
            .ok(via, "CompileDraft", &app.token, acme_app("a"))
            .await;
        let saved = save(&ignite, via, &app, from_code(&quick, json!({}))).await;
        assert_eq!(saved["status"], "VERSION_STATUS_DRAFT");
        ignite
            .ok(via, "PublishDraft", &app.token, acme_app("a"))
            .await;
        assert_eq!(
            app.get_ok(&ignite, "/").await.header("x-probe-version"),
            Some("quick")
        );
    }
    drop(ignite);
    let builder = Ignite::builder().env("IGNITE_BUILD_TIMEOUT_SECS", "2");
    let ignite = builder.start().await;
    let app = bare(&ignite, "a").await;
    save(&ignite, Via::Json, &app, from_code(&slow, json!({}))).await;
    let refused = ignite.refused(Via::Grpc, "PublishDraft", &app.token, acme_app("a"));
    refused.await.is(
        4,
        504,
        "BUILD_TIMEOUT",
        &["2s", "IGNITE_BUILD_TIMEOUT_SECS"],
    );
    assert_eq!(
        draft(&ignite, Via::Json, &app).await["status"],
        "VERSION_STATUS_FAILED"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_in_the_middle_of_a_build_the_same_call_succeeds() {
    let _guard = engine::PruneGuard::no_prune().await;
    let mut ignite = Ignite::builder().start().await;
    let app = bare(&ignite, "a").await;
    let slow = slow("survivor").await;
    save(&ignite, Via::Json, &app, from_code(&slow, json!({}))).await;
    let started = ignite
        .ok(Via::Json, "CompileDraft", &app.token, acme_app("a"))
        .await;
    let log = with(acme_app("a"), json!({ "build_id": started["deployId"] }));
    eventually_ok(BUILD_LIMIT, || async {
        let log = ignite
            .ok(Via::Json, "GetBuildLog", &app.token, log.clone())
            .await;
        if log["lines"].to_string().contains("Step 6/") {
            Ok(())
        } else {
            Err(log.to_string())
        }
    })
    .await;
    ignite.kill9();
    // What a kill during a save or a build may leave.
    let code = ignite.data_dir().join("code");
    let half = code.join("01ARZ3NDEKTSV4RRFFQ69G5FAV.new");
    std::fs::write(&half, "half").expect("written");
    std::fs::create_dir(ignite.data_dir().join("builds/build-left")).expect("made");
    ignite.start().await;
    assert!(!half.exists());
    assert_eq!(
        std::fs::read_dir(ignite.data_dir().join("builds"))
            .expect("a folder")
            .count(),
        0
    );
    let now = draft(&ignite, Via::Grpc, &app).await;
    assert_eq!(now["status"], "VERSION_STATUS_DRAFT", "{now}");
    ignite
        .ok(Via::Json, "PublishDraft", &app.token, acme_app("a"))
        .await;
    assert_eq!(
        app.get_ok(&ignite, "/").await.header("x-probe-version"),
        Some("survivor")
    );
    // A kill during a publish: the build may be done, but there is no version.
    let again = tar_gz(&[("Dockerfile", dockerfile("again").await.as_bytes())]);
    save(&ignite, Via::Json, &app, from_code(&again, json!({}))).await;
    let publish = ignite
        .request(hyper::Method::POST, "/v1/ignite/app/acme/a/draft/publish")
        .token(&app.token)
        .json(&json!({}));
    let publish = tokio::spawn(publish.send());
    eventually_ok(BUILD_LIMIT, || async {
        match draft(&ignite, Via::Json, &app).await["status"].as_str() {
            Some("VERSION_STATUS_DRAFT") => Err("it has not begun"),
            _ => Ok(()),
        }
    })
    .await;
    ignite.kill9();
    let _ = publish.await;
    ignite.start().await;
    ignite
        .ok(Via::Json, "PublishDraft", &app.token, acme_app("a"))
        .await;
    eventually_ok(BUILD_LIMIT, || async {
        match app.get_ok(&ignite, "/").await.header("x-probe-version") {
            Some("again") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // A kill during a rollback.
    let back = with(acme_app("a"), json!({ "version": 1 }));
    let rollback = ignite
        .request(hyper::Method::POST, "/v1/ignite/app/acme/a/rollback")
        .token(&app.token)
        .json(&json!({ "version": 1 }));
    let rollback = tokio::spawn(rollback.send());
    ignite.kill9();
    let _ = rollback.await;
    ignite.start().await;
    let active = ignite.ok(Via::Json, "RollbackApp", &app.token, back).await;
    assert_eq!(active["activeVersion"], 1, "{active}");
    let answer = app.get_ok(&ignite, "/").await;
    assert_eq!(answer.header("x-probe-version"), Some("survivor"));
}

/// The log of a build.
async fn log(ignite: &Ignite, app: &App, build: &Value) -> String {
    let of = with(acme_app(&app.name), json!({ "build_id": build }));
    let log = ignite.ok(Via::Json, "GetBuildLog", &app.token, of).await;
    log["lines"].to_string()
}

/// Another server's garbage collection may remove what a running build has found in the cache.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_whose_cached_layer_is_removed_meanwhile_is_begun_once_more() {
    let ignite = Ignite::builder().start().await;
    let docker = engine::docker().await;
    // Many files are slow to unpack, however small: time to remove the layer under them.
    let many: Vec<_> = (0..3000).map(|n| (format!("{n}"), [])).collect();
    let many: Vec<_> = many
        .iter()
        .map(|(name, none)| (&name[..], &none[..]))
        .collect();
    let many = tar_gz(&many);
    let from = format!("FROM {}\nCOPY unseen /unseen\n", probe::image().await);
    let longer = format!("{from}ADD many.tar.gz /many/\n");
    let [cached, app] = [bare(&ignite, "cached").await, bare(&ignite, "app").await];
    eventually_ok(BUILD_LIMIT, || async {
        let unseen = unseen(64);
        let files = |dockerfile| tar_gz(&[("Dockerfile", dockerfile), ("unseen", &unseen)]);
        let code = from_code(&files(from.as_bytes()), json!({}));
        save(&ignite, Via::Json, &cached, code).await;
        ignite
            .ok(Via::Json, "CompileDraft", &cached.token, acme_app("cached"))
            .await;
        let layer = ended(&ignite, &cached).await;
        let layer = layer["imageRef"].as_str().expect("an image").to_owned();

        let code = tar_gz(&[
            ("Dockerfile", longer.as_bytes()),
            ("unseen", &unseen),
            ("many.tar.gz", &many),
        ]);
        save(&ignite, Via::Json, &app, from_code(&code, json!({}))).await;
        let started = ignite
            .ok(Via::Json, "CompileDraft", &app.token, acme_app("app"))
            .await;
        let build = &started["deployId"];
        eventually_ok(BUILD_LIMIT, || async {
            let log = log(&ignite, &app, build).await;
            let is_using = log.contains("Using cache") && log.contains("Step 3/");
            if is_using { Ok(()) } else { Err(log) }
        })
        .await;
        let options = bollard::query_parameters::RemoveImageOptionsBuilder::new().force(true);
        docker
            .remove_image(&layer, Some(options.build()), None)
            .await
            .expect("removed");
        let built = ended(&ignite, &app).await;
        assert_eq!(built["status"], "VERSION_STATUS_READY", "{built}");
        let log = log(&ignite, &app, build).await;
        // On a machine that is too quick the build had ended; then it is tried again.
        if !log.contains("Building once more, without cached layers") {
            return Err(log);
        }
        assert!(log.contains("the layer was removed"), "{log}");
        let begun = log.matches(r#""message":"Step 3/3"#).count();
        assert_eq!(begun, 2, "{log}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_exists_is_compiled_by_looking_for_it() {
    let ignite = Ignite::builder().start().await;
    let app = bare(&ignite, "a").await;
    let image = probe::image().await;
    for via in BOTH {
        for (image, status) in [
            (&image[..], "VERSION_STATUS_READY"),
            ("127.0.0.1:1/none:1", "VERSION_STATUS_FAILED"),
        ] {
            save(&ignite, via, &app, prebuilt(image)).await;
            ignite
                .ok(via, "CompileDraft", &app.token, acme_app("a"))
                .await;
            let built = ended(&ignite, &app).await;
            assert_eq!(built["status"], status, "{built}");
            assert_eq!(built["imageRef"], image);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_run_and_a_prune_leave_no_image_that_was_built() {
    let _guard = engine::PruneGuard::prune().await;
    let archive = tar_gz(&[("Dockerfile", dockerfile("gone").await.as_bytes())]);
    let deploy = async |ignite: &Ignite| {
        let app = bare(ignite, "a").await;
        save(ignite, Via::Json, &app, from_code(&archive, json!({}))).await;
        let publish = ignite.ok(Via::Json, "PublishDraft", &app.token, acme_app("a"));
        publish.await;
        assert_eq!(ignite.images().await.len(), 1);
    };
    let mut ephemeral = Ignite::builder().arg("--ephemeral").start().await;
    deploy(&ephemeral).await;
    assert!(ephemeral.terminate(BUILD_LIMIT).await.success());
    assert_eq!(ephemeral.images().await, [""; 0]);
    let mut killed = Ignite::builder().start().await;
    deploy(&killed).await;
    killed.kill9();
    // A server can use its directory again, so its images are needed.
    assert!(killed.cli(&["prune"]).status.success());
    assert_eq!(killed.images().await.len(), 1);
    let file = killed.data_dir().join("instance");
    let instance = std::fs::read_to_string(&file).expect("it was there");
    std::fs::remove_file(file).expect("it was there");
    assert!(killed.cli(&["prune"]).status.success());
    assert_eq!(killed.images().await.len(), 1, "somebody may come back");
    let named = ["prune", "--volumes", instance.trim()];
    assert!(killed.cli(&named).status.success());
    assert_eq!(killed.images().await, [""; 0]);
}

/// The engine builds on the layers of the previous image and loses them with it, so that image is
/// removed only once the next one is built, whatever other apps do meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn the_image_of_a_draft_stays_until_the_next_one_is_built() {
    let ignite = Ignite::builder().start().await;
    let (app, other) = (bare(&ignite, "a").await, bare(&ignite, "b").await);
    let hand_in = async |app: &App, version: &str| {
        let archive = tar_gz(&[("Dockerfile", dockerfile(version).await.as_bytes())]);
        save(&ignite, Via::Json, app, from_code(&archive, json!({}))).await;
    };
    let compile = async |app: &App| {
        let compile = ignite.ok(Via::Json, "CompileDraft", &app.token, acme_app(&app.name));
        compile.await;
        let built = ended(&ignite, app).await;
        built["imageRef"].as_str().expect("an image").to_owned()
    };
    let gone = async |image: &str| {
        eventually_ok(BUILD_LIMIT, || async {
            let all = ignite.images().await;
            if all.iter().any(|one| one == image) {
                Err(format!("{all:?}"))
            } else {
                Ok(())
            }
        })
        .await;
    };
    hand_in(&app, "one").await;
    let first = compile(&app).await;
    hand_in(&other, "other").await;
    let others = compile(&other).await;
    // Newer, unbuilt code of this app; then garbage collection searches for unneeded images and
    // finds some.
    hand_in(&app, "two").await;
    hand_in(&other, "another").await;
    compile(&other).await;
    gone(&others).await;
    assert!(ignite.images().await.contains(&first));
    compile(&app).await;
    gone(&first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_and_where_asked_containers_get_the_proxies_of_the_docker_commands_configuration() {
    let folder = tempfile::tempdir().expect("a directory");
    let proxies = json!({ "proxies": { "default": {
        "httpProxy": "http://proxy.test:3128", "noProxy": "*.test",
    }}});
    std::fs::write(folder.path().join("config.json"), proxies.to_string()).expect("written");
    let file = format!(
        "FROM {}\nARG HTTP_PROXY\nARG no_proxy\nENV PROBE_VERSION=$HTTP_PROXY+$no_proxy\n",
        probe::image().await
    );
    let archive = tar_gz(&[("Dockerfile", file.as_bytes())]);
    for (asked, build_args, version) in [
        ("true", json!({}), "http://proxy.test:3128+*.test"),
        // The draft's own build argument wins.
        ("false", json!({ "HTTP_PROXY": "own" }), "own+*.test"),
    ] {
        let ignite = Ignite::builder()
            .env("DOCKER_CONFIG", folder.path())
            .env("IGNITE_CONTAINER_PROXIES", asked)
            .start()
            .await;
        let app = bare(&ignite, "a").await;
        let code = from_code(&archive, json!({ "build_args": build_args }));
        save(&ignite, Via::Json, &app, code).await;
        ended(&ignite, &app).await;
        let (status, answer) = app.publish(&ignite).await;
        assert_eq!(status, hyper::StatusCode::OK, "{answer}");
        assert_eq!(app.version(&ignite).await, version);
        let environment = crate::support::app::read(&ignite, &app, "/proc/self/environ").await;
        let has = environment
            .expect("it")
            .contains("http_proxy=http://proxy.test:3128");
        assert_eq!(has.to_string(), asked);
    }
}
