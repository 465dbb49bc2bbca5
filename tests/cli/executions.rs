//! `ignite invoke --async` and `ignite execution`: what they send, print and exit with.

use serde_json::{Value, json};

use crate::{
    Ran,
    fake::{
        Fake,
        executions::{
            BINARY, COMPLETED, FAILED, LARGE, LARGE_BYTES, RUNNING, SILENT, STREAMING, TIMED_OUT,
        },
    },
    ignite, run, served,
};

/// A scripted server and a home that knows it.
struct World {
    fake: Fake,
    home: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let fake = Fake::start();
        let home = served(&fake);
        Self { fake, home }
    }

    fn run(&self, args: &[&str]) -> Ran {
        run(ignite(self.home.path(), args))
    }

    /// Runs a command that must end with this code and returns stdout and stderr.
    #[track_caller]
    fn ends(&self, args: &[&str], code: i32) -> (String, String) {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(code), "{args:?}: {}{}", ran.out, ran.err);
        (ran.out, ran.err)
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let (out, err) = self.ends(&[args, &["-o", "json"]].concat(), 0);
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{args:?}: {e}: {out}{err}"))
    }
}

/// Whether a table has a row of this name and value.
fn has_row(table: &str, name: &str, value: &str) -> bool {
    let row = |line: &str| line.strip_prefix(name).map(str::trim) == Some(value);
    table.lines().any(row)
}

#[test]
fn invoke_async_prints_the_id_alone_and_sends_the_key() {
    let world = World::new();
    let plain = world.ends(&["invoke", "there", "--async", "-p", "{}"], 0);
    assert_eq!(plain, (format!("{COMPLETED}\n"), String::new()));
    assert_eq!(world.fake.calls(), ["InvokeAsync local/there {}"]);
    let keyed = world.json(&[
        "invoke",
        "acme:there",
        "--async",
        "--idempotency-key",
        "k-1",
    ]);
    assert_eq!(keyed, json!({ "executionId": COMPLETED }));
    assert_eq!(
        world.fake.calls(),
        ["InvokeAsync acme/there  key=\"k-1\""],
        "an app's organization is the id's"
    );
    for (args, word) in [
        (&["--wait"][..], "--async"),
        (&["--idempotency-key", "k"], "--async"),
        (&["--async", "--include"], "--wait"),
        (&["--async", "--idempotency-key", "\n"], "UUID"),
    ] {
        let (out, err) = world.ends(&[&["invoke", "there"], args].concat(), 2);
        assert!(out.is_empty() && err.contains(word), "{args:?}: {err}");
    }
}

#[test]
fn invoke_async_wait_prints_the_result_as_invoke_does() {
    let world = World::new();
    let (out, err) = world.ends(&["invoke", "there", "--async", "--wait"], 0);
    assert_eq!(out, "{\"ok\":1}");
    assert!(err.contains(COMPLETED), "{err}");
    let wait = ["invoke", "there", "--async", "--wait"];
    let (out, _) = world.ends(&[&wait[..], &["--include"]].concat(), 0);
    assert_eq!(out, "HTTP 200\ncontent-type: text/plain\n\n{\"ok\":1}");
    let answer = world.json(&wait);
    assert_eq!(answer["execution"]["result"], "eyJvayI6MX0=");

    let (out, err) = world.ends(&["invoke", "failing", "--async", "--wait"], 1);
    assert_eq!(out, "oops", "an app's error page is its answer");
    assert!(
        err.contains("failed: the app answered with HTTP status 500 (APP_ERROR)"),
        "{err}"
    );
    let late = ["invoke", "late", "--async", "--wait", "--include"];
    let (out, err) = world.ends(&late, 1);
    assert_eq!(out, "", "no answer has no head");
    assert!(err.contains("ran out of time: it took longer"), "{err}");
    // The default limit is for answers; the wait for an execution is unlimited unless a limit is
    // given.
    let stuck = ["invoke", "stuck", "--async", "--wait", "--timeout", "2s"];
    let (out, err) = world.ends(&stuck, 8);
    assert_eq!(out, "");
    let watch = format!("`ignite execution watch {RUNNING}`");
    assert!(err.contains(&watch) && err.contains("2s"), "{err}");
}

