//! The log of an app: its newest lines, and new lines as they arrive.

use futures_util::{StreamExt as _, stream, stream::BoxStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use super::{Compute, ForOwner as _, Refusal};
use crate::{
    api::{convert::Fields, proto::v1, status::to_status},
    engine::LogStream,
    logs::{Entry, Follow},
    model::{Failure, Reason, ReplicaId},
};

/// Lines of GetAppLogs when no limit is given, as the contract says.
const DEFAULT_LINES: usize = 1000;

/// The answer of StreamAppLogs.
pub type LogsStream = BoxStream<'static, Result<v1::LogLine, Status>>;

impl Compute {
    pub(super) async fn logs(
        &self,
        request: Request<v1::GetAppLogsRequest>,
    ) -> Result<v1::GetAppLogsResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let mut fields = Fields::default();
        let limit = fields.accept("limit", lines(r.limit));
        let replica = fields.accept("replica_id", replica(&r.replica_id));
        if r.since_ms < 0 {
            let why = "is negative; give Unix milliseconds, or leave it out";
            fields.add("since_ms", format!("{} {why}", r.since_ms));
        }
        fields.check()?;
        let limit = match limit.unwrap_or_default() {
            0 => DEFAULT_LINES.min(self.log_max_lines),
            n => n.min(self.log_max_lines),
        };
        let replica = replica.flatten();
        let newest = self
            .app_logs
            .newest(&id, replica.as_ref(), r.since_ms, limit)
            .await
            .for_owner()?;
        Ok(v1::GetAppLogsResponse {
            lines: newest.into_iter().map(to_wire).collect(),
        })
    }

    pub(super) async fn follow_logs(
        &self,
        request: Request<v1::StreamAppLogsRequest>,
    ) -> Result<LogsStream, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let mut fields = Fields::default();
        let tail = fields.accept("tail", lines(r.tail));
        let replica = fields.accept("replica_id", replica(&r.replica_id));
        fields.check()?;
        let tail = tail.unwrap_or_default().min(self.log_max_lines);
        let follow = self
            .app_logs
            .follow(id, replica.flatten(), tail)
            .await
            .for_owner()?;
        let state = Some((follow, self.stopping.clone()));
        Ok(stream::unfold(state, step).boxed())
    }
}

type State = Option<(Follow, CancellationToken)>;

async fn step(state: State) -> Option<(Result<v1::LogLine, Status>, State)> {
    let (mut follow, stopping) = state?;
    let next = tokio::select! {
        biased;
        () = stopping.cancelled() => Err(Failure::new(
            Reason::ShuttingDown,
            "the platform is stopping; follow the log again when it is back",
        )),
        next = follow.next() => next,
    };
    match next {
        Ok(Some(entry)) => Some((Ok(to_wire(entry)), Some((follow, stopping)))),
        Ok(None) => None,
        Err(failure) => Some((Err(to_status(&failure, true)), None)),
    }
}

fn lines(n: i32) -> Result<usize, String> {
    usize::try_from(n).map_err(|_| format!("{n} is negative; give a number of lines"))
}

fn replica(text: &str) -> Result<Option<ReplicaId>, String> {
    match text {
        "" => Ok(None),
        id => id.parse().map(Some).map_err(|e| format!("{e}")),
    }
}

pub(super) fn to_wire(entry: Entry) -> v1::LogLine {
    let stream = match entry.line.stream {
        LogStream::Stdout => v1::LogStream::Stdout,
        LogStream::Stderr => v1::LogStream::Stderr,
    };
    v1::LogLine {
        timestamp_ms: entry.line.at_ns / 1_000_000,
        replica_id: entry.replica.to_string(),
        message: entry.line.text,
        stream: stream.into(),
        version: entry.version,
    }
}
