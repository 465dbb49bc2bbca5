//! `ignite draft`: the code that the next publish makes a version of.

use clap::Subcommand;
use comfy_table::Table;
use tonic::Code;

use super::{
    Context, Error,
    app_settings::Schemas,
    build::{self, Interrupt, Lines},
    code::Source,
    context::Session,
    failure::{note, warn},
    id::AppArg,
    invoke::Sent,
    output::{self, Format, plain, rows, time},
    publish, test, urls,
};
use crate::{api::proto::v1, model::AppId};

/// What to do with a draft.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Save code as the draft, replacing the previous one.
    Save(Box<Save>),
    /// Show the draft.
    #[command(visible_alias = "status")]
    Info {
        /// The app, as org:app or app.
        id: AppArg,
    },
    /// Build the draft into an image.
    Compile {
        /// The app, as org:app or app.
        id: AppArg,
        /// Print the build's log and wait for its end.
        #[arg(short, long)]
        follow: bool,
    },
    /// Print the log of the draft's build; follow it while the build is running.
    CompileLogs {
        /// The app, as org:app or app.
        id: AppArg,
        /// A build other than the draft's latest.
        #[arg(long, value_name = "ID")]
        build: Option<String>,
    },
    /// Cancel the running build of the draft.
    Cancel {
        /// The app, as org:app or app.
        id: AppArg,
    },
    /// Send a request to the draft in a separate container and print the answer.
    Test {
        /// The app, as org:app or app.
        id: AppArg,
        #[command(flatten)]
        sent: Sent,
    },
    /// Make the draft the active version once a replica of it is ready.
    Publish {
        /// The app, as org:app or app.
        id: AppArg,
        /// Do not wait for a ready replica; a version that cannot start then replaces one that
        /// worked.
        #[arg(long)]
        no_wait: bool,
    },
}

/// The code, and what is said with it.
#[derive(Debug, clap::Args)]
pub(super) struct Save {
    /// The app, as org:app or app.
    id: AppArg,
    #[command(flatten)]
    source: Source,
    /// A package that the code needs; repeatable. Not used: the code lists its packages itself.
    #[arg(short, long = "dependency", value_name = "PACKAGE")]
    dependencies: Vec<String>,
    #[command(flatten)]
    schemas: Schemas,
}

/// Runs one of the commands.
pub(super) async fn run(context: &Context, command: Command) -> Result<(), Error> {
    match command {
        Command::Save(save) => Box::pin(self::save(context, *save)).await,
        Command::Info { id } => show(context, id).await,
        Command::Compile { id, follow } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let started = build::start(&session, &app).await?;
            if follow {
                let id = &started.deploy_id;
                return build::follow(context, &session, &app, id, Lines::Data, Interrupt::Leaves)
                    .await;
            }
            context.format.print("CompileDraftResponse", &started, |_| {
                draft_table(started.draft.as_ref())
            })
        }
        Command::CompileLogs { id, build } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let build = match build {
                Some(build) => build,
                None => last_build(&session, &app).await?,
            };
            build::follow(
                context,
                &session,
                &app,
                &build,
                Lines::Data,
                Interrupt::Leaves,
            )
            .await
        }
        Command::Cancel { id } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let draft = build::cancel(&session, &app).await?;
            context
                .format
                .print("DraftInfo", &draft, |_| draft_table(Some(&draft)))
        }
        Command::Test { id, sent } => {
            let app = context.app(id)?;
            Box::pin(test::run(context, &app, None, sent)).await
        }
        Command::Publish { id, no_wait } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let published = publish::publish(context, &session, &app, no_wait).await?;
            let table = |_| published_table(&published);
            context
                .format
                .print("PublishDraftResponse", &published, table)?;
            if let Some(public) = published.public_urls.first() {
                urls::note_instead(context, &app, public);
            }
            Ok(())
        }
    }
}

/// Saves the code, then sets the schemas, which hold for the version that serves, too.
async fn save(context: &Context, save: Save) -> Result<(), Error> {
    let app = context.app(save.id)?;
    let code = save.source.save(&app)?;
    code.explain();
    let update = save.schemas.update(&app)?;
    let session = context.connect(&app.org).await?;
    if !save.dependencies.is_empty() {
        note(
            "warning: --dependency is not used: list packages in the code, in requirements.txt, deno.json, go.mod or Cargo.toml",
        );
    }
    let saved = session
        .answer(session.client().save_draft(code.request))
        .await?;
    if let Some(update) = update {
        let mut client = session.client();
        let updated = session.answer(client.update_app_config(update));
        let updated = updated.await.inspect_err(|_| {
            note(&format!(
                "the draft of {app} is saved, and its schemas are not set"
            ));
        })?;
        warn(&updated.warnings);
    }
    context.format.print("SaveDraftResponse", &saved, |_| {
        draft_table(saved.draft.as_ref())
    })
}

async fn show(context: &Context, id: AppArg) -> Result<(), Error> {
    let app = context.app(id)?;
    let session = context.connect(&app.org).await?;
    let info = match info(&session, &app).await {
        Err(e) if e.code() == Some(Code::NotFound) => {
            // The app, or its draft?
            session.app(&app).await?;
            return no_draft(context.format);
        }
        info => info?,
    };
    context.format.print("GetDraftInfoResponse", &info, |_| {
        draft_table(info.draft.as_ref())
    })
}

/// What the cloud's client prints of an app without a draft, in any format.
fn no_draft(format: Format) -> Result<(), Error> {
    let none = serde_json::json!({ "status": "no draft" });
    match format {
        Format::Yaml => format.print_value(&none),
        Format::Table | Format::Wide | Format::Json => output::line(&none.to_string()),
    }
}

async fn info(session: &Session, app: &AppId) -> Result<v1::GetDraftInfoResponse, Error> {
    let request = v1::GetDraftInfoRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
    };
    session
        .answer(session.client().get_draft_info(request))
        .await
}

async fn last_build(session: &Session, app: &AppId) -> Result<String, Error> {
    let draft = info(session, app).await?.draft.unwrap_or_default();
    if !draft.deploy_id.is_empty() {
        Ok(draft.deploy_id)
    } else {
        Err(Error::Usage(format!(
            "the draft of {app} has not been built; `ignite draft compile {}:{}` builds it",
            app.org, app.name
        )))
    }
}

/// The status of a draft or version, for people.
pub(super) fn status_name(status: i32) -> String {
    plain(
        v1::VersionStatus::try_from(status)
            .unwrap_or_default()
            .as_str_name(),
        "VERSION_STATUS",
    )
}

fn draft_table(draft: Option<&v1::DraftInfo>) -> Table {
    let draft = draft.cloned().unwrap_or_default();
    let kind = v1::CodeKind::try_from(draft.code_kind).unwrap_or_default();
    let mut all = vec![
        ("status", status_name(draft.status)),
        ("kind", plain(kind.as_str_name(), "CODE_KIND")),
        ("image", draft.image_ref),
        ("hash", draft.code_hash),
        ("saved", time(draft.created_at_ms)),
    ];
    if !draft.deploy_id.is_empty() {
        all.push(("build", draft.deploy_id));
    }
    if !draft.error.is_empty() {
        all.push(("error", draft.error));
    }
    rows(&all)
}

fn published_table(published: &v1::PublishDraftResponse) -> Table {
    let version = published.version.clone().unwrap_or_default();
    let mut all = vec![
        ("version", version.version.to_string()),
        ("status", status_name(version.status)),
        ("image", version.image_ref),
        ("image id", version.image_id),
    ];
    all.extend(published.public_urls.iter().map(|url| ("url", url.clone())));
    rows(&all)
}
