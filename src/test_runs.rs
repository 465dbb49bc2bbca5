//! Test runs: one request to a draft or a version, in a container that serves nothing else and is
//! removed afterwards.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use crate::{
    apps::Apps,
    fair_limiter::FairLimiter,
    fleet::upstream,
    gateway::{Gateway, headers::header_text, invoke::Client},
    logs::{Entry, Logs},
    model::{AppId, ExecutionId, Failure, Reason},
};

/// Runs tests of drafts and versions; clones share the permits.
#[derive(Clone)]
pub struct TestRuns {
    apps: Apps,
    gateway: Arc<Gateway>,
    logs: Logs,
    /// One permit for each test that may run at once.
    limiter: FairLimiter,
    max_answer_bytes: usize,
    max_lines: usize,
}

/// How many tests may run, and how much of a response is kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most tests at a time; further ones wait.
    pub running: usize,
    /// Most tests of one organization at a time.
    pub per_org: usize,
    /// Largest body of a response, in bytes.
    pub answer_bytes: usize,
    /// Most lines of the log; the newest are kept.
    pub lines: usize,
}

/// The outcome of a test.
#[derive(Debug)]
pub struct Outcome {
    /// The app's HTTP status.
    pub status: u16,
    /// The app's headers; several values of one name are joined by `, `.
    pub headers: BTreeMap<String, String>,
    /// The app's body.
    pub body: Bytes,
    /// From the call to the end of the body, including the start of the container.
    pub took: Duration,
    /// The lines that the app wrote.
    pub log: Vec<Entry>,
}

impl TestRuns {
    /// Runs tests of these apps.
    pub fn new(apps: Apps, gateway: Arc<Gateway>, logs: Logs, bounds: Bounds) -> Self {
        Self {
            apps,
            gateway,
            logs,
            limiter: FairLimiter::new(bounds.running, bounds.per_org),
            max_answer_bytes: bounds.answer_bytes,
            max_lines: bounds.lines,
        }
    }

    /// Sends a request to a version, or to the draft when none is named.
    ///
    /// # Errors
    /// NOT_FOUND for the app, the draft or the version; why the image cannot be pulled or built, or
    /// why the container does not become ready or does not respond; BODY_TOO_LARGE for its
    /// response.
    ///
    /// # Cancel safety
    /// Dropping the future removes the container.
    pub async fn run(
        &self,
        app: AppId,
        version: Option<u32>,
        request: Request<upstream::Body>,
    ) -> Result<Outcome, Failure> {
        let began = Instant::now();
        let _permit = self.limiter.acquire(&app).await;
        let run = self.apps.test_run(&app, version).await?;
        let deployment = run.deployment();
        let execution = ExecutionId(ulid::Ulid::generate());
        let answer = self
            .gateway
            .invoke(
                deployment,
                None,
                execution,
                request,
                Client::default(),
                None,
            )
            .await?;
        let (head, mut incoming) = answer.into_parts();
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            if let Ok(data) = frame?.into_data() {
                if body.len() + data.len() > self.max_answer_bytes {
                    return Err(Failure::new(
                        Reason::BodyTooLarge,
                        format!(
                            "the answer is over {} bytes (IGNITE_MAX_BODY_BYTES); test with a request whose answer is smaller",
                            self.max_answer_bytes
                        ),
                    ));
                }
                body.extend_from_slice(&data);
            }
        }
        let took = began.elapsed();
        let mut headers = BTreeMap::<String, String>::new();
        for (name, value) in &head.headers {
            let value = header_text(value.as_bytes());
            headers
                .entry(name.as_str().to_owned())
                .and_modify(|all| {
                    all.push_str(", ");
                    all.push_str(&value);
                })
                .or_insert_with(|| value.clone());
        }
        Ok(Outcome {
            status: head.status.as_u16(),
            headers,
            body: body.freeze(),
            took,
            log: self.logs.of(deployment, self.max_lines).await,
        })
    }
}
