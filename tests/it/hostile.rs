//! Malicious input: refused with the bound that it exceeds, while others are served; and slow
//! input, whose processing ends when its sender leaves.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use ignite_kit::hostile;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::{
    HANGS,
    code::{from_code, tar_gz, zip},
    contract::{BOTH, Via, with},
    eventually, eventually_ok,
    ignite::{Builder, Ignite},
};

/// More than all of it takes: JSON bodies and their archives several times over.
const MOST_MEMORY_KB: u64 = 400 * 1024;

fn app(name: &str) -> Value {
    json!({ "organization_name": "evil", "app_name": name })
}

/// A method and its request.
type Call = (&'static str, Value);

fn save(archive: &[u8]) -> Call {
    let code = json!({ "code": from_code(archive, json!({})) });
    ("SaveDraft", with(app("a"), code))
}

async fn create(ignite: &Ignite, token: &str, org: &str) {
    let create = json!({ "organization_name": org, "name": "a" });
    ignite.ok(Via::Json, "CreateApp", token, create).await;
}

/// A figure of a process in `/proc/PID/status`, in KB.
fn status_kb(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find(|line| line.starts_with(name));
    let figure = line.and_then(|line| line.split_whitespace().nth(1));
    figure.expect("a figure").parse().expect("a number")
}

/// The CPU time that a process has used, in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let after_name = stat.rsplit(')').next().expect("a name in parentheses");
    let figures: Vec<&str> = after_name.split_whitespace().collect();
    figures[11..13]
        .iter()
        .map(|f| f.parse::<u64>().expect("a number"))
        .sum()
}

/// A change of the app's output schema to this.
fn schema(text: String) -> Call {
    (
        "UpdateAppConfig",
        with(app("a"), json!({ "output_schema": text })),
    )
}

