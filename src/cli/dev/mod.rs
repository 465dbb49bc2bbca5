//! `ignite dev`: keeps a folder live at one URL while its files change.
//!
//! Each change of the files to send starts a round: save, build, publish. A change during a round
//! starts the next round at once, and saving the newer code cancels the older build. A failed round
//! says why and leaves the live version in place. Files that are not sent and writes that change
//! nothing start no round.

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

/// Delay before a broken log stream is opened again.
const LOG_RETRY: Duration = Duration::from_secs(1);
/// The longest time that cancelling a build may delay the exit.
const CANCEL_LIMIT: Duration = Duration::from_secs(2);

/// Which folder becomes which app, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder.
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// The app, as org:app or app, created if it does not exist [default: the folder's name].
    #[arg(long, value_name = "ID")]
    app: Option<AppArg>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    settings: Settings,
}

/// Publishes the folder, then each change, until Ctrl-C. The first line on stdout is the URL,
/// followed by the app's log; everything else is on stderr.
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
        // The watch starts before the folder is read, so that no change is missed.
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

/// The app's name, derived from the folder's.
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
    /// When the app was first published, in Unix milliseconds: its log is followed from then on.
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
                    // Before the URL is shown: the replica is up and may be called at once.
                    // Only the first round's time counts.
                    let _ = self.live.set(now_ms());
                    self.published.notify_one();
                    deploy::report(self.context, &self.app, &published, begun.elapsed())?;
                    shown = true;
                }
                Err(error) => {
                    error.print();
                    note("The live version stays; the next change tries again");
                }
            }
            // The cause of the failure may lie elsewhere, so saving the same code again retries it.
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
        // A new connection each round: a token minted on this machine expires within a working day.
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

    /// Waits until the code differs from this code or has been saved again.
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
            // A change is under way, perhaps of `.dockerignore`.
            Err(error) => {
                error.print();
                None
            }
        }
    }

    /// Prints the log of the app's replicas, once it is published, until stdout is closed.
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

    /// Cancels the build of the interrupted round.
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
        // There may be no build, or no server.
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
