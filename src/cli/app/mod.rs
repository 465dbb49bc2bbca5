//! `ignite app`: apps and their settings.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    time::Duration,
};

use clap::Subcommand;

use super::{
    Context, Error,
    app_settings::Settings,
    code::CodeWords,
    deploy,
    failure::{note, warn},
    id::AppArg,
    logs,
    output::rows,
    overview, publish, urls,
};
use crate::{api::proto::v1, config::parse_duration};

mod exec;
pub(super) mod hosts;
mod replicas;
mod scale;
mod tables;

use tables::{app_table, created_table, list_table, state_table};

/// What the options of the cloud's autonomous scaling come to here.
pub(super) const NO_AUTONOMY: &str = "is not used: only the cloud scales apps by itself; here --max-replicas, --reserved and --scale-metric decide, and the tier stays as it is";

/// What to do with apps.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create an app; nothing runs before its first publish. Its files are kept unless --storage-mode
    /// says otherwise.
    Create {
        /// The app, as org:app or app.
        id: AppArg,
        #[command(flatten)]
        settings: Box<Settings>,
        #[command(flatten)]
        code: CodeWords,
        #[command(flatten)]
        autonomy: Autonomy,
    },
    /// Show one app.
    Get {
        /// The app, as org:app or app.
        id: AppArg,
    },
    /// List the organization's apps.
    #[command(visible_alias = "ls")]
    List {
        /// The most apps to list [default: all].
        #[arg(long)]
        limit: Option<u32>,
    },
    /// Change settings, and return once requests see the change; settings not given stay as they are.
    Update {
        /// The app, as org:app or app.
        id: AppArg,
        #[command(flatten)]
        settings: Box<Settings>,
        #[command(flatten)]
        autonomy: Autonomy,
        /// Do not wait until replicas with the change serve.
        #[arg(long)]
        no_wait: bool,
    },
    /// Delete an app and its versions.
    #[command(visible_alias = "rm")]
    Delete {
        /// The app, as org:app or app.
        id: AppArg,
        /// Do not ask for confirmation; without a terminal nothing is asked.
        #[arg(short, long)]
        yes: bool,
    },
    /// Show the current state of an app.
    State {
        /// The app, as org:app or app.
        id: AppArg,
    },
    /// Print the logs of an app's replicas, ordered by time.
    Logs(logs::Args),
    /// List an app's replicas, including those in warm standby.
    Replicas {
        /// The app, as org:app or app.
        id: AppArg,
    },
    /// Show what happened to an app: replicas, scaling decisions, failures.
    Events {
        /// The app, as org:app or app.
        id: AppArg,
        /// How many of the newest events to show.
        #[arg(long, default_value_t = 100)]
        limit: u16,
        /// Keep printing new events as they happen.
        #[arg(short, long)]
        follow: bool,
    },
    /// Scale to this many replicas now; the autoscaler continues from there.
    Scale {
        /// The app, as org:app or app.
        id: AppArg,
        /// The number of replicas.
        replicas: u32,
    },
    /// Scale an app without requests to zero now.
    Idle {
        /// The app, as org:app or app.
        id: AppArg,
        /// How deep to put it.
        #[arg(long, value_enum)]
        depth: Option<scale::Depth>,
    },
    /// Wait until an app has a number of ready replicas, or is idle.
    Wait {
        /// The app, as org:app or app.
        id: AppArg,
        /// The number of ready replicas; if left out, wait until the app is idle.
        #[arg(long, conflicts_with = "depth")]
        replicas: Option<u32>,
        /// How deep the app has to be idle.
        #[arg(long, value_enum)]
        depth: Option<scale::Depth>,
        /// The longest wait, such as 30s.
        #[arg(long = "within", default_value = "60s", value_parser = parse_duration)]
        limit: Duration,
    },
    /// Run a command in a ready replica, on the machine that serves; `ignite exec APP -- COMMAND` is
    /// the same. It keeps no replica awake.
    Exec(exec::Args),
    /// Custom host names of an app, beside those below the base domain.
    #[command(subcommand, visible_alias = "hosts")]
    Host(hosts::Command),
    /// Create or update an app, save its code, publish it, and print its URL.
    Deploy(Box<deploy::Args>),
}

/// How the cloud scales an app by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum AutoMode {
    Disabled,
    Enabled,
    TierOnly,
    ScaleOnly,
}

