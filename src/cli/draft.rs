//! `ignite draft`: the code that the next publish makes a version of.

use clap::Subcommand;
use comfy_table::Table;

use super::{
    Context, Error,
    id::AppArg,
    invoke::Sent,
    output::{plain, rows, time},
    test,
};
use crate::{api::proto::v1, model::AppId};

/// What to do with a draft.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Save code as the draft, over the one that was there.
    Save {
        /// The app, as org:app or app.
        id: AppArg,
        #[command(flatten)]
        source: Source,
    },
    /// Show the draft.
    #[command(visible_alias = "status")]
    Info {
        /// The app, as org:app or app.
        id: AppArg,
    },
    /// Send a request to the draft in a container of its own and print the answer.
    Test {
        /// The app, as org:app or app.
        id: AppArg,
        #[command(flatten)]
        sent: Sent,
    },
    /// Make the draft the active version.
    Publish {
        /// The app, as org:app or app.
        id: AppArg,
    },
}

/// Where the code comes from.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// An image that exists: a tag or id on the server's machine, or a reference to pull.
    #[arg(long, value_name = "REFERENCE")]
    image_ref: String,
    /// The secret to pull the image with.
    #[arg(long, value_name = "NAME")]
    registry_secret_ref: Option<String>,
}

impl Source {
    /// The image, for people.
    pub(super) fn image(&self) -> &str {
        &self.image_ref
    }

    /// The request that saves this code as the app's draft.
    pub(super) fn save(&self, app: &AppId) -> v1::SaveDraftRequest {
        let image = v1::ImageSource {
            source: Some(v1::image_source::Source::Prebuilt(v1::PrebuiltImage {
                image_ref: self.image_ref.clone(),
            })),
            registry_secret_ref: self.registry_secret_ref.clone().unwrap_or_default(),
        };
        v1::SaveDraftRequest {
            organization_name: app.org.to_string(),
            app_name: app.name.to_string(),
            code: Some(v1::CodeSource {
                source: Some(v1::code_source::Source::Image(image)),
            }),
        }
    }
}

/// Runs one of the commands.
pub(super) async fn run(context: &Context, command: Command) -> Result<(), Error> {
    match command {
        Command::Save { id, source } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let saved = session
                .answer(session.client().save_draft(source.save(&app)))
                .await?;
            context.format.print("SaveDraftResponse", &saved, |_| {
                draft_table(saved.draft.as_ref())
            })
        }
        Command::Info { id } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let request = v1::GetDraftInfoRequest {
                organization_name: app.org.to_string(),
                app_name: app.name.to_string(),
            };
            let info = session
                .answer(session.client().get_draft_info(request))
                .await?;
            context.format.print("GetDraftInfoResponse", &info, |_| {
                draft_table(info.draft.as_ref())
            })
        }
        Command::Test { id, sent } => {
            let app = context.app(id)?;
            Box::pin(test::run(context, &app, None, sent)).await
        }
        Command::Publish { id } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let request = v1::PublishDraftRequest {
                organization_name: app.org.to_string(),
                app_name: app.name.to_string(),
            };
            let published = session
                .answer(session.client().publish_draft(request))
                .await?;
            context
                .format
                .print("PublishDraftResponse", &published, |_| {
                    published_table(&published)
                })
        }
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
