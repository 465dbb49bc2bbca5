//! Which images an organization may name and what its builds may reach, under each `trust`.

use std::{sync::Arc, time::Duration};

use bollard::query_parameters::{ListContainersOptions, TagImageOptions};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{
    HANGS,
    app::{App, ENGINE_LIMIT},
    code::{from_code, tar_gz},
    contract::{BOTH, Refusal, Via, merge, prebuilt},
    engine::docker,
    eventually_ok,
    ignite::Ignite,
    probe,
    registry::{self, Registry},
};

pub(crate) fn with(app: &App, more: Value) -> Value {
    let mut fields = json!({ "organization_name": app.org, "app_name": app.name });
    merge(&mut fields, more);
    fields
}

/// An app without code, and a token.
pub(crate) async fn bare(ignite: &Ignite, org: &str, name: &str) -> App {
    let token = ignite.token(org);
    let create = json!({ "organization_name": org, "name": name });
    ignite.ok(Via::Json, "CreateApp", &token, create).await;
    App {
        org: org.to_owned(),
        name: name.to_owned(),
        token,
    }
}

pub(crate) async fn save(ignite: &Ignite, app: &App, code: Value) {
    let save = with(app, json!({ "code": code }));
    ignite.ok(Via::Json, "SaveDraft", &app.token, save).await;
}

/// Builds the app's draft to its end and returns the outcome.
pub(crate) async fn compile(ignite: &Ignite, app: &App) -> Value {
    let compile = ignite.ok(Via::Json, "CompileDraft", &app.token, with(app, json!({})));
    compile.await;
    eventually_ok(HANGS, || async {
        let info = ignite.ok(Via::Json, "GetDraftInfo", &app.token, with(app, json!({})));
        let draft = info.await["draft"].clone();
        match draft["status"].as_str() {
            Some("VERSION_STATUS_COMPILING") => Err("it is being built"),
            _ => Ok(draft),
        }
    })
    .await
}

/// Code of a Dockerfile and one more file.
pub(crate) fn folder(dockerfile: &str) -> Value {
    let files: [(&str, &[u8]); 2] = [("Dockerfile", dockerfile.as_bytes()), ("file", b"content")];
    from_code(&tar_gz(&files), json!({}))
}

/// Builds a Dockerfile that must be refused and returns the reason.
pub(crate) async fn refused(ignite: &Ignite, app: &App, dockerfile: &str) -> String {
    save(ignite, app, folder(dockerfile)).await;
    let draft = compile(ignite, app).await;
    assert_eq!(
        draft["status"], "VERSION_STATUS_FAILED",
        "{dockerfile}: {draft}"
    );
    draft["error"].as_str().expect("a cause").to_owned()
}

pub(crate) async fn built(ignite: &Ignite, app: &App, dockerfile: &str) -> Value {
    save(ignite, app, folder(dockerfile)).await;
    let draft = compile(ignite, app).await;
    assert_eq!(
        draft["status"], "VERSION_STATUS_READY",
        "{dockerfile}: {draft}"
    );
    draft
}

pub(crate) async fn build_log(ignite: &Ignite, app: &App, draft: &Value) -> String {
    let log = with(app, json!({ "build_id": draft["deployId"] }));
    let log = ignite.ok(Via::Json, "GetBuildLog", &app.token, log).await;
    log["lines"].to_string()
}

async fn save_refused(ignite: &Ignite, via: Via, app: &App, image: &str) -> Refusal {
    let save = with(app, json!({ "code": prebuilt(image) }));
    let refused = ignite.refused(via, "SaveDraft", &app.token, save).await;
    refused.is(3, 400, "INVALID_ARGUMENT", &[]);
    assert_eq!(refused.fields, ["code.image.prebuilt.image_ref"]);
    refused
}

/// A Dockerfile for each instruction that can name an image. `base` may be named.
fn places(base: &str, image: &str) -> Vec<String> {
    vec![
        format!("FROM {image}\n"),
        format!("ARG A={image}\nFROM ${{A}}\n"),
        format!("FROM \\\n  # by the way\n  {image} AS x\n"),
        format!("FROM {base}\nCOPY --from={image} / /x\n"),
        format!("FROM {base}\nRUN --mount=type=bind,from={image},target=/x true\n"),
        format!("# syntax={image}\nFROM {base}\n"),
        format!("FROM {base}\nONBUILD COPY --from={image} / /x\n"),
    ]
}

