//! `ignite ready`: whether the server of this machine is ready, for health checks of containers and
//! for scripts.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::time::Instant;

use super::{Error, block_on, context::Global, output, token::Place};
use crate::config::{Serving, parse_duration};

/// Longest wait for one answer, which costs the server no I/O.
const ANSWER: Duration = Duration::from_secs(5);
/// Pause between two questions while it is waited for.
const PAUSE: Duration = Duration::from_millis(100);
/// Most bytes of an answer; it has some hundred.
const MAX_BYTES: usize = 64 * 1024;

/// How long to wait, and for which server.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Wait so long for the server to be ready, such as 30s.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
    #[command(flatten)]
    place: Place,
}

/// Prints what the server answers at `/readyz`.
///
/// # Errors
/// [`Error::Unreachable`] when it does not answer, or is not ready, with each reason.
pub(super) fn run(args: Args, global: &Global) -> Result<(), Error> {
    let data_dir = args.place.resolve()?;
    let began = Instant::now();
    let checks = block_on(async {
        loop {
            match ask(&data_dir).await {
                Err(_) if args.wait.is_some_and(|wait| began.elapsed() < wait) => {
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    })?;
    let format = global.output.unwrap_or_default();
    if format.is_structured() {
        return format.print_value(&checks);
    }
    output::line("ready")
}

/// What `/readyz` answers if it says that everything works.
async fn ask(data_dir: &Path) -> Result<Value, Error> {
    match answer(data_dir).await? {
        (StatusCode::OK, answer) => Ok(answer),
        (status, answer) => Err(not_ready(&answer, status)),
    }
}

/// What `/readyz` answers.
pub(super) async fn answer(data_dir: &Path) -> Result<(StatusCode, Value), Error> {
    let serving = Serving::read(data_dir).ok_or_else(|| {
        Error::Unreachable(format!(
            "no server runs with the data directory {}; start it with `ignite serve`, or name another with --data-dir or IGNITE_DATA_DIR",
            data_dir.display()
        ))
    })?;
    let uri: Uri = serving
        .ready_url()
        .parse()
        .context("the server's address in serve.json is damaged")?;
    let unreachable = |why: &dyn std::fmt::Display| {
        Error::Unreachable(format!("the server does not answer at {uri}: {why}"))
    };
    let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    let request = http::Request::get(&uri).body(Empty::<Bytes>::new());
    let request = request.context("cannot ask the server")?;
    let asked = async {
        let answer = client.request(request).await.map_err(|e| unreachable(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        let body = body.map_err(|e| unreachable(&e))?.to_bytes();
        Ok::<_, Error>((status, body))
    };
    let (status, body) = tokio::time::timeout(ANSWER, asked)
        .await
        .map_err(|_| unreachable(&format!("no answer within {ANSWER:?}")))??;
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}

/// The checks that failed, in words.
fn not_ready(answer: &Value, status: StatusCode) -> Error {
    let checks = answer["checks"].as_object();
    let failed = checks.into_iter().flatten().filter_map(|(name, outcome)| {
        let why = outcome.as_str().filter(|outcome| *outcome != "ok")?;
        Some(format!("{name}: {why}"))
    });
    let failed: Vec<String> = failed.collect();
    if failed.is_empty() {
        return Error::Other(anyhow!("the server answers {status} to /readyz"));
    }
    Error::Unreachable(format!("the server is not ready: {}", failed.join("; ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_fails_is_named() {
        let answer = json!({ "ready": false, "checks": { "parts": "ok", "engine": "it is down" } });
        let Error::Unreachable(why) = not_ready(&answer, StatusCode::SERVICE_UNAVAILABLE) else {
            panic!("another error");
        };
        assert_eq!(why, "the server is not ready: engine: it is down");
    }
}
