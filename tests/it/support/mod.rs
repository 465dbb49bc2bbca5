//! Support for the tests. Nothing is skipped: without a container engine a test fails and says what
//! to do.

// A helper may wait for the test that needs it.
#![allow(dead_code, unused_imports)]

use std::{
    fmt::Display, future::Future, panic::Location, path::Path, process::Command, time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

pub(crate) mod app;
pub(crate) mod cleanup;
pub(crate) mod code;
pub(crate) mod contract;
pub(crate) mod cut;
pub(crate) mod engine;
pub(crate) mod engine_proxy;
pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod ignite;
pub(crate) mod issuer;
pub(crate) mod load;
pub(crate) mod panics;
pub(crate) mod private_engine;
pub(crate) mod probe;
pub(crate) mod public_host;
pub(crate) mod python;
pub(crate) mod registry;
pub(crate) mod tls;
pub(crate) mod tokens;

pub(crate) use grpc::grpc_client;

/// An image to build handlers on, made once on a machine; see scripts/base-image.sh.
pub(crate) async fn base_image(kind: &'static str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/base-image.sh");
    let made = move || Command::new(script).arg(kind).output();
    let made = tokio::task::spawn_blocking(made).await;
    let output = made.expect("no panic").expect("the script runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    let reference = String::from_utf8(output.stdout).expect("text");
    reference.trim().to_owned()
}

/// The longest wait for anything that has to happen. It only bounds a hang; no test asserts that
/// something is quick, because machines differ by more than any useful bound.
pub(crate) const HANGS: Duration = Duration::from_secs(180);

/// How often a condition is checked.
const PACE: Duration = Duration::from_millis(10);

/// Waits until `condition` answers a value.
///
/// # Panics
/// After `limit`, naming the caller.
#[track_caller]
pub(crate) fn eventually<T, F>(
    limit: Duration,
    mut condition: impl FnMut() -> F,
) -> impl Future<Output = T>
where
    F: Future<Output = Option<T>>,
{
    eventually_ok(limit, move || {
        let answer = condition();
        async move { answer.await.ok_or("it did not hold") }
    })
}

/// Waits until `condition` succeeds.
///
/// # Panics
/// After `limit`, naming the caller and the last error.
#[track_caller]
pub(crate) fn eventually_ok<T, E, F>(
    limit: Duration,
    mut condition: impl FnMut() -> F,
) -> impl Future<Output = T>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let caller = Location::caller();
    async move {
        let deadline = Instant::now() + limit;
        let mut last = None;
        for tries in 1.. {
            // A condition that hangs must not hang the test.
            match timeout(
                deadline.saturating_duration_since(Instant::now()),
                condition(),
            )
            .await
            {
                Ok(Ok(value)) => return value,
                Ok(Err(error)) => last = Some(error.to_string()),
                Err(_) => last = last.or_else(|| Some("the first try never ended".to_owned())),
            }
            if Instant::now() + PACE >= deadline {
                panic!(
                    "{caller}: waited {limit:?} ({tries} tries); at last: {}",
                    last.unwrap_or_default()
                );
            }
            sleep(PACE).await;
        }
        unreachable!("the loop ends by returning or panicking")
    }
}