async fn id_of(image: &str) -> String {
    let found = docker().await.inspect_image(image).await.expect("an image");
    found.id.expect("an id")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_an_id_names_no_image_anywhere() {
    let ignite = Ignite::builder().start().await;
    let app = bare(&ignite, "acme", "a").await;
    let image = probe::image().await;
    let id = id_of(&image).await;
    let digits = id.strip_prefix("sha256:").expect("an id");
    for prefix in [&digits[..2], &digits[..4], &digits[..12], &id[..11]] {
        for via in BOTH {
            save_refused(&ignite, via, &app, prefix).await;
        }
        let why = refused(&ignite, &app, &format!("FROM {prefix}\n")).await;
        assert!(why.contains("beginning of an image's id"), "{why}");
    }
    let prefix = &digits[..12];
    for dockerfile in places(&image, prefix) {
        let why = refused(&ignite, &app, &dockerfile).await;
        assert!(why.contains("beginning of an image's id"), "{why}");
    }
    // In another organization's base.
    let base = probe::image_described(&format!("ONBUILD COPY --from={prefix} / /x")).await;
    let why = refused(&ignite, &app, &format!("FROM {base}\n")).await;
    assert!(why.contains("ONBUILD of"), "{why}");
    // An argument's value may come with the build.
    let files: [(&str, &[u8]); 1] = [("Dockerfile", b"ARG A=scratch\nFROM $A\nCOPY . /\n")];
    let code = from_code(&tar_gz(&files), json!({ "build_args": { "A": prefix } }));
    save(&ignite, &app, code).await;
    let draft = compile(&ignite, &app).await;
    assert_eq!(draft["status"], "VERSION_STATUS_FAILED", "{draft}");
    // In a sandbox a full id is as good as a name.
    built(&ignite, &app, &format!("FROM {id}\n")).await;
    save(&ignite, &app, prebuilt(&id)).await;
    let found = compile(&ignite, &app).await;
    assert_eq!(found["status"], "VERSION_STATUS_READY", "{found}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "its server sets rules in the kernel, which needs root; scripts/test.sh runs it where it can"]
async fn tenants_reach_neither_each_others_images_nor_the_machines() {
    let ignite = Ignite::builder().args(["--trust", "tenants"]).start().await;
    let (acme, globex) = (
        bare(&ignite, "acme", "a").await,
        bare(&ignite, "globex", "g").await,
    );
    let first = "FROM scratch\nCOPY file /theirs\n";
    let theirs = built(&ignite, &acme, first).await;
    let theirs = theirs["imageRef"].as_str().expect("a name").to_owned();
    let id = id_of(&theirs).await;
    for image in [theirs.as_str(), &id, &format!("docker.io/{theirs}")] {
        for via in BOTH {
            save_refused(&ignite, via, &globex, image).await;
        }
        for dockerfile in places("scratch", image) {
            let why = refused(&ignite, &globex, &dockerfile).await;
            assert!(
                why.contains("none of organization globex")
                    || why.contains("is the id of an image"),
                "{why}"
            );
        }
    }
    // An organization may name the images it built itself.
    built(&ignite, &acme, &format!("FROM {theirs}\nCOPY file /more\n")).await;

    // Layers are reused only within an app.
    built(&ignite, &acme, first).await;
    let again = built(&ignite, &acme, &format!("{first}COPY file /again\n")).await;
    let log = build_log(&ignite, &acme, &again).await;
    assert!(log.contains("Using cache"), "{log}");
    let same = built(&ignite, &globex, &format!("{first}COPY file /again\n")).await;
    let log = build_log(&ignite, &globex, &same).await;
    assert!(!log.contains("Using cache"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "its server sets rules in the kernel, which needs root; scripts/test.sh runs it where it can"]
async fn a_private_image_is_for_the_organization_whose_secret_the_registry_takes() {
    let ignite = Ignite::builder()
        .args(["--trust", "tenants", "--set", "build_allow=127.0.0.0/8"])
        .start()
        .await;
    let (acme, globex) = (
        bare(&ignite, "acme", "a").await,
        bare(&ignite, "globex", "g").await,
    );
    let registry = Registry::start("hidden").await;
    for (app, password) in [(&acme, "hidden"), (&globex, "guessed")] {
        let secret = json!({ "name": "reg", "value": registry.secret(password) });
        ignite
            .ok(Via::Json, "CreateSecret", &app.token, secret)
            .await;
    }
    let unique = registry.address();
    let image = probe::image_with(&[("PROBE_LOG", &unique), ("PROBE_VERSION", "private")]).await;
    let id = id_of(&image).await;
    let reference = registry.take(&image).await;
    let named = |secret: &str| json!({ "image": { "prebuilt": { "image_ref": reference }, "registry_secret_ref": secret } });
    let from = |secret: &str| {
        let file = format!("FROM {reference}\nCOPY Dockerfile /x\n");
        let mut code = from_code(&tar_gz(&[("Dockerfile", file.as_bytes())]), json!({}));
        code["image"]["registry_secret_ref"] = secret.into();
        code
    };
    for code in [named("reg"), from("reg")] {
        save(&ignite, &acme, code).await;
        let draft = compile(&ignite, &acme).await;
        assert_eq!(draft["status"], "VERSION_STATUS_READY", "{draft}");
    }
    // The engine has it on the machine by now.
    let digest = docker().await.inspect_image(&id).await.expect("it is here");
    let by_digest = digest.repo_digests.expect("digests").remove(0);
    for code in [
        named(""),
        named("reg"),
        from(""),
        from("reg"),
        prebuilt(&by_digest),
    ] {
        save(&ignite, &globex, code).await;
        let draft = compile(&ignite, &globex).await;
        assert_eq!(draft["status"], "VERSION_STATUS_FAILED", "{draft}");
        let why = draft["error"].as_str().expect("a cause");
        assert!(why.contains("does not give image"), "{why}");
    }
    // Nor is an image that was never in a registry available to anybody.
    let docker = docker().await;
    let local = format!("127.0.0.1:1/of-{}", ignite.http_addr().port());
    let tag = TagImageOptions {
        repo: Some(local.clone()),
        tag: Some("1".to_owned()),
    };
    let probe = probe::image().await;
    docker.tag_image(&probe, Some(tag)).await.expect("a tag");
    let local = format!("{local}:1");
    save(&ignite, &globex, prebuilt(&local)).await;
    let draft = compile(&ignite, &globex).await;
    registry::forget(&local).await;
    assert_eq!(draft["status"], "VERSION_STATUS_FAILED", "{draft}");
    // The build records its base, whatever the tag names later.
    save(&ignite, &acme, from("reg")).await;
    let draft = compile(&ignite, &acme).await;
    let log = build_log(&ignite, &acme, &draft).await;
    assert!(log.contains("@sha256:"), "{log}");
    drop(ignite);
    registry::forget(&by_digest).await;
}

/// Builds from a base that is only in a registry and has this `ONBUILD`; returns the outcome.
async fn built_from_pulled(ignite: &Ignite, trigger: &str) -> (Value, String) {
    let app = bare(ignite, "acme", "pulls").await;
    let registry = Registry::start("hidden").await;
    let secret = json!({ "name": "reg", "value": registry.secret("hidden") });
    ignite
        .ok(Via::Json, "CreateSecret", &app.token, secret)
        .await;
    let described = format!("LABEL of={}\nONBUILD {trigger}", registry.address());
    let base = registry
        .take(&probe::image_described(&described).await)
        .await;
    let dockerfile = format!("FROM {base}\nENTRYPOINT [\"/probe\"]\n");
    let files: [(&str, &[u8]); 2] = [("Dockerfile", dockerfile.as_bytes()), ("file", b"x")];
    let mut code = from_code(&tar_gz(&files), json!({}));
    code["image"]["registry_secret_ref"] = "reg".into();
    save(ignite, &app, code).await;
    let draft = compile(ignite, &app).await;
    let log = build_log(ignite, &app, &draft).await;
    registry::forget(&base).await;
    (draft, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_of_a_base_that_is_not_here_are_judged_before_they_run() {
    let prefix = id_of(&probe::image().await).await;
    let ignite = Ignite::builder().start().await;
    let trigger = format!("COPY --from={} / /x", &prefix[7..19]);
    let (draft, log) = built_from_pulled(&ignite, &trigger).await;
    let why = draft["error"].as_str().expect("a cause");
    assert!(
        why.contains("ONBUILD of") && why.contains("beginning of an image's id"),
        "{why}"
    );
    assert!(log.contains("Pulling ") && !log.contains("Step "), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "its server sets rules in the kernel, which needs root; scripts/test.sh runs it where it can"]
async fn a_base_that_a_team_pulls_has_the_engine_fetch_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let open = listener.local_addr().expect("an address").port();
    let start = || async {
        let server = Ignite::builder().args(["--trust", "team"]);
        server
            .args(["--set", "build_allow=127.0.0.0/8"])
            .start()
            .await
    };
    let ignite = start().await;
    let trigger = format!("ADD http://127.0.0.1:{open}/x /x");
    let (draft, log) = built_from_pulled(&ignite, &trigger).await;
    let why = draft["error"].as_str().expect("a cause");
    assert!(why.contains("ONBUILD of") && why.contains("COPY"), "{why}");
    assert!(!log.contains("Step "), "{log}");
    let asked = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(asked.is_err(), "somebody fetched it");
    // A trigger that reads only the code's own files still works, and the build starts from the
    // inspected base.
    let ignite = start().await;
    let (draft, log) = built_from_pulled(&ignite, "COPY file /file").await;
    assert_eq!(draft["status"], "VERSION_STATUS_READY", "{draft} {log}");
    assert!(log.contains("FROM sha256:"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "its server sets rules in the kernel, which needs root; scripts/test.sh runs it where it can"]
async fn builds_of_a_team_reach_nothing_of_the_machine() {
    let ignite = Ignite::builder().args(["--trust", "team"]).start().await;
    let app = bare(&ignite, "acme", "a").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let open = listener.local_addr().expect("an address").port();
    let asked = Arc::new(tokio::sync::Notify::new());
    let noticed = asked.clone();
    let listening = tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            noticed.notify_one();
        }
    });
    // A port that was free a moment ago.
    let closed = {
        let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        other.local_addr().expect("an address").port()
    };
    let image = probe::image().await;
    for source in [
        format!("http://127.0.0.1:{open}/x"),
        format!("https://example.com:{open}/x"),
        "$URL".to_owned(),
    ] {
        let file = format!("FROM {image}\nENV URL=http://127.0.0.1:{open}/\nADD {source} /x\n");
        let why = refused(&ignite, &app, &file).await;
        assert!(
            why.contains("ADD at line 3") && why.contains("COPY"),
            "{why}"
        );
    }
    let mut said = Vec::new();
    for port in [open, closed] {
        let same = |why: String| why.replace(&port.to_string(), "PORT");
        for host in ["127.0.0.1", "localhost", "2130706433"] {
            let image = format!("{host}:{port}/x/y:1");
            let why = refused(&ignite, &app, &format!("FROM {image}\n")).await;
            save(&ignite, &app, prebuilt(&image)).await;
            let draft = compile(&ignite, &app).await;
            said.push((port, same(why).replace(host, "HOST")));
            let why = draft["error"].as_str().expect("a cause").to_owned();
            said.push((port, same(why).replace(host, "HOST")));
        }
        let url = format!("https://127.0.0.1:{port}/a.git");
        let code = json!({ "image": { "from_git": { "url": url } } });
        save(&ignite, &app, code).await;
        let why = compile(&ignite, &app).await["error"].to_string();
        assert!(why.contains("build_allow"), "{why}");
        said.push((port, same(why)));
    }
    let of = |port: u16| -> Vec<&String> {
        let said = said.iter().filter(|(p, _)| *p == port);
        said.map(|(_, why)| why).collect()
    };
    assert_eq!(of(open), of(closed), "an open port looks like a closed one");
    let code = json!({ "image": { "from_git": { "url": "file:///etc" } } });
    save(&ignite, &app, code).await;
    let why = compile(&ignite, &app).await["error"].to_string();
    assert!(why.contains("git_file_urls"), "{why}");
    let nobody = tokio::time::timeout(Duration::ZERO, asked.notified()).await;
    assert!(nobody.is_err(), "somebody connected to the open port");
    listening.abort();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "its server sets rules in the kernel, which needs root; scripts/test.sh runs it where it can"]
async fn a_step_of_a_build_has_limits_and_no_network() {
    let ignite = Ignite::builder()
        .args(["--trust", "team", "--set", "build_cpu_millicores=500"])
        .args(["--set", "build_memory=3GiB", "--set", "build_network=none"])
        .start()
        .await;
    let app = bare(&ignite, "acme", "a").await;
    let image = probe::image().await;
    let unique = format!("step-of-{}", ignite.http_addr().port());
    let file = format!("FROM {image}\nRUN [\"/probe\", \"{unique}\"]\n");
    save(&ignite, &app, folder(&file)).await;
    let compile = ignite.ok(Via::Json, "CompileDraft", &app.token, with(&app, json!({})));
    compile.await;
    let docker = docker().await;
    let host = eventually_ok(ENGINE_LIMIT, || async {
        let options = ListContainersOptions {
            all: true,
            ..ListContainersOptions::default()
        };
        let all = docker.list_containers(Some(options)).await;
        let all = all.expect("the engine lists containers");
        let ours = |c: &&bollard::models::ContainerSummary| {
            c.command.as_ref().is_some_and(|c| c.contains(&unique))
        };
        let step = all.iter().find(ours).and_then(|c| c.id.clone());
        let step = step.ok_or("the step does not run yet")?;
        let found = docker.inspect_container(&step, None).await;
        found
            .map_err(|_| "it has just ended")?
            .host_config
            .ok_or("nothing of it")
    })
    .await;
    assert_eq!(host.memory, Some(3 << 30));
    assert_eq!(host.memory_swap, Some(3 << 30));
    assert_eq!(
        (host.cpu_period, host.cpu_quota),
        (Some(100_000), Some(50_000))
    );
    assert_eq!(host.network_mode.as_deref(), Some("none"));
    let cancel = with(&app, json!({}));
    // It may have ended by itself.
    let _ = ignite
        .call(Via::Json, "CancelBuild", &app.token, &cancel)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_git_secret_goes_to_one_host_only() {
    let ignite = Ignite::builder().start().await;
    let app = bare(&ignite, "acme", "a").await;
    let get = |name: &'static str| {
        let (ignite, app) = (&ignite, &app);
        async move {
            let secret = json!({ "name": name });
            let got = ignite.ok(Via::Json, "GetSecret", &app.token, secret).await;
            got["value"]["gitSecret"]["host"].clone()
        }
    };
    for (name, host) in [("first", ""), ("made-for", "git.example:8443")] {
        let value = json!({ "git_secret": { "username": "u", "token": "t", "host": host } });
        let create = json!({ "name": name, "value": value });
        ignite
            .ok(Via::Json, "CreateSecret", &app.token, create)
            .await;
    }
    let build = |url: &'static str, secret: &'static str| {
        let (ignite, app) = (&ignite, &app);
        async move {
            let code = json!({ "image": { "from_git": { "url": url, "secret_ref": secret } } });
            save(ignite, app, code).await;
            compile(ignite, app).await["error"].to_string()
        }
    };
    assert_eq!(get("first").await, Value::Null);
    let why = build("https://127.0.0.1:1/a", "first").await;
    assert!(why.contains("git fetch failed"), "{why}");
    assert_eq!(get("first").await, "127.0.0.1:1");
    for (url, secret, host) in [
        ("https://127.0.0.1:2/a", "first", "127.0.0.1:1"),
        ("https://127.0.0.1:1/a", "made-for", "git.example:8443"),
    ] {
        let why = build(url, secret).await;
        assert!(why.contains("no other host") && why.contains(host), "{why}");
    }
    let value = json!({ "git_secret": { "username": "u", "token": "t", "host": "https://h" } });
    let create = json!({ "name": "bad", "value": value });
    let refused = ignite
        .refused(Via::Json, "CreateSecret", &app.token, create)
        .await;
    assert_eq!(refused.fields, ["value.git_secret.host"]);
}
