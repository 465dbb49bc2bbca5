//! `ignite dev`: keeps a folder live at one URL while its files change.
//!
//! Each change of the files to send starts a round: save, build, publish. Where an interpreter reads
//! the code, and the server allows it, changed files are laid over the image instead of a build
//! (`round.rs`). A change during a round starts the next round at once, and saving the newer code
//! cancels the older build. A failed round says why and leaves the live version in place; a round
//! that finds no server is tried until there is one. Files that are not sent and writes that change
//! nothing start no round.
//!
//! | File | Holds |
//! | --- | --- |
//! | `mod.rs` | The command, and the order of rounds |
//! | `round.rs` | One round |
//! | `files.rs` | Which files differ from those in the image |
//! | `watch.rs` | Changes in the folder |

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
    code::{Code, How, Source},
    deploy,
    failure::note,
    id::AppArg,
    logs, output, urls,
};
use crate::{
    api::proto::{local::v1 as local, v1},
    clock::now_ms,
    model::AppId,
};

mod files;
mod round;
mod watch;

use round::State;
use watch::Watch;

/// Delay before a broken log stream is opened again.
const LOG_RETRY: Duration = Duration::from_secs(1);
/// Delay before a round that found no server is tried again.
const AWAY_RETRY: Duration = Duration::from_secs(1);
/// The longest time that ending what is under way may delay the exit.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// Which folder becomes which app, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder.
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// The app, as org:app or app, created if it does not exist [default: the folder's name].
    #[arg(long, value_name = "ID")]
    app: Option<AppArg>,
    /// Have a new app ask for a token, as apps do, where nobody but this machine reaches the server.
    #[arg(long, conflicts_with = "allow_unauthenticated")]
    closed: bool,
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
        closed: args.closed,
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
    tokio::select! {
        () = dev.leave() => {}
        // Whoever asks twice does not want to wait.
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
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
    closed: bool,
    /// When the app was first published, in Unix milliseconds: its log is followed from then on.
    live: OnceLock<i64>,
    published: Notify,
}

impl Dev<'_> {
    /// Runs rounds until stdout is closed; fails if the folder cannot be read at the start.
    async fn rounds(&self) -> Result<(), Error> {
        let mut code = self.source.save(&self.app)?;
        code.explain();
        let mut state = State::default();
        let (mut shown, mut away) = (None, false);
        loop {
            let begun = Instant::now();
            let seen = self.source.changed_at();
            let done = tokio::select! {
                done = self.round(&code, &mut state) => done,
                newer = self.wait_for_newer(&code, None) => {
                    if !away {
                        note("Changed meanwhile; starting again");
                    }
                    code = newer;
                    continue;
                }
            };
            if let Err(error) = &done
                && error.is_away()
            {
                if !away {
                    error.print();
                    note("Waiting for the server; what is saved meanwhile is made up");
                }
                away = true;
                state.doubt();
                sleep(AWAY_RETRY).await;
                code = self.read_if_newer(&code, None).unwrap_or(code);
                continue;
            }
            away = false;
            let failed = done.is_err();
            match done {
                Ok(published) if published.public_urls.first() == shown.as_ref() => {
                    deploy::note_live_version(&self.app, &published, begun.elapsed())
                }
                Ok(published) => {
                    // Before the URL is shown: the replica is up and may be called at once.
                    // Only the first round's time counts.
                    let _ = self.live.set(now_ms());
                    self.published.notify_one();
                    // Again, where a server that was started anew has another port.
                    shown = published.public_urls.first().cloned();
                    self.report(published, begun.elapsed()).await?;
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

    /// Notes which version is live, and prints a URL that this machine can open.
    async fn report(
        &self,
        mut published: v1::PublishDraftResponse,
        took: Duration,
    ) -> Result<(), Error> {
        if let Some(first) = published.public_urls.first_mut()
            && let Some(by_path) = urls::instead(self.context, &self.app, first)
        {
            note(&format!(
                "{first} does not resolve on this machine; so by path:"
            ));
            *first = by_path;
        }
        deploy::report(self.context, &self.app, &published, took)?;
        if matches!(
            self.context.format,
            output::Format::Table | output::Format::Wide
        ) {
            self.say_who_may_call().await;
        }
        Ok(())
    }

    /// Says whether the URL asks for a token.
    async fn say_who_may_call(&self) {
        let Ok(session) = self.context.connect(&self.app.org).await else {
            return;
        };
        let open = session.app(&self.app).await.ok().and_then(|got| got.app);
        let (org, name) = (&self.app.org, &self.app.name);
        match open.map(|app| app.allow_unauthenticated) {
            Some(true) => note(&format!(
                "It asks for no token; `ignite app update {org}:{name} --allow-unauthenticated=false` closes it"
            )),
            Some(false) => note(&format!(
                "It asks for a token; `ignite app update {org}:{name} --allow-unauthenticated` opens it, `ignite invoke {org}:{name}` brings one"
            )),
            None => {}
        }
    }

    /// Waits until the code differs from this code or has been saved again.
    async fn wait_for_newer(&self, code: &Code, since: Option<SystemTime>) -> Code {
        loop {
            self.watch.changed().await;
            if let Some(newer) = self.read_if_newer(code, since) {
                return newer;
            }
        }
    }

    fn read_if_newer(&self, code: &Code, since: Option<SystemTime>) -> Option<Code> {
        match self.source.save(&self.app) {
            Ok(now) => {
                let again = since.is_some_and(|since| self.source.changed_at() > Some(since));
                (again || now.request != code.request).then_some(now)
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

    /// Ends what the session has under way: build, publish and replicas.
    async fn leave(&self) {
        let app = &self.app;
        let (org, name) = (&app.org, &app.name);
        note(&format!(
            "\n{app} stays published and starts when it is called; `ignite app delete {org}:{name}` removes it"
        ));
        let end = async {
            let session = self.context.connect(org).await?;
            let (organization_name, app_name) = self.names();
            let stop = local::StopDevRequest {
                organization_name: organization_name.clone(),
                app_name: app_name.clone(),
            };
            session.answer(session.dev().stop_dev(stop)).await?;
            let idle = local::IdleAppRequest {
                organization_name,
                app_name,
                depth: local::Depth::Absent.into(),
            };
            session.answer(session.scaling().idle_app(idle)).await
        };
        // There may be no server, or somebody may be calling the app.
        let _ = timeout(LEAVE_LIMIT, end).await;
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