/// The options of the cloud's autonomous scaling.
#[derive(Debug, clap::Args)]
pub(super) struct Autonomy {
    /// How the cloud scales the app by itself; here it changes nothing, as any other --auto-… option.
    #[arg(long, value_enum, ignore_case = true)]
    auto_mode: Option<AutoMode>,
}

impl Autonomy {
    fn warn(&self) {
        if self
            .auto_mode
            .is_some_and(|mode| mode != AutoMode::Disabled)
        {
            note(&format!("warning: --auto-mode {NO_AUTONOMY}"));
        }
    }
}

/// Runs one of the commands.
pub(super) async fn run(context: &Context, command: Command) -> Result<(), Error> {
    match command {
        Command::Create {
            id,
            settings,
            code,
            autonomy,
        } => {
            code.warn();
            autonomy.warn();
            create(context, id, &settings).await
        }
        Command::Get { id } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let got = session.app(&app).await?;
            let table = |_| app_table(got.app.as_ref());
            context.format.print("GetAppResponse", &got, table)?;
            if let Some(public) = got.app.as_ref().and_then(|app| app.public_urls.first()) {
                urls::note_instead(context, &app, public);
            }
            Ok(())
        }
        Command::List { limit } => list(context, limit).await,
        Command::Update {
            id,
            settings,
            autonomy,
            no_wait,
        } => {
            autonomy.warn();
            update(context, id, &settings, no_wait).await
        }
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
        Command::Exec(args) => Box::pin(exec::run(context, args)).await,
        Command::Host(command) => Box::pin(hosts::run(context, command)).await,
        Command::Deploy(args) => Box::pin(deploy::run(context, *args)).await,
    }
}

async fn create(context: &Context, id: AppArg, settings: &Settings) -> Result<(), Error> {
    let app = context.app(id)?;
    let mut request = settings.create(&app)?;
    let session = context.connect(&app.org).await?;
    if request.storage_mode() == v1::StorageMode::Unspecified {
        // As the cloud's client has it.
        request.set_storage_mode(v1::StorageMode::Persistent);
    }
    let created = session.answer(session.client().create_app(request)).await?;
    context
        .format
        .print("CreateAppResponse", &created, |_| created_table(&created))
}

async fn update(
    context: &Context,
    id: AppArg,
    settings: &Settings,
    no_wait: bool,
) -> Result<(), Error> {
    let app = context.app(id)?;
    let nothing = || {
        Error::Usage(
            "nothing to change; give at least one setting (`ignite app update --help`)".to_owned(),
        )
    };
    // What is wrong is told before a server is asked.
    let known = settings.update(&app, &Default::default())?;
    if !settings.has_env() {
        known.ok_or_else(nothing)?;
    }
    let session = context.connect(&app.org).await?;
    let env = match settings.has_env() {
        true => session.app(&app).await?.app.unwrap_or_default().env,
        false => Default::default(),
    };
    let Some(request) = settings.update(&app, &env)? else {
        // The variables are as they should be.
        let got = session.app(&app).await?;
        let table = |_| app_table(got.app.as_ref());
        return context.format.print("GetAppResponse", &got, table);
    };
    let updated = if no_wait {
        let mut client = session.client();
        let updated = session.answer(client.update_app_config(request)).await?;
        warn(&updated.warnings);
        updated
    } else {
        publish::update(context, &session, &app, request).await?
    };
    context
        .format
        .print("UpdateAppConfigResponse", &updated, |_| {
            app_table(updated.app.as_ref())
        })
}

async fn delete(context: &Context, id: AppArg, yes: bool) -> Result<(), Error> {
    let app = context.app(id)?;
    if !yes && !confirm(&format!("{app} with all its versions"))? {
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

/// Reads pages to the end, or up to `limit` apps.
async fn list(context: &Context, limit: Option<u32>) -> Result<(), Error> {
    let org = context.org()?;
    let session = context.connect(&org).await?;
    let all = overview::list(&session, &org, limit).await?;
    context
        .format
        .print("ListAppsResponse", &all, |wide| list_table(&all.apps, wide))?;
    urls::note_list(context, &all.apps);
    Ok(())
}

/// Asks on the terminal, if there is one; any answer but yes means no.
pub(super) fn confirm(what: &str) -> Result<bool, Error> {
    if !io::stdin().is_terminal() {
        return Ok(true);
    }
    let mut err = io::stderr().lock();
    write!(err, "Delete {what}? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
