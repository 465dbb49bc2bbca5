//! From a git repository to an answer.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::{
    cli::{fails, ok, ran},
    python,
    support::{
        app::{App, ENGINE_LIMIT},
        code::{dockerfile, write},
        contract::{BOTH, Via, merge},
        eventually,
        ignite::Ignite,
    },
};

/// Runs git in a folder, independent of this machine's configuration.
fn git(folder: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=T", "-c", "user.email=t@example.com"])
        .args(["-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .expect("git is there");
    assert!(output.status.success(), "git {args:?}: {output:?}");
    String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

/// Writes a Dockerfile of this version into a folder of the repository and commits it.
async fn commit(repo: &Path, at: &str, version: &str) -> String {
    let file = dockerfile(version).await;
    write(repo, &[(&format!("{at}Dockerfile"), file.as_bytes())]);
    git(repo, &["add", "-A"]);
    git(repo, &["commit", "-q", "-m", version]);
    git(repo, &["rev-parse", "HEAD"])
}

fn from_git(url: &str, more: Value) -> Value {
    let mut code = json!({ "url": url });
    merge(&mut code, more);
    json!({ "image": { "from_git": code } })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_ref_of_a_repository_is_deployed_to_its_own_answer() {
    let repo = tempfile::tempdir().expect("a directory");
    let repo = repo.path();
    git(repo, &["init", "-q"]);
    let first = commit(repo, "", "first").await;
    git(repo, &["tag", "v1"]);
    git(repo, &["checkout", "-q", "-b", "feature/x"]);
    commit(repo, "", "feature").await;
    git(repo, &["checkout", "-q", "main"]);
    commit(repo, "", "second").await;
    commit(repo, "services/a/", "below").await;
    // What a checkout must not run.
    write(
        repo,
        &[(".git/hooks/post-checkout", b"#!/bin/sh\nexit 1\n")],
    );

    let ignite = Ignite::builder()
        .env("IGNITE_DEFAULT_ORG", "acme")
        .start()
        .await;
    let url = format!("file://{}", repo.display());
    let app = App {
        org: "acme".into(),
        name: "g".into(),
        token: ignite.token("acme"),
    };
    let deploy = |more: &[&str]| {
        let args = [&["app", "deploy", "g", "--git-url", &url][..], more].concat();
        ok(&ignite, &args)
    };
    let short = &first[..8];
    for (more, version) in [
        (&["--git-ref", "v1"][..], "first"),
        (&["--git-ref", "feature/x"], "feature"),
        (&["--git-ref", &first], "first"),
        (&["--git-sub-path", "services/a"], "below"),
        (&["--git-ref", short], "first"),
        (&[], "second"),
    ] {
        let printed = deploy(more);
        assert!(printed.starts_with("http://g-acme."), "{printed}");
        assert_eq!(app.version(&ignite).await, version, "{more:?}");
    }
    let code = json!({ "organization_name": "acme", "app_name": "g" });
    for via in BOTH {
        let got = ignite.ok(via, "GetAppCode", &app.token, code.clone()).await;
        assert_eq!(got["codeKind"], "CODE_KIND_IMAGE_FROM_GIT");
        assert_eq!(got["code"]["image"]["fromGit"]["url"], url.as_str());
    }
    let logs = ok(&ignite, &["draft", "compile-logs", "g"]);
    assert!(logs.contains("At commit "), "{logs}");
    let left = std::fs::read_dir(ignite.data_dir().join("builds")).expect("a folder");
    assert_eq!(left.count(), 0, "nothing of a repository stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_without_a_dockerfile_is_built_as_the_handler_that_it_has() {
    let repo = tempfile::tempdir().expect("a directory");
    git(repo.path(), &["init", "-q"]);
    let code = b"def handler(payload, ctx): return payload[::-1]\n";
    write(repo.path(), &[("fn/handler.py", code)]);
    git(repo.path(), &["add", "-A"]);
    git(repo.path(), &["commit", "-q", "-m", "one"]);
    let ignite = python::server(|b| b).await;
    let url = format!("file://{}", repo.path().display());
    let at = ["--git-sub-path", "fn", "--follow"];
    let args = [&["app", "deploy", "g", "--git-url", &url][..], &at].concat();
    let deployed = ran(ignite.cli(&args));
    let recognized = "handler.py makes this a handler of the runtime python";
    assert!(deployed.err.contains(recognized), "{}", deployed.err);
    let app = python::app(&ignite, "g");
    assert_eq!(python::call(&ignite, &app, "abc").await.text().await, "cba");

    // Its root has the file in a folder only.
    let args = ["app", "deploy", "other", "--git-url", &url];
    let words = ["no Dockerfile", "no file at its root", "Buildpacks"];
    fails(&ignite, &args, 1, &words);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fetched_is_refused_with_the_reason() {
    let repo = tempfile::tempdir().expect("a directory");
    git(repo.path(), &["init", "-q"]);
    commit(repo.path(), "", "one").await;
    std::os::unix::fs::symlink("/etc", repo.path().join("out")).expect("made");
    git(repo.path(), &["add", "-A"]);
    git(repo.path(), &["commit", "-q", "-m", "a link out"]);
    let url = format!("file://{}", repo.path().display());
    let ignite = Ignite::builder()
        .env("IGNITE_GIT_TIMEOUT_SECS", "120")
        .start()
        .await;
    let token = ignite.token("acme");
    let id = || json!({ "organization_name": "acme", "app_name": "g" });
    let create = json!({ "organization_name": "acme", "name": "g" });
    ignite.ok(Via::Json, "CreateApp", &token, create).await;
    for kind in ["registry", "git"] {
        let value = match kind {
            "git" => json!({ "git_secret": { "username": "u", "token": "t0ken" } }),
            _ => json!({ "registry_secret": { "username": "u", "password": "p" } }),
        };
        let create = json!({ "name": kind, "value": value });
        ignite.ok(Via::Json, "CreateSecret", &token, create).await;
    }
    for via in BOTH {
        for (url, more, field) in [
            ("", json!({}), "url"),
            ("ssh://git.example/a", json!({}), "url"),
            ("ext::sh -c id", json!({}), "url"),
            ("https://user:pass@git.example/a", json!({}), "url"),
            (&url, json!({ "ref": "--upload-pack=id" }), "ref"),
            (&url, json!({ "sub_path": "../x" }), "sub_path"),
            (&url, json!({ "secret_ref": "a b" }), "secret_ref"),
        ] {
            let mut save = id();
            merge(&mut save, json!({ "code": from_git(url, more) }));
            let refused = ignite.refused(via, "SaveDraft", &token, save).await;
            refused.is(3, 400, "INVALID_ARGUMENT", &[]);
            assert_eq!(refused.fields, [format!("code.image.from_git.{field}")]);
        }
        for (code, reason, words) in [
            (
                from_git(&url, json!({ "ref": "none" })),
                "BUILD_FAILED",
                &["couldn't find remote ref", "branch, tag"][..],
            ),
            (
                from_git("file:///none/there", json!({})),
                "BUILD_FAILED",
                &["git fetch failed", "/none/there"],
            ),
            (
                from_git("https://127.0.0.1:1/a", json!({ "secret_ref": "git" })),
                "BUILD_FAILED",
                &["git fetch failed", "127.0.0.1"],
            ),
            (
                from_git(&url, json!({ "sub_path": "none" })),
                "BUILD_FAILED",
                &["no folder", "sub_path"],
            ),
            (
                from_git(&url, json!({})),
                "BUILD_FAILED",
                &["link \"out\"", "stay within"],
            ),
            (
                from_git(&url, json!({ "secret_ref": "nobody" })),
                "FAILED_PRECONDITION",
                &["no such secret", "nobody"],
            ),
            (
                from_git(&url, json!({ "secret_ref": "registry" })),
                "FAILED_PRECONDITION",
                &["git_secret is needed"],
            ),
        ] {
            let mut save = id();
            merge(&mut save, json!({ "code": code }));
            ignite.ok(via, "SaveDraft", &token, save).await;
            let refused = ignite.refused(via, "PublishDraft", &token, id()).await;
            refused.is(9, 400, reason, words);
            assert!(!refused.message.contains("t0ken"), "{refused:?}");
        }
    }
    assert!(!ignite.log().contains("t0ken"));

    let without = Ignite::builder()
        .env("PATH", "/none")
        .env("IGNITE_DEFAULT_ORG", "acme")
        .start()
        .await;
    let failed = ran(without.cli(&["app", "deploy", "g", "--git-url", &url]));
    assert_eq!(failed.code, 1, "{}", failed.err);
    assert!(failed.err.contains("install it"), "{}", failed.err);
    let strict = Ignite::builder()
        .arg("--strict")
        .env("IGNITE_DEFAULT_ORG", "acme")
        .start()
        .await;
    let failed = ran(strict.cli(&["app", "deploy", "g", "--git-url", &url]));
    assert!(failed.err.contains("--strict"), "{}", failed.err);
}

/// A server of private repositories; it ends when this is dropped.
struct GitServer {
    process: std::process::Child,
    lines: Arc<Mutex<Vec<String>>>,
    port: u16,
}

impl GitServer {
    /// Serves the repositories in a folder, with a certificate that is made there.
    fn start(folder: &Path, user: &str, token: &str) -> Self {
        let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
            ])
            .args(["-subj", "/CN=127.0.0.1", "-addext"])
            .arg("subjectAltName=IP:127.0.0.1,DNS:localhost")
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .expect("openssl is there");
        assert!(made.status.success(), "{made:?}");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/git_server.py");
        let mut process = Command::new("python3")
            .arg(script)
            .args([folder, &certificate, &key])
            .args([user, token])
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python runs");
        let mut stdout = BufReader::new(process.stdout.take().expect("piped")).lines();
        let port = stdout.next().expect("a line").expect("text");
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = lines.clone();
        std::thread::spawn(move || {
            for line in stdout.map_while(Result::ok) {
                heard.lock().expect("not poisoned").push(line);
            }
        });
        Self {
            process,
            lines,
            port: port.parse().expect("a port"),
        }
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_repository_is_fetched_with_its_secret_which_no_other_host_gets() {
    let folder = tempfile::tempdir().expect("a directory");
    let repo = folder.path().join("app");
    std::fs::create_dir(&repo).expect("made");
    git(&repo, &["init", "-q"]);
    commit(&repo, "", "private").await;
    let server = GitServer::start(folder.path(), "robot", "s3cr3t-t0ken");
    let ignite = Ignite::builder()
        .env("GIT_SSL_CAINFO", folder.path().join("cert.pem"))
        .env("IGNITE_DEFAULT_ORG", "acme")
        .start()
        .await;
    let app = App {
        org: "acme".into(),
        name: "g".into(),
        token: ignite.token("acme"),
    };
    let value = json!({ "git_secret": { "username": "robot", "token": "s3cr3t-t0ken" } });
    let create = json!({ "name": "mine", "value": value });
    ignite
        .ok(Via::Json, "CreateSecret", &app.token, create)
        .await;
    let at = |path: &str| format!("https://127.0.0.1:{}/{path}", server.port);
    let deploy = |url: &str, more: &[&str]| {
        ran(ignite.cli(&[&["app", "deploy", "g", "--git-url", url][..], more].concat()))
    };
    let url = at("app/.git");
    let secret = ["--git-secret-ref", "mine"];
    let without = deploy(&url, &[]);
    assert_eq!(without.code, 1, "{}", without.err);
    assert!(without.err.contains("secret_ref"), "{}", without.err);
    let with = deploy(&url, &secret);
    assert_eq!(with.code, 0, "{}", with.err);
    assert_eq!(app.version(&ignite).await, "private");

    let moved = deploy(&at("moved/app/.git"), &secret);
    assert_eq!(moved.code, 1, "{}", moved.err);
    let elsewhere = |line: &&String| line.starts_with("localhost");
    let lines = eventually(ENGINE_LIMIT, || async {
        let lines = server.lines.lock().expect("not poisoned").clone();
        lines.iter().any(|line| elsewhere(&line)).then_some(lines)
    })
    .await;
    assert!(
        lines.iter().any(|line| line.ends_with(" token")),
        "{lines:?}"
    );
    for line in lines.iter().filter(elsewhere) {
        assert!(line.ends_with(" none"), "{line}");
    }
    let logs = [
        without.err,
        with.err,
        moved.err,
        ignite.log(),
        ran(ignite.cli(&["draft", "compile-logs", "g"])).out,
    ];
    assert!(!logs.concat().contains("s3cr3t"), "{logs:?}");
}
