//! Drafts and their builds: save, get, build, follow, cancel.

use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use super::{Compute, ForOwner as _, Refusal, admitted};
use crate::{
    api::{
        convert,
        proto::{local::v1 as local, v1},
        status::to_status,
    },
    builder::{Build, Found, Line, State},
    model::{AppId, CodeSource, Failure, Reason},
};

/// The answer of StreamCompileLogs.
pub type CompileLogStream = BoxStream<'static, Result<v1::CompileLogLine, Status>>;

impl Compute {
    /// The code of a request, within the limit on its size.
    pub(super) fn parse_code(
        &self,
        code: Option<v1::CodeSource>,
    ) -> Result<CodeSource<bytes::Bytes>, Failure> {
        let source = convert::code(code)?;
        let len = source.bytes().map_or(0, bytes::Bytes::len);
        self.limits.check_code(len)?;
        Ok(source)
    }

    pub(super) async fn save(
        &self,
        request: Request<v1::SaveDraftRequest>,
    ) -> Result<v1::SaveDraftResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let source = self.parse_code(request.into_inner().code)?;
        let view = self.apps.save_draft(id, source).await.for_owner()?;
        Ok(v1::SaveDraftResponse {
            draft: Some(convert::view_to_wire(&view)),
        })
    }

    pub(super) async fn draft(
        &self,
        request: Request<v1::GetDraftInfoRequest>,
    ) -> Result<v1::GetDraftInfoResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let view = self.apps.draft(&id).for_owner()?;
        Ok(v1::GetDraftInfoResponse {
            draft: Some(convert::view_to_wire(&view)),
        })
    }

    pub(super) async fn compile(
        &self,
        request: Request<v1::CompileDraftRequest>,
    ) -> Result<v1::CompileDraftResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let (build, view) = self.apps.compile(id).await.for_owner()?;
        Ok(v1::CompileDraftResponse {
            deploy_id: build.to_string(),
            draft: Some(convert::view_to_wire(&view)),
        })
    }

    pub(super) async fn build_log(
        &self,
        request: Request<v1::GetBuildLogRequest>,
    ) -> Result<v1::GetBuildLogResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let build = self.apps.find_build(&r.build_id, |app| *app == id).await;
        let (state, lines) = match build.for_owner()? {
            Found::Here(build) => {
                let state = build.state().borrow().clone();
                (state, build.log.since(0).0)
            }
            Found::Ended(log) => (log.state, log.lines),
        };
        let lines = lines.into_iter().map(line_to_wire);
        Ok(v1::GetBuildLogResponse {
            lines: lines.chain(last_line(&state)).collect(),
            status: status(&state).into(),
        })
    }

    pub(super) async fn follow_build(
        &self,
        request: Request<v1::StreamCompileLogsRequest>,
    ) -> Result<CompileLogStream, Refusal> {
        let admitted = admitted(&request)?;
        let id = &request.get_ref().deploy_id;
        // Others must not learn that it exists.
        let may_see = |app: &AppId| admitted.caller().owns(&app.org);
        let build = self.apps.find_build(id, may_see).await;
        if let Ok(found) = &build {
            admitted.check_app(found.app())?;
        }
        let build = match build.for_owner()? {
            Found::Here(build) => build,
            Found::Ended(log) => {
                let last = last_line(&log.state);
                let lines = log.lines.into_iter().map(line_to_wire).chain(last);
                return Ok(stream::iter(lines.map(Ok)).boxed());
            }
        };
        let follow = Follow {
            build,
            next: 0,
            stopping: self.stopping.clone(),
        };
        let pieces = stream::unfold(Some(follow), step);
        Ok(pieces.flat_map(stream::iter).boxed())
    }

    pub(in crate::api) async fn cancel_build(
        &self,
        request: Request<local::CancelBuildRequest>,
    ) -> Result<local::CancelBuildResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let none = || {
            Failure::new(
                Reason::FailedPrecondition,
                format!(
                    "no build of app {id}'s draft is under way; GetDraftInfo (`ignite draft info`) says how the last one ended"
                ),
            )
        };
        let build = match r.build_id.as_str() {
            "" => {
                let building = self.apps.draft(&id).for_owner()?.building;
                building.ok_or_else(none).for_owner()?.to_string()
            }
            build => build.to_owned(),
        };
        let build = self.apps.find_build(&build, |app| *app == id).await;
        let build = match build.for_owner()? {
            Found::Here(build) if !build.is_over() => build,
            Found::Here(_) | Found::Ended(_) => return Err(none()).for_owner(),
        };
        build.cancel();
        // The draft says whether the cancellation ended it; the outcome here does not matter.
        let _ = build.outcome().await;
        let view = self.apps.draft(&id).for_owner()?;
        Ok(local::CancelBuildResponse {
            deploy_id: build.id.to_string(),
            draft: Some(convert::view_to_wire(&view)),
        })
    }
}

struct Follow {
    build: Arc<Build>,
    /// The number of the next line to send.
    next: u64,
    stopping: CancellationToken,
}

type Piece = Vec<Result<v1::CompileLogLine, Status>>;

/// The lines since the last step, or the final one.
async fn step(follow: Option<Follow>) -> Option<(Piece, Option<Follow>)> {
    let mut follow = follow?;
    // Subscribes before reading, so that no line and no end in between is missed.
    let (mut count, mut state) = (follow.build.log.count(), follow.build.state());
    count.mark_unchanged();
    let now = state.borrow_and_update().clone();
    let (lines, next) = follow.build.log.since(follow.next);
    let mut piece: Piece = lines.into_iter().map(|l| Ok(line_to_wire(l))).collect();
    follow.next = next;
    if let Some(last) = last_line(&now) {
        piece.push(Ok(last));
        return Some((piece, None));
    }
    if piece.is_empty() {
        tokio::select! {
            biased;
            () = follow.stopping.cancelled() => {
                let failure = Failure::new(Reason::ShuttingDown, "the platform is stopping and the build was ended; compile again when it is back");
                return Some((vec![Err(to_status(&failure, true))], None));
            }
            _ = count.changed() => {}
            _ = state.changed() => {}
        }
    }
    Some((piece, Some(follow)))
}

fn line_to_wire(line: Line) -> v1::CompileLogLine {
    v1::CompileLogLine {
        timestamp_ms: line.at_ms,
        message: line.text,
        done: false,
        status: v1::VersionStatus::Compiling.into(),
    }
}

fn status(state: &State) -> v1::VersionStatus {
    match state {
        State::Waiting | State::Running => v1::VersionStatus::Compiling,
        State::Ended(Ok(_), _) => v1::VersionStatus::Ready,
        State::Ended(Err(_), _) => v1::VersionStatus::Failed,
    }
}

/// The line that reports how a build ended.
fn last_line(state: &State) -> Option<v1::CompileLogLine> {
    let State::Ended(outcome, at_ms) = state else {
        return None;
    };
    Some(v1::CompileLogLine {
        timestamp_ms: *at_ms,
        message: match outcome {
            Ok(image) => format!("Built {}", image.image_ref),
            Err(failure) => failure.message.clone(),
        },
        done: true,
        status: status(state).into(),
    })
}
