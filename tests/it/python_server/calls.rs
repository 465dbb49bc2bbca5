//! How calls share one server, how they stream, how it starts and how it ends.

use std::{fs, process::Output};

use hyper::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{LIMIT, Server, command};
use crate::support::{eventually, http};

/// Streams pieces, each of which waits until a second call allows it.
const STEPS: &str = r#"
import asyncio, queue
allowed = queue.Queue()

def steps():
    try:
        while True:
            word = allowed.get()
            if word == "raise": raise RuntimeError("in the middle")
            if word == "end": return
            yield word
    finally:
        print("closed", flush=True)

async def async_steps():
    loop = asyncio.get_running_loop()
    try:
        while (word := await loop.run_in_executor(None, allowed.get)) != "end":
            if word == "raise": raise RuntimeError("in the middle")
            yield word
    finally:
        await asyncio.sleep(0)
        print("closed", flush=True)

def handler(payload, ctx):
    if payload == b"steps": return steps()
    if payload == b"async": return async_steps()
    allowed.put(payload.decode())
"#;

#[tokio::test]
async fn a_stream_comes_piece_by_piece_and_ends_with_its_reader() {
    let server = Server::start(STEPS, &[]).await;
    for kind in ["steps", "async"] {
        let stream = async {
            let mut answer = server.answer(kind).await;
            let first = answer.chunk().await.expect("a piece").expect("a piece");
            assert_eq!(first, "one");
            // The second exists only once the first has been read.
            server.answer("two").await;
            let second = answer.chunk().await.expect("a piece").expect("a piece");
            assert_eq!(second, "two");
            answer
        };
        // The head waits for the first piece, which determines the type.
        let (answer, _) = tokio::join!(stream, server.answer("one"));
        server.answer("end").await;
        assert_eq!(answer.bytes().await, "");

        // A broken stream must not look whole.
        let (mut answer, _) = tokio::join!(server.answer(kind), server.answer("one"));
        answer.chunk().await.expect("a piece").expect("a piece");
        server.answer("raise").await;
        let broken = timeout(LIMIT, answer.whole()).await.expect("an end");
        assert!(broken.is_err(), "{kind}: the broken answer looks whole");
        server.logged("RuntimeError: in the middle").await;

        // When the reader leaves, the generator ends at its next pieces.
        let closed = || server.log().matches("closed").count();
        let before = closed();
        let (answer, _) = tokio::join!(server.answer(kind), server.answer("one"));
        drop(answer);
        eventually(LIMIT, || async {
            server.answer("more").await;
            (closed() > before).then_some(())
        })
        .await;
        // Surplus permits do not carry over to the next stream.
        eventually(LIMIT, || async {
            let (answer, _) = tokio::join!(server.answer(kind), server.answer("end"));
            answer.bytes().await.is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_calls_run_at_once_on_threads_and_on_the_loop() {
    let threads = "
import threading
barrier = threading.Barrier(50)
def handler(payload, ctx):
    barrier.wait(180)
    return threading.active_count()
";
    let coroutines = "
import asyncio, threading
met = 0
async def handler(payload, ctx):
    global met
    met += 1
    while met < 50: await asyncio.sleep(0.01)
    return threading.active_count()
";
    for (handler, most) in [(threads, 60), (coroutines, 5)] {
        let server = Server::start(handler, &[]).await;
        let calls = (0..50).map(|_| async { server.answer("").await.json().await });
        for threads in futures_util::future::join_all(calls).await {
            let threads = threads.as_u64();
            assert!(threads.is_some_and(|n| n <= most), "{threads:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_the_bounds_wait_and_health_does_not() {
    let handler = "
import threading
running, most, go = 0, 0, threading.Event()
lock = threading.Lock()
def handler(payload, ctx):
    global running, most
    with lock:
        running += 1
        most = max(most, running)
    print('running', running)
    go.wait(180)
    with lock: running -= 1
    return most
import pathlib, time
def watch(file=pathlib.Path(__file__).with_name('go')):
    while not file.exists(): time.sleep(0.01)
    go.set()
threading.Thread(target=watch, daemon=True).start()
";
    let bounds = [("IGNITE_MAX_THREADS", "2"), ("IGNITE_MAX_CALLS", "3")];
    let server = Server::start(handler, &bounds).await;
    let calls = futures_util::future::join_all((0..8).map(|_| server.answer("")));
    let meanwhile = async {
        server.logged("running 2").await;
        let health = http::request(server.addr, Method::GET, "/healthz");
        let health = timeout(LIMIT, health.send()).await.expect("in time");
        assert_eq!(health.expect("an answer").status, StatusCode::OK);
        fs::write(server.folder.path().join("go"), "").expect("a file");
    };
    let (answers, ()) = tokio::join!(calls, meanwhile);
    for answer in answers {
        assert_eq!(answer.json().await, Value::from(2));
    }
}

#[tokio::test]
async fn sigterm_lets_calls_end_and_takes_no_more() {
    let mut server = Server::start(STEPS, &[]).await;
    let mut idle = TcpStream::connect(server.addr).await.expect("connects");
    let (mut answer, _) = tokio::join!(server.answer("steps"), server.answer("one"));
    answer.chunk().await.expect("a piece").expect("a piece");
    // A call that is under way when the signal comes, to end the stream with.
    let mut second = TcpStream::connect(server.addr).await.expect("connects");
    let head = b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\n";
    second.write_all(head).await.expect("sends");
    // Its head has been read once an answer comes that was asked for later.
    server.answer("two").await;
    server.signal(Signal::TERM);
    eventually(LIMIT, || async {
        TcpStream::connect(server.addr).await.is_err().then_some(())
    })
    .await;
    assert_eq!(
        timeout(LIMIT, idle.read_u8()).await.expect("closed").ok(),
        None
    );
    second.write_all(b"end").await.expect("sends");
    let mut last = String::new();
    second.read_to_string(&mut last).await.expect("an answer");
    assert!(
        last.contains("connection: close") && last.ends_with("null"),
        "{last:?}"
    );
    assert_eq!(answer.bytes().await, "two");
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test]
async fn what_a_handler_writes_is_in_the_log_at_once() {
    let handler = "
import logging, sys
logging.getLogger('mine').info('too early')
def handler(payload, ctx):
    print('no line end', end='')
    print(' yet')
    sys.stderr.write('to stderr; ')
    logging.getLogger('mine').info('an info')
    logging.getLogger('mine').debug('a debug')
";
    let server = Server::start(handler, &[]).await;
    server.answer("").await;
    let log = server.log();
    assert!(log.contains("no line end yet\n"), "{log}");
    assert!(log.contains("to stderr; INFO mine: an info\n"), "{log}");
    assert!(!log.contains("debug"), "{log}");
}

#[test]
fn what_cannot_be_served_ends_the_process_with_the_reason() {
    let run = |handler: Option<&str>, env: &[(&str, &str)]| -> Output {
        let (mut command, _folder) = command(handler, 1, env);
        command.output().expect("python3 is installed")
    };
    let fine = Some("def handler(payload, ctx): pass");
    for (handler, env, reason) in [
        (None, ("A", ""), "there is no handler.py at the root"),
        (
            Some("import nothing_of_this_name"),
            ("A", ""),
            "line 1, in <module>",
        ),
        (
            Some("import cv2"),
            ("A", ""),
            "cv2 is not installed: add opencv-python-headless to requirements.txt",
        ),
        (Some("def handler(:"), ("A", ""), "SyntaxError"),
        (Some("x = 1"), ("A", ""), "has no function `def handler("),
        (
            Some("def handler(payload): pass"),
            ("A", ""),
            "cannot be called with (payload, ctx)",
        ),
        (fine, ("PORT", "http"), "PORT='http' is not a whole number"),
        (fine, ("PORT", "70000"), "cannot listen on port 70000"),
        (fine, ("IGNITE_MAX_THREADS", "0"), "IGNITE_MAX_THREADS='0'"),
    ] {
        let output = run(handler, &[env]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{handler:?} {env:?}: {text}");
        assert!(text.contains(reason), "no {reason:?} in {text}");
    }
}
