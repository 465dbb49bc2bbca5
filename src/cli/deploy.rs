//! `ignite app deploy`: from code or an image to a URL in one go.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use tokio::time::Instant;
use tonic::Code;

use super::{
    Context, Error,
    app::hosts,
    app_settings::Settings,
    build::Lines,
    code::Source,
    context::Session,
    failure::{note, warn},
    id::AppArg,
    output, publish,
    spinner::spinner,
    urls,
};
use crate::{api::proto::v1, model::AppId};

/// What to deploy, and with which settings.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The app, as org:app or app; created if it does not exist.
    id: AppArg,
    #[command(flatten)]
    pub(super) source: Source,
    #[command(flatten)]
    pub(super) settings: Settings,
    /// A host name for the app, beside those that it has; repeatable.
    #[arg(long = "host", value_name = "NAME")]
    pub(super) hosts: Vec<String>,
    /// Show the build's log on stderr; an existing image has none.
    #[arg(long)]
    follow: bool,
    /// Publish without waiting for a ready replica; a version that cannot start then replaces one
    /// that worked.
    #[arg(long)]
    no_wait: bool,
}

/// Creates or updates the app, saves, builds and publishes the code, and prints only the primary
/// URL on stdout.
pub(super) async fn run(context: &Context, args: Args) -> Result<(), Error> {
    let app = context.app(args.id)?;
    let begun = Instant::now();
    // First, so that no app is created for code that cannot be read.
    let code = args.source.save(&app)?;
    code.explain();
    args.settings.create(&app)?;
    let session = context.connect(&app.org).await?;

    let created = configure(&session, &app, &args.settings, &args.settings).await?;
    let work = async {
        // Before the code is built: a name that is taken costs no build.
        let mut urls = Vec::new();
        for host in args.hosts {
            let added = hosts::add(&session, &app, host).await?;
            urls.extend(added.host.map(|host| host.url));
        }
        self::save(&session, &args.source, code.request).await?;
        let lines = if args.follow {
            Lines::Beside
        } else {
            Lines::Hidden
        };
        let build = args.source.is_built().then_some(lines);
        let published =
            publish::build_and_publish(context, &session, &app, build, args.no_wait).await?;
        Ok((published, urls))
    };
    let (published, urls) = Box::pin(created.or_remove(&session, &app, work)).await?;
    for url in urls {
        note(&format!("also at {url}"));
    }
    report(context, &app, &published, begun.elapsed())
}

/// Whether a command has made the app that it publishes to.
pub(super) struct Created(bool);

impl Created {
    /// The app was there before.
    pub(super) fn before() -> Self {
        Self(false)
    }

    /// Does the work that ends with a publish. If it fails, an app that was made for it and has no
    /// version goes again: it would be an empty one, in the way of the next try with other settings.
    ///
    /// # Errors
    /// Those of the work.
    pub(super) async fn or_remove<T>(
        self,
        session: &Session,
        app: &AppId,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let failed = match work.await {
            Err(error) if self.0 => error,
            done => return done,
        };
        let is_empty = match session.app(app).await {
            // A publish that was begun goes on at the server.
            Ok(got) => got.app.is_some_and(|app| {
                app.active_version == 0 && app.deployment_state() == v1::DeploymentState::Created
            }),
            Err(_) => false,
        };
        if is_empty {
            match delete(session, app).await {
                Ok(()) => note(&format!("{app} was made for this, and is removed again")),
                Err(error) => note(&format!(
                    "{app} stays without a version: {}",
                    error.message()
                )),
            }
        }
        Err(failed)
    }
}

/// Saves code as the draft.
pub(super) async fn save(
    session: &Session,
    source: &Source,
    save: v1::SaveDraftRequest,
) -> Result<(), Error> {
    let mut client = session.client();
    let saved = session.answer(client.save_draft(save));
    step(&format!("Saving the draft with {}", source.name()), saved).await?;
    Ok(())
}

/// Deletes an app.
pub(super) async fn delete(session: &Session, app: &AppId) -> Result<(), Error> {
    let request = v1::DeleteAppRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
    };
    session.answer(session.client().delete_app(request)).await?;
    Ok(())
}

/// Creates the app with the first settings, or changes what the second ones give.
pub(super) async fn configure(
    session: &Session,
    app: &AppId,
    new: &Settings,
    changed: &Settings,
) -> Result<Created, Error> {
    let meta = match session.app(app).await {
        Err(e) if e.code() == Some(Code::NotFound) => {
            return create(session, app, new).await;
        }
        got => got?.app.unwrap_or_default(),
    };
    if let Some(update) = changed.update(app, &meta.env)? {
        change(session, app, update).await?;
    }
    Ok(Created(false))
}

/// Creates the app.
pub(super) async fn create(
    session: &Session,
    app: &AppId,
    settings: &Settings,
) -> Result<Created, Error> {
    let mut client = session.client();
    let created = session.answer(client.create_app(settings.create(app)?));
    step(&format!("Creating {app}"), created).await?;
    Ok(Created(true))
}

/// Changes settings, for a publish that follows.
pub(super) async fn change(
    session: &Session,
    app: &AppId,
    request: v1::UpdateAppConfigRequest,
) -> Result<(), Error> {
    let mut client = session.client();
    let updated = session.answer(client.update_app_config(request));
    let updated = step(&format!("Updating {app}"), updated).await?;
    warn(&updated.warnings);
    Ok(())
}

/// Notes on stderr which version is live.
pub(super) fn note_live_version(app: &AppId, published: &v1::PublishDraftResponse, took: Duration) {
    let version = published.version.as_ref().map_or(0, |v| v.version);
    note(&format!(
        "{app} is at version {version}, after {}",
        for_people(took)
    ));
}

/// Notes which version is live, and prints its URL.
pub(super) fn report(
    context: &Context,
    app: &AppId,
    published: &v1::PublishDraftResponse,
    took: Duration,
) -> Result<(), Error> {
    note_live_version(app, published, took);
    match context.format {
        output::Format::Json | output::Format::Yaml => context
            .format
            .print_value(&output::dynamic("PublishDraftResponse", published)?),
        output::Format::Table | output::Format::Wide => {
            let (first, more) = match published.public_urls.as_slice() {
                [first, more @ ..] => (first, more),
                [] => return Ok(()),
            };
            for url in more {
                note(&format!("also at {url}"));
            }
            output::line(first)?;
            urls::note_instead(context, app, first);
            Ok(())
        }
    }
}

/// Shows a step and its duration on stderr; a terminal also shows it while it runs.
async fn step<T>(what: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let begun = Instant::now();
    let live = io::stderr().is_terminal();
    let spinner = spinner(what.to_owned(), live);
    if !live {
        note(&format!("{what} …"));
    }
    let done = work.await;
    spinner.finish_and_clear();
    if live {
        let end = if done.is_ok() { "" } else { ", failed" };
        note(&format!("{what} … {}{end}", for_people(begun.elapsed())));
    }
    done
}

/// A duration for people: milliseconds up to a second, then tenths of a second.
fn for_people(time: Duration) -> String {
    match time.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}
