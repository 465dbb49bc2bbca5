//! `ignite dev`: a folder that is live as it is, at one URL, while its files change.
//!
//! Each change of the content to send starts a round: save, build, publish. A change in the middle
//! of a round starts the next one at once, and saving the newer code cancels the older build. A
//! round that fails says why and leaves the live version. Files that are not sent, and writes that
//! change nothing, start no round.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{
    Context, Error,
    app_settings::Settings,
    build::{self, Lines},
    code::{How, Source},
    deploy,
    failure::note,
    id::AppArg,
    logs, publish,
};
use crate::{api::proto::v1, clock::now_ms, model::AppId};

mod watch;

use watch::Watch;

/// Wait before a log that broke off is followed again.
const LOG_RETRY: Duration = Duration::from_secs(1);
/// Longest time to cancel a build at the end.
const CANCEL_LIMIT: Duration = Duration::from_secs(2);

/// Which folder becomes which app, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder.
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// The app, as org:app or app [default: named as the folder]; it is created when it is not
    /// there.
    #[arg(long, value_name = "ID")]
    app: Option<AppArg>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    settings: Settings,
}

/// Publishes the folder, then each change of it, until Ctrl-C. The URL is the first line on
/// stdout, what the app writes follows; everything else is on stderr.
pub(super) async fn run(context: &Context, args: Args) -> Result<(), Error> {
    let name = match args.app {
        Some(name) => name,
        None => named_as(&args.folder)?,
    };
    let end = |kind| signal(kind).map_err(|e| Error::Other(e.into()));
    let mut interrupt = end(SignalKind::interrupt())?;
    let mut terminate = end(SignalKind::terminate())?;
    let dev = Dev {
        context,
        app: context.app(name)?,
        // Watched before it is read, so that no change is missed.
        watch: Watch::on(&args.folder)?,
        source: Source::of_folder(args.folder, args.how),
        settings: args.settings,
        live: OnceLock::new(),
        published: Notify::new(),
    };
    tokio::select! {
        biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        ended = dev.rounds() => return ended,
        ended = dev.logs() => return ended,
    }
    dev.leave().await;
    Ok(())
}

/// The app's name from the folder's.
fn named_as(folder: &Path) -> Result<AppArg, Error> {
    let real = folder.canonicalize().map_err(|e| {
        Error::Usage(format!(
            "the folder {} cannot be read: {e}",
            folder.display()
        ))
    })?;
    let name = real.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_lowercase().replace([' ', '_', '.'], "-");
    name.parse()
        .map_err(|why| Error::Usage(format!("{why}; name the app with --app")))
}

struct Dev<'a> {
    context: &'a Context,
    app: AppId,
    watch: Watch,
    source: Source,
    settings: Settings,
    /// When the app was first published, Unix milliseconds: its log is followed from then on.
    live: OnceLock<i64>,
    published: Notify,
}

impl Dev<'_> {
    /// Runs rounds until stdout is closed; fails if the folder cannot be read at the start.
    async fn rounds(&self) -> Result<(), Error> {
        let mut code = self.source.save(&self.app)?;
        let (mut configured, mut shown) = (false, false);
        loop {
            let begun = Instant::now();
            let seen = self.source.changed_at();
            let done = tokio::select! {
                done = self.round(&code, &mut configured) => done,
                newer = self.wait_for_newer(&code, None) => {
                    note("Changed meanwhile; starting again");
                    code = newer;
                    continue;
                }
            };
            let failed = done.is_err();
            match done {
                Ok(published) if shown => {
                    deploy::note_live_version(&self.app, &published, begun.elapsed())
                }
                Ok(published) => {
                    // Before the URL is shown: its replica is up, and may be called at once.
                    // Only the first counts.
                    let _ = self.live.set(now_ms());
                    self.published.notify_one();
                    deploy::report(self.context, &self.app, &published, begun.elapsed())?;
                    shown = true;
                }
                Err(error) => {
                    error.print();
                    note("What was live stays live; the next change tries again");
                }
            }
            // The cause of a failure may lie elsewhere: the same code, saved again, is tried again.
            let again = seen.filter(|_| failed);
            code = match self.read_if_newer(&code, again) {
                Some(newer) => newer,
                None => self.wait_for_newer(&code, again).await,
            };
        }
    }

    /// From the code to a published version.
    async fn round(
        &self,
        code: &v1::SaveDraftRequest,
        configured: &mut bool,
    ) -> Result<v1::PublishDraftResponse, Error> {
        // Anew each time: a token of this machine does not last as long as a day's work.
        let session = self.context.connect(&self.app.org).await?;
        if !*configured {
            deploy::configure(&session, &self.app, &self.settings).await?;
            *configured = true;
        }
        let mut client = session.client();
        session.answer(client.save_draft(code.clone())).await?;
        let build = Some(Lines::Hidden);
        publish::build_and_publish(self.context, &session, &self.app, build, false).await
    }

    /// Waits for code that is not this code, or that was saved again since.
    async fn wait_for_newer(
        &self,
        code: &v1::SaveDraftRequest,
        since: Option<SystemTime>,
    ) -> v1::SaveDraftRequest {
        loop {
            self.watch.changed().await;
            if let Some(newer) = self.read_if_newer(code, since) {
                return newer;
            }
        }
    }

    fn read_if_newer(
        &self,
        code: &v1::SaveDraftRequest,
        since: Option<SystemTime>,
    ) -> Option<v1::SaveDraftRequest> {
        match self.source.save(&self.app) {
            Ok(now) => {
                let again = since.is_some_and(|since| self.source.changed_at() > Some(since));
                (again || now != *code).then_some(now)
            }
            // In the middle of a change, as of a `.dockerignore`.
            Err(error) => {
                error.print();
                None
            }
        }
    }

    /// Prints what the app's replicas write, once it is published, until stdout is closed.
    async fn logs(&self) -> Result<(), Error> {
        self.published.notified().await;
        let mut since_ms = self.live.get().copied().unwrap_or_default();
        loop {
            if let Ok(session) = self.context.connect(&self.app.org).await {
                let ended = logs::follow_since(self.context, &session, &self.app, since_ms).await;
                if matches!(ended, Err(Error::Closed)) {
                    return ended;
                }
                since_ms = now_ms();
            }
            sleep(LOG_RETRY).await;
        }
    }

    /// Cancels the build of the round that was interrupted.
    async fn leave(&self) {
        let app = &self.app;
        let (org, name) = (&app.org, &app.name);
        note(&format!(
            "\n{app} stays as it is; `ignite app delete {org}:{name}` removes it"
        ));
        let cancel = async {
            let session = self.context.connect(org).await?;
            build::cancel(&session, app).await
        };
        // There may be none, or no server.
        let _ = timeout(CANCEL_LIMIT, cancel).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_named_as_its_folder_or_asked_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let named = |name: &str| {
            let folder = dir.path().join(name);
            std::fs::create_dir_all(&folder).expect("made");
            named_as(&folder).map(|app| app.name.to_string()).ok()
        };
        assert_eq!(named("My_First fn.v2").as_deref(), Some("my-first-fn-v2"));
        assert_eq!(named("+"), None);
        assert!(named_as(&dir.path().join("none")).is_err());
    }
}