#[test]
fn get_is_a_table_with_the_text_below_or_the_apis_json() {
    let world = World::new();
    let (table, _) = world.ends(&["execution", "get", COMPLETED], 0);
    for (name, value) in [
        ("execution", COMPLETED),
        ("app", "local/there"),
        ("status", "completed"),
        ("attempt", "2"),
        ("version", "3"),
        ("created", "2023-11-14T22:13:20Z"),
        ("started", "2023-11-14T22:13:21Z"),
        ("ended", "2023-11-14T22:13:22Z"),
        ("took", "142 ms"),
        ("http status", "200"),
        ("reason", "-"),
        ("error", "-"),
        ("result", "8 bytes"),
    ] {
        assert!(has_row(&table, name, value), "no {name} {value} in {table}");
    }
    assert!(table.ends_with("\n\n{\"ok\":1}\n"), "{table}");

    let (table, _) = world.ends(&["exec", "get", FAILED], 0);
    assert!(has_row(&table, "reason", "APP_ERROR"), "{table}");
    let (table, _) = world.ends(&["exec", "get", BINARY], 0);
    assert!(
        has_row(&table, "result", "3 bytes") && !table.contains('\x1b'),
        "{table}"
    );
    let (table, _) = world.ends(&["exec", "get", RUNNING], 0);
    for name in ["ended", "took", "http status", "result"] {
        assert!(has_row(&table, name, "-"), "{name} in {table}");
    }
    let value = world.json(&["exec", "get", COMPLETED]);
    assert_eq!(
        (
            &value["execution"]["status"],
            &value["execution"]["createdAtMs"],
            &value["execution"]["metrics"]["resultSizeBytes"]
        ),
        (
            &json!("EXECUTION_STATUS_COMPLETED"),
            &json!("1700000000000"),
            &json!("8")
        )
    );
    let (yaml, _) = world.ends(&["exec", "get", COMPLETED, "-o", "yaml"], 0);
    let yaml: Value = serde_yaml_ng::from_str(&yaml).expect("YAML");
    assert_eq!(yaml, value);

    let (out, err) = world.ends(&["exec", "get", "exec_7"], 2);
    assert!(out.is_empty() && err.contains("ULID"), "{err}");
    let unknown = ["exec", "get", "exec_00000000000000000000000000"];
    let (_, err) = world.ends(&unknown, 5);
    assert!(
        err.contains("(NOT_FOUND)") && err.contains("organization local; name another one"),
        "{err}"
    );
    let (_, err) = world.ends(&[&unknown[..], &["--org", "acme"]].concat(), 5);
    assert!(!err.contains("--org"), "it was named: {err}");
}

#[test]
fn get_result_is_the_bytes_alone_and_fails_without_a_good_one() {
    let world = World::new();
    for (args, code, out, word) in [
        (&[COMPLETED][..], 0, "{\"ok\":1}", ""),
        (&[COMPLETED, "-o", "json"], 0, "{\"ok\":1}", ""),
        (&[FAILED], 1, "oops", "APP_ERROR"),
        (&[TIMED_OUT], 1, "", "REQUEST_TIMEOUT"),
        (&[RUNNING], 1, "", "has not ended"),
    ] {
        let args = [&["execution", "get", "--result"], args].concat();
        let (got, err) = world.ends(&args, code);
        assert_eq!(got, out, "{args:?}");
        assert!(err.contains(word), "{args:?}: {err}");
    }
    let mut command = ignite(world.home.path(), &["exec", "get", BINARY, "--result"]);
    assert_eq!(command.output().expect("runs").stdout, b"\x00\xff\x1b");
    let (large, _) = world.ends(&["exec", "get", LARGE, "--result"], 0);
    assert_eq!(large.len(), LARGE_BYTES);
    let (table, _) = world.ends(&["exec", "get", LARGE], 0);
    assert!(
        table.len() < 20_000 && table.contains("--result prints all"),
        "{}",
        table.len()
    );
}

#[test]
fn list_follows_the_pages_up_to_the_limit() {
    let world = World::new();
    let (table, err) = world.ends(&["execution", "list"], 0);
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[0],
        ["EXECUTION", "APP", "STATUS", "CREATED", "TOOK", "REASON"]
    );
    assert_eq!(
        lines[1],
        [
            FAILED,
            "local/there",
            "failed",
            "2023-11-14T22:13:20Z",
            "142ms",
            "APP_ERROR"
        ]
    );
    assert_eq!((lines.len(), lines[3][0], lines[3][4]), (4, RUNNING, "-"));
    assert_eq!(err, "");
    let pages = world.fake.calls();
    assert_eq!(
        pages,
        [
            "ListExecutions local/ 0 100 \"\"".to_owned(),
            format!("ListExecutions local/ 0 98 {COMPLETED:?}")
        ]
    );
    let (_, err) = world.ends(
        &[
            "exec",
            "ls",
            "acme:there",
            "--status",
            "FAILED",
            "--since",
            "1h",
            "--limit",
            "1",
            "-o",
            "wide",
        ],
        0,
    );
    assert!(err.contains("more than these 1"), "{err}");
    assert_eq!(
        world.fake.calls(),
        ["ListExecutions acme/there 4 1 since \"\""]
    );
    let value = world.json(&["exec", "list", "--limit", "2"]);
    assert_eq!(
        (&value["executions"][1]["id"], &value["nextCursor"]),
        (&json!(COMPLETED), &json!(COMPLETED))
    );
}

