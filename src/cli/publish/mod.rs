//! A publish, a rollback or a change of settings, followed to its end.
//!
//! The server finishes a publish even if the call breaks, so the app's events decide, not the call:
//! they are shown while it runs, and say how it ended if the call broke.

mod progress;
mod update;
mod watch;

pub(super) use update::update;

use futures_util::future::LocalBoxFuture;
use tokio::signal::unix::{SignalKind, signal};
use tonic::{Response, Status};

use self::{
    progress::Progress,
    watch::{Seen, Watch},
};
use super::{
    Context, Error,
    build::{self, Interrupt, Lines},
    context::Session,
    failure::{is_answer, note, warn},
};
use crate::{
    api::proto::{local::v1 as local, v1},
    model::AppId,
};

/// How many lines of the new version's log are shown; a failed start shows its own last lines.
const LOG_LINES: usize = 20;

/// Builds the draft that was just saved, unless its image exists, and publishes it.
///
/// # Errors
/// As for [`build::follow`] and [`publish`].
pub(super) async fn build_and_publish(
    context: &Context,
    session: &Session,
    app: &AppId,
    build: Option<Lines>,
    no_wait: bool,
) -> Result<v1::PublishDraftResponse, Error> {
    if let Some(lines) = build {
        let started = build::start(session, app).await?;
        note(&format!("Building {app} ({}) …", started.deploy_id));
        let id = &started.deploy_id;
        build::follow(context, session, app, id, lines, Interrupt::Cancels).await?;
    }
    publish(context, session, app, no_wait).await
}

/// Publishes the draft and shows progress and warnings on stderr.
///
/// # Errors
/// Why it was not published; [`Error::TimedOut`] if `--timeout` ran out, while the publish
/// continues.
pub(super) async fn publish(
    context: &Context,
    session: &Session,
    app: &AppId,
    no_wait: bool,
) -> Result<v1::PublishDraftResponse, Error> {
    let request = v1::PublishDraftRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        skip_ready_check: no_wait,
    };
    let call = || {
        let (mut client, request) = (session.client(), request.clone());
        Box::pin(async move { client.publish_draft(request).await }) as Call<'_, _>
    };
    let what = format!("Publishing {app} (a missing image is pulled first)");
    let published = match follow(context, session, app, &what, call).await? {
        Ended::Answered(published) => published,
        Ended::Active(version) => published_as(session, app, version).await?,
    };
    warn(&published.warnings);
    Ok(published)
}

/// Publishes the draft by changed files and shows progress and warnings on stderr.
///
/// # Errors
/// As for [`publish`].
pub(super) async fn sync(
    context: &Context,
    session: &Session,
    app: &AppId,
    request: local::SyncDraftRequest,
) -> Result<v1::PublishDraftResponse, Error> {
    let call = || {
        let (mut dev, request) = (session.dev(), request.clone());
        Box::pin(async move { dev.sync_draft(request).await }) as Call<'_, local::SyncDraftResponse>
    };
    let what = format!("Syncing {app}");
    let published = match follow(context, session, app, &what, call).await? {
        Ended::Answered(done) => v1::PublishDraftResponse {
            version: done.version,
            public_urls: done.public_urls,
            warnings: done.warnings,
        },
        Ended::Active(version) => published_as(session, app, version).await?,
    };
    warn(&published.warnings);
    Ok(published)
}

/// Rolls back to a version and shows progress on stderr.
///
/// # Errors
/// As for [`publish`].
pub(super) async fn roll_back(
    context: &Context,
    session: &Session,
    app: &AppId,
    version: u32,
    no_wait: bool,
) -> Result<v1::RollbackAppResponse, Error> {
    let request = v1::RollbackAppRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        version,
        skip_ready_check: no_wait,
    };
    let before = active_version(session, app).await?;
    let call = || {
        let (mut client, request) = (session.client(), request.clone());
        Box::pin(async move { client.rollback_app(request).await }) as Call<'_, _>
    };
    let what = format!("Rolling {app} back to version {version}");
    Ok(match follow(context, session, app, &what, call).await? {
        Ended::Answered(done) => done,
        Ended::Active(version) => v1::RollbackAppResponse {
            active_version: version,
            previous_version: before,
        },
    })
}

/// How the end of a publish became known.
enum Ended<T> {
    /// The call was answered.
    Answered(T),
    /// The app's events say that this version is active.
    Active(u32),
}

type Call<'a, T> = LocalBoxFuture<'a, Result<Response<T>, Status>>;

/// Makes a call and follows the app's events meanwhile, and still after the call breaks.
async fn follow<'a, T>(
    context: &Context,
    session: &'a Session,
    app: &AppId,
    what: &str,
    call: impl Fn() -> Call<'a, T>,
) -> Result<Ended<T>, Error> {
    let shown = Progress::new(what);
    let work = async {
        let mut watch = Watch::from_now(session, app, true).await;
        let mut calling = Some(call());
        loop {
            tokio::select! {
                biased;
                answer = async { calling.as_mut().expect("there is one").await }, if calling.is_some() => {
                    calling = None;
                    match answer {
                        Ok(answer) => {
                            watch.drain().await.into_iter().for_each(|seen| shown.show(&seen));
                            return Ok(Ended::Answered(answer.into_inner()));
                        }
                        Err(status) if is_answer(&status) => return Err(session.refused(status)),
                        Err(status) => shown.line(&format!(
                            "The call broke ({}); still following what it began", status.message()
                        )),
                    }
                    watch.disconnect();
                }
                seen = watch.next() => match seen {
                    Seen::Event(event) => {
                        if calling.is_none() && let Some(end) = end(&event) {
                            return end.map(Ended::Active);
                        }
                        shown.show(&Seen::Event(event));
                    }
                    Seen::Nothing if calling.is_none() => {
                        shown.line("The server no longer knows of it; asking again");
                        calling = Some(call());
                    }
                    Seen::Gone(status) if calling.is_none() => return Err(session.refused(*status)),
                    seen => shown.show(&seen),
                }
            }
        }
    };
    within(context, app, work).await
}

/// Work that goes on at the server when the time of `--timeout` is over.
async fn within<T>(
    context: &Context,
    app: &AppId,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Error::Other(e.into()))?;
    let limit = context.follow_limit;
    let over = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let error = tokio::select! {
        biased;
        done = work => return done,
        () = over => Error::TimedOut(limit.unwrap_or_default()),
        _ = interrupt.recv() => Error::Interrupted,
    };
    note(&format!(
        "\nit continues; `ignite app events {}:{}` shows how it ends",
        app.org, app.name
    ));
    Err(error)
}

/// How a publish ended, if the event says so.
fn end(event: &v1::AppEvent) -> Option<Result<u32, Error>> {
    match event.r#type.as_str() {
        "ACTIVATED" => Some(Ok(event.version)),
        "PUBLISH_FAILED" => Some(Err(Error::PublishFailed(event.message.clone()))),
        _ => None,
    }
}

async fn active_version(session: &Session, app: &AppId) -> Result<u32, Error> {
    let got = session.app(app).await?;
    Ok(got.app.unwrap_or_default().active_version)
}

/// What PublishDraft would have answered.
async fn published_as(
    session: &Session,
    app: &AppId,
    version: u32,
) -> Result<v1::PublishDraftResponse, Error> {
    let got = session.app(app).await?;
    let meta = got.app.unwrap_or_default();
    let request = v1::GetAppVersionRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        version,
    };
    let version = session
        .answer(session.client().get_app_version(request))
        .await?;
    Ok(v1::PublishDraftResponse {
        version: version.version,
        public_urls: meta.public_urls,
        ..Default::default()
    })
}