/// Calls with hostile input, the field that is refused, and words of the refusal.
fn attacks() -> Vec<(Call, &'static str, &'static str)> {
    let archive = "code.image.from_code.archive";
    let ignoring = |text: &str| tar_gz(&[("Dockerfile", b""), (".dockerignore", text.as_bytes())]);
    let many_lines: String = (0..150_000).map(|i| format!("# {i}\n")).collect();
    let long_line = [b"RUN true\n# ", &[b'a'; 70_000][..]].concat();
    let created = json!({ "organization_name": "evil", "name": "b", "input_schema": hostile::schema_of_patterns(8000) });
    vec![
        (
            save(&hostile::deep_archive(30_000)),
            archive,
            "IGNITE_CODE_MAX_PATH_BYTES",
        ),
        (
            save(&hostile::deep_archive(200)),
            archive,
            "IGNITE_CODE_MAX_DEPTH",
        ),
        (
            save(&hostile::deep_archive(1_000_000)),
            archive,
            "headers before one",
        ),
        (
            save(&hostile::winding_link(30_000)),
            archive,
            "IGNITE_CODE_MAX_PATH_BYTES",
        ),
        (
            save(&hostile::winding_link(150)),
            archive,
            "IGNITE_CODE_MAX_DEPTH",
        ),
        (
            save(&hostile::woven_links(5_000)),
            archive,
            "IGNITE_CODE_MAX_LINKS",
        ),
        (
            save(&hostile::woven_links(11_000)),
            archive,
            "more than 10000 links",
        ),
        (
            save(&hostile::crowded_zip(60_000)),
            archive,
            "IGNITE_CODE_MAX_FILES",
        ),
        (
            save(&ignoring(&hostile::ignore_file(100_000))),
            archive,
            ".dockerignore is over 65536 bytes",
        ),
        (
            save(&ignoring(&hostile::ignore_file(1_001))),
            archive,
            "line 1001 of .dockerignore",
        ),
        (
            save(&ignoring("a\n[b\n")),
            archive,
            "line 2 of .dockerignore",
        ),
        (
            save(&zip(&[("Dockerfile", many_lines.as_bytes())])),
            archive,
            "Dockerfile is over 1048576 bytes",
        ),
        (
            save(&tar_gz(&[("Dockerfile", &long_line)])),
            archive,
            "line 2 of the Dockerfile",
        ),
        (
            schema(hostile::schema_of_patterns(8_000)),
            "output_schema",
            "256 patterns",
        ),
        (
            schema(hostile::schema_of_patterns(200)),
            "output_schema",
            "all of them together",
        ),
        (
            schema(json!({ "pattern": "a?".repeat(100_000) }).to_string()),
            "output_schema",
            "4096",
        ),
        (("CreateApp", created), "input_schema", "256 patterns"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_input_is_refused_with_its_bound_and_holds_up_nobody() {
    let ignite = Ignite::builder().start().await;
    let (evil, good) = (ignite.token("evil"), ignite.token("good"));
    create(&ignite, &evil, "evil").await;
    create(&ignite, &good, "good").await;

    let attacks = attacks();
    let before = status_kb(ignite.ready().pid, "VmHWM:");

    let (under_attack, over) = watch::channel(true);
    let attacked = async {
        for via in BOTH {
            for ((rpc, fields), field, words) in &attacks {
                // Two at once, as many as are read at a time.
                let refused = tokio::join!(
                    ignite.refused(via, rpc, &evil, fields.clone()),
                    ignite.refused(via, rpc, &evil, fields.clone()),
                );
                for refused in [refused.0, refused.1] {
                    refused.is(3, 400, "INVALID_ARGUMENT", &[words]);
                    assert_eq!(refused.fields, [*field]);
                    assert!(refused.message.len() < 1000, "{refused:?}");
                }
            }
        }
        // Compiling this schema takes other validators exponential time; here it is read.
        let references = schema(hostile::schema_of_references(60));
        ignite
            .ok(Via::Grpc, references.0, &evil, references.1)
            .await;
        under_attack.send_replace(false);
    };
    let served = async {
        let mut served = 0;
        let good_app = json!({ "organization_name": "good", "app_name": "a" });
        while *over.borrow() {
            let words = json!({ "description": format!("change {served}"), "input_schema": "{}" });
            let change = with(good_app.clone(), words);
            ignite.ok(Via::Json, "UpdateAppConfig", &good, change).await;
            let draft = from_code(&tar_gz(&[("Dockerfile", b"FROM scratch\n")]), json!({}));
            let change = with(good_app.clone(), json!({ "code": draft }));
            ignite.ok(Via::Grpc, "SaveDraft", &good, change).await;
            served += 1;
        }
        served
    };
    let ((), served) = tokio::join!(attacked, served);
    let grown = status_kb(ignite.ready().pid, "VmHWM:") - before;
    println!("{served} changes and drafts of others meanwhile; memory grew by {grown} KB at most");
    assert!(served > 0);
    assert!(grown < MOST_MEMORY_KB, "memory grew by {grown} KB");
}

/// A server that accepts [`hostile::long_archive`], and waits for requests longer than any test
/// runs.
fn patient() -> Builder {
    Ignite::builder()
        .env("IGNITE_CODE_MAX_UNPACKED_BYTES", "1000000000000")
        .env("IGNITE_CODE_MAX_RATIO", "1000000")
        .env("IGNITE_DRAIN_TIMEOUT_SECS", "3600")
}

/// Waits until the server has worked on the request for three seconds: receiving it takes less.
async fn reads(ignite: &Ignite) {
    let pid = ignite.ready().pid;
    let before = ticks(pid);
    eventually_ok(HANGS, || async move {
        match ticks(pid) - before {
            300.. => Ok(()),
            few => Err(format!("it has worked for {few} ticks")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_ends_with_its_client_and_with_the_server() {
    let mut ignite = patient().start().await;
    let evil = ignite.token("evil");
    create(&ignite, &evil, "evil").await;
    // Forty gigabytes: minutes of work, and without optimization longer than a test waits.
    let (rpc, long) = save(&hostile::long_archive(2500));
    let (_, short) = save(&tar_gz(&[("Dockerfile", b"FROM scratch\n")]));

    {
        let left = ignite.call(Via::Grpc, rpc, &evil, &long);
        tokio::select! {
            answer = left => panic!("it was read already: {answer:?}"),
            () = reads(&ignite) => {}
        }
    }
    // The organization's only permit is free again.
    ignite.ok(Via::Grpc, rpc, &evil, short).await;

    let stopped = {
        let waits = ignite.call(Via::Grpc, rpc, &evil, &long);
        let stop = async {
            reads(&ignite).await;
            ignite.signal(rustix::process::Signal::TERM);
        };
        tokio::join!(waits, stop).0
    };
    let refused = stopped.expect_err("it is stopping");
    refused.is(14, 503, "SHUTTING_DOWN", &["was not read"]);
    assert!(ignite.wait(HANGS).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_ends_with_its_build() {
    const TIMES: usize = 20;
    let ignite = patient().start().await;
    let evil = ignite.token("evil");
    create(&ignite, &evil, "evil").await;
    let (rpc, long) = save(&hostile::long_archive(TIMES));
    ignite.ok(Via::Grpc, rpc, &evil, long).await;
    ignite.ok(Via::Grpc, "CompileDraft", &evil, app("a")).await;

    let builds = ignite.data_dir().join("builds");
    // How much of the file exists, if it does.
    let unpacked = || {
        let folder = fs::read_dir(&builds).expect("a folder").next()?.ok()?;
        Some(fs::metadata(folder.path().join("zeros")).map_or(0, |meta| meta.len()))
    };
    eventually(HANGS, || {
        let now = unpacked();
        async move { now.filter(|bytes| *bytes > 0) }
    })
    .await;
    ignite.ok(Via::Grpc, "CancelBuild", &evil, app("a")).await;
    let mut most = 0;
    eventually(HANGS, || {
        let now = unpacked();
        most = most.max(now.unwrap_or(0));
        async move { now.is_none().then_some(()) }
    })
    .await;
    assert!(most < (TIMES as u64) << 24, "it was read to its end");
}

/// Runs git in a folder and returns its output.
fn git(folder: &Path, args: &[&str], stdin: &str) -> String {
    let mut child = Command::new("git")
        .args(["-c", "user.name=T", "-c", "user.email=t@example.com"])
        .args(args)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git is there");
    let pipe = child.stdin.take().expect("it is piped");
    { pipe }.write_all(stdin.as_bytes()).expect("it is read");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "git {args:?}");
    String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_few_objects_and_endless_files_is_never_checked_out() {
    let repo = tempfile::tempdir().expect("a directory");
    git(repo.path(), &["init", "-q"], "");
    let mut object = git(repo.path(), &["hash-object", "-w", "--stdin"], "");
    let mut kind = "100644 blob";
    // Ten in each of ten in each …: a hundred million.
    for _ in 0..8 {
        let names: String = (0..10).map(|i| format!("{kind} {object}\t{i}\n")).collect();
        object = git(repo.path(), &["mktree"], &names);
        kind = "040000 tree";
    }
    let commit = git(repo.path(), &["commit-tree", &object, "-m", "a bomb"], "");
    git(repo.path(), &["update-ref", "refs/heads/main", &commit], "");

    let ignite = Ignite::builder().start().await;
    let evil = ignite.token("evil");
    create(&ignite, &evil, "evil").await;
    let url = format!("file://{}", repo.path().display());
    let code = json!({ "code": { "image": { "from_git": { "url": url, "ref": "main" } } } });
    ignite
        .ok(Via::Grpc, "SaveDraft", &evil, with(app("a"), code))
        .await;
    let refused = ignite
        .refused(Via::Grpc, "PublishDraft", &evil, app("a"))
        .await;
    refused.is(
        9,
        400,
        "BUILD_FAILED",
        &["200000 files", "IGNITE_CODE_MAX_FILES"],
    );
}