#[test]
fn watch_prints_a_line_for_each_change_and_exits_as_it_ends() {
    let world = World::new();
    let (out, err) = world.ends(&["execution", "watch", COMPLETED], 0);
    assert_eq!(
        out,
        "2023-11-14T22:13:20Z  pending\n\
         2023-11-14T22:13:21Z  running    attempt 2, version 3\n\
         2023-11-14T22:13:22Z  completed  status 200, 8 bytes, 142 ms\n"
    );
    assert_eq!(err, "");
    for (id, last, why) in [
        (
            FAILED,
            "failed     APP_ERROR: the app answered with HTTP status 500\n",
            "failed: the app answered with HTTP status 500 (APP_ERROR)\n",
        ),
        (
            TIMED_OUT,
            "timeout    REQUEST_TIMEOUT: it took longer than 5s\n",
            "ran out of time: it took longer than 5s\n  | log: busy (REQUEST_TIMEOUT)\n",
        ),
    ] {
        let (out, err) = world.ends(&["exec", "watch", id], 1);
        assert!(out.ends_with(last), "{out}");
        assert_eq!(err, format!("error: {id} {why}"));
    }
    let (out, _) = world.ends(&["exec", "watch", STREAMING, "-o", "json"], 0);
    let lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON on each line"))
        .collect();
    assert_eq!(lines.len(), 5, "{out}");
    assert_eq!(lines[2], json!({ "outputChunk": "Y2Q=" }));
    assert_eq!(
        lines[4]["execution"]["status"],
        "EXECUTION_STATUS_COMPLETED"
    );
    let (_, err) = world.ends(&["exec", "watch", SILENT], 1);
    assert!(err.contains("before") && err.contains(SILENT), "{err}");
    let (out, err) = world.ends(&["exec", "watch", RUNNING, "--timeout", "2s"], 8);
    assert!(out.contains("running") && err.contains("2s"), "{out}{err}");
    world.ends(&["exec", "watch", "exec_00000000000000000000000000"], 5);
}

#[test]
fn stream_prints_the_output_raw_or_the_result_at_the_end() {
    let world = World::new();
    let (out, err) = world.ends(&["execution", "stream", STREAMING, "-o", "json"], 0);
    assert_eq!(out, "cdef");
    assert!(
        err.contains("2 bytes") && err.contains("--result"),
        "what is missing is told: {err}"
    );
    let whole = world.ends(&["exec", "stream", COMPLETED], 0);
    assert_eq!(whole, ("{\"ok\":1}".to_owned(), String::new()));
    let (out, err) = world.ends(&["exec", "stream", FAILED], 1);
    assert!(out == "oops" && err.contains("APP_ERROR"), "{out}{err}");
}

#[test]
fn cancel_shows_the_end_and_stats_the_sum() {
    let world = World::new();
    let (table, _) = world.ends(&["execution", "cancel", RUNNING], 0);
    assert!(
        has_row(&table, "status", "failed") && has_row(&table, "reason", "CANCELLED"),
        "{table}"
    );
    let value = world.json(&["exec", "cancel", RUNNING]);
    assert_eq!(value["execution"]["errorReason"], "CANCELLED");
    let (out, err) = world.ends(&["exec", "cancel", COMPLETED], 1);
    assert!(out.is_empty() && err.contains("ended already"), "{err}");

    let (table, err) = world.ends(&["execution", "stats", "acme:there"], 0);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["FROM", "TO", "COMPLETED", "FAILED", "TIMEOUT"]);
    assert_eq!(
        rows[1],
        [
            "2023-11-14T22:00:00Z",
            "2023-11-14T23:00:00Z",
            "2",
            "1",
            "0"
        ]
    );
    assert_eq!((rows.len(), &rows[3][2..]), (4, &["5", "1", "1"][..]));
    assert_eq!(err, "");
    let args = ["exec", "stats", "there", "--bucket", "90s", "--since", "2h"];
    let (_, err) = world.ends(&args, 0);
    assert!(err.contains("counts by 1h"), "{err}");
    assert_eq!(
        world.fake.calls(),
        [
            "GetExecutionStats acme/there usual 0",
            "GetExecutionStats local/there given 90"
        ]
    );
    let value = world.json(&["exec", "stats", "there"]);
    assert_eq!(value["buckets"][0]["completed"], 2);
}
