//! `ignite app`: apps and their settings.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    time::Duration,
};

use clap::Subcommand;

use super::{
    Context, Error,
    app_settings::Settings,
    deploy,
    failure::{note, warn},
    id::AppArg,
    logs,
    output::rows,
};
use crate::{api::proto::v1, config::parse_duration, model::AppId};

mod replicas;
mod scale;
mod tables;

use tables::{app_table, created_table, list_table, state_table};

/// What to do with apps.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create an app; it runs nothing before the first publish.
    Create {
        /// The app, as org:app or app.
        id: AppArg,
        #[command(flatten)]
        settings: Settings,
    },
    /// Show one app.
    Get {
        /// The app, as org:app or app.
        id: AppArg,
    },
    /// List the organization's apps.
    #[command(visible_alias = "ls")]
    List {
        /// Most apps to list; all when left out.
        #[arg(long)]
        limit: Option<u32>,
    },
    /// Change settings; what is not named stays as it is.
    Update {
        /// The app, as org:app or app.
        id: AppArg,
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete an app with its versions.
    #[command(visible_alias = "rm")]
    Delete {
        /// The app, as org:app or app.
        id: AppArg,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Show what an app is doing now.
    State {
        /// The app, as org:app or app.
        id: AppArg,
    },
    /// Print what an app's replicas wrote, by time.
    Logs(logs::Args),
    /// List an app's replicas, those in warm standby included.
    Replicas {
        /// The app, as org:app or app.
        id: AppArg,
    },
    /// Show what happened to an app: replicas, scaling decisions, failures.
    Events {
        /// The app, as org:app or app.
        id: AppArg,
        /// How many of the newest.
        #[arg(long, default_value_t = 100)]
        limit: u16,
        /// Go on with those that happen from now on.
        #[arg(short, long)]
        follow: bool,
    },
    /// Have so many replicas run now; the autoscaler goes on from there.
    Scale {
        /// The app, as org:app or app.
        id: AppArg,
        /// How many.
        replicas: u32,
    },
    /// Put an app that nobody asks to zero now.
    Idle {
        /// The app, as org:app or app.
        id: AppArg,
        /// How deep.
        #[arg(long, value_enum)]
        depth: Option<scale::Depth>,
    },
    /// Wait until an app has so many replicas, or is idle.
    Wait {
        /// The app, as org:app or app.
        id: AppArg,
        /// How many ready replicas; without it, wait until the app is idle.
        #[arg(long, conflicts_with = "depth")]
        replicas: Option<u32>,
        /// How deep it has to be idle.
        #[arg(long, value_enum)]
        depth: Option<scale::Depth>,
        /// Longest wait, such as 30s.
        #[arg(long = "within", default_value = "60s", value_parser = parse_duration)]
        limit: Duration,
    },
    /// Create or update an app, save its code, publish it, and print its URL.
    Deploy(Box<deploy::Args>),
}

/// Runs one of the commands.
pub(super) async fn run(context: &Context, command: Command) -> Result<(), Error> {
    match command {
        Command::Create { id, settings } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let created = session
                .answer(session.client().create_app(settings.create(&app)))
                .await?;
            context
                .format
                .print("CreateAppResponse", &created, |_| created_table(&created))
        }
        Command::Get { id } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let got = session.app(&app).await?;
            context
                .format
                .print("GetAppResponse", &got, |_| app_table(got.app.as_ref()))
        }
        Command::List { limit } => list(context, limit).await,
        Command::Update { id, settings } => update(context, id, settings).await,
        Command::Delete { id, yes } => delete(context, id, yes).await,
        Command::State { id } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let request = v1::GetAppStateRequest {
                organization_name: app.org.to_string(),
                app_name: app.name.to_string(),
            };
            let state = session
                .answer(session.client().get_app_state(request))
                .await?;
            context
                .format
                .print("GetAppStateResponse", &state, |_| state_table(&state))
        }
        Command::Logs(args) => Box::pin(logs::run(context, args)).await,
        Command::Replicas { id } => replicas::list(context, id).await,
        Command::Events { id, limit, follow } => replicas::events(context, id, limit, follow).await,
        Command::Scale { id, replicas } => scale::scale(context, id, replicas).await,
        Command::Idle { id, depth } => scale::idle(context, id, depth).await,
        Command::Wait {
            id,
            replicas,
            depth,
            limit,
        } => scale::wait(context, id, replicas, depth, limit).await,
        Command::Deploy(args) => Box::pin(deploy::run(context, *args)).await,
    }
}

async fn update(context: &Context, id: AppArg, settings: Settings) -> Result<(), Error> {
    let app = context.app(id)?;
    let request = settings.update(&app).ok_or_else(|| {
        Error::Usage(
            "nothing to change; name at least one setting (`ignite app update --help`)".to_owned(),
        )
    })?;
    let session = context.connect(&app.org).await?;
    let updated = session
        .answer(session.client().update_app_config(request))
        .await?;
    warn(&updated.warnings);
    context
        .format
        .print("UpdateAppConfigResponse", &updated, |_| {
            app_table(updated.app.as_ref())
        })
}

async fn delete(context: &Context, id: AppArg, yes: bool) -> Result<(), Error> {
    let app = context.app(id)?;
    if !yes && !confirm(&app)? {
        note("nothing was deleted");
        return Ok(());
    }
    let session = context.connect(&app.org).await?;
    let request = v1::DeleteAppRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
    };
    let deleted = session.answer(session.client().delete_app(request)).await?;
    context.format.print("DeleteAppResponse", &deleted, |_| {
        rows(&[("deleted", deleted.app_id.clone())])
    })
}

/// Follows the pages to the end, or to `limit` apps.
async fn list(context: &Context, limit: Option<u32>) -> Result<(), Error> {
    let org = context.org()?;
    let session = context.connect(&org).await?;
    let mut all = v1::ListAppsResponse::default();
    loop {
        let left = limit
            .map(|limit| limit.saturating_sub(u32::try_from(all.apps.len()).unwrap_or(u32::MAX)));
        let request = v1::ListAppsRequest {
            organization_name: org.to_string(),
            // 0 leaves the size of a page to the server.
            limit: left.map_or(0, |left| i32::try_from(left.min(1000)).unwrap_or(1000)),
            cursor: std::mem::take(&mut all.next_cursor),
        };
        if left == Some(0) {
            all.next_cursor = request.cursor;
            break;
        }
        let page = session.answer(session.client().list_apps(request)).await?;
        all.apps.extend(page.apps);
        all.next_cursor = page.next_cursor;
        if all.next_cursor.is_empty() {
            break;
        }
    }
    context
        .format
        .print("ListAppsResponse", &all, |wide| list_table(&all.apps, wide))
}

/// Asks on the terminal; anything but yes is no.
fn confirm(app: &AppId) -> Result<bool, Error> {
    if !io::stdin().is_terminal() {
        return Err(Error::Usage(format!(
            "deleting {app} cannot be undone, and there is no terminal to ask on; say --yes"
        )));
    }
    let mut err = io::stderr().lock();
    write!(err, "Delete {app} with all its versions? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
