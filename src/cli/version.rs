//! `ignite version`: what was published, and how to roll back to it.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Subcommand;
use comfy_table::Table;

use super::{
    Context, Error,
    draft::status_name,
    id::AppArg,
    invoke::Sent,
    output::{self, or_dash, plain, rows, table, time},
    pages, publish, test,
};
use crate::api::proto::{local::v1 as local, v1};

/// What to do with versions.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the published versions, newest first.
    #[command(visible_alias = "ls")]
    List {
        /// The app, as org:app or app.
        id: AppArg,
        /// The most versions to list [default: all].
        #[arg(long)]
        limit: Option<u32>,
    },
    /// Show one version.
    Get {
        /// The app, as org:app or app.
        id: AppArg,
        /// The version number.
        #[arg(value_name = "VERSION")]
        number: u32,
    },
    /// Make an earlier version active again, with the settings it was published with, once a
    /// replica of it is ready.
    Rollback {
        /// The app, as org:app or app.
        id: AppArg,
        /// The version number.
        #[arg(value_name = "VERSION")]
        number: u32,
        /// Do not wait for a ready replica; a version that cannot start then replaces one that
        /// worked.
        #[arg(long)]
        no_wait: bool,
    },
    /// Send a request to a version in a separate container and print the answer.
    Test {
        /// The app, as org:app or app.
        id: AppArg,
        /// The version number.
        #[arg(value_name = "VERSION")]
        number: u32,
        #[command(flatten)]
        sent: Sent,
    },
    /// Remove old versions with their code and images; the active one is always kept.
    Prune {
        /// The app, as org:app or app.
        id: AppArg,
        /// How many of the newest versions to keep.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
        /// Only say which would be removed.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the code of a version, or of the draft if no version is given.
    // `--version` is a version of the app here, not of this program.
    #[command(disable_version_flag = true)]
    Code {
        /// The app, as org:app or app.
        id: AppArg,
        /// The version number.
        #[arg(value_name = "VERSION", conflicts_with = "named")]
        number: Option<u32>,
        /// The same number.
        #[arg(long = "version", value_name = "VERSION")]
        named: Option<u32>,
        /// Write the archive or source file to this path.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

/// Runs one of the commands.
pub(super) async fn run(context: &Context, command: Command) -> Result<(), Error> {
    match command {
        Command::List { id, limit } => list(context, id, limit).await,
        Command::Get { id, number } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let request = v1::GetAppVersionRequest {
                organization_name: app.org.to_string(),
                app_name: app.name.to_string(),
                version: number,
            };
            let got = session
                .answer(session.client().get_app_version(request))
                .await?;
            context.format.print("GetAppVersionResponse", &got, |_| {
                version_table(got.version.as_ref())
            })
        }
        Command::Rollback {
            id,
            number,
            no_wait,
        } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let done = publish::roll_back(context, &session, &app, number, no_wait).await?;
            context.format.print("RollbackAppResponse", &done, |_| {
                rows(&[
                    ("active version", done.active_version.to_string()),
                    ("before", done.previous_version.to_string()),
                ])
            })
        }
        Command::Test { id, number, sent } => {
            let app = context.app(id)?;
            Box::pin(test::run(context, &app, Some(number), sent)).await
        }
        Command::Prune { id, keep, dry_run } => prune(context, id, keep, dry_run).await,
        Command::Code {
            id,
            number,
            named,
            to,
        } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let request = v1::GetAppCodeRequest {
                organization_name: app.org.to_string(),
                app_name: app.name.to_string(),
                version: number.or(named).unwrap_or_default(),
            };
            let code = session
                .answer(session.client().get_app_code(request))
                .await?;
            if let Some(to) = to {
                write_code(&code, &to)?;
            }
            context
                .format
                .print("GetAppCodeResponse", &code, |_| code_table(&code))
        }
    }
}

/// Reads pages to the end, or up to `limit` versions.
async fn list(context: &Context, id: AppArg, limit: Option<u32>) -> Result<(), Error> {
    let app = context.app(id)?;
    let session = context.connect(&app.org).await?;
    let mut all = v1::ListAppVersionsResponse::default();
    while let Some(limit) = pages::next_limit(limit, all.versions.len()) {
        let request = v1::ListAppVersionsRequest {
            organization_name: app.org.to_string(),
            app_name: app.name.to_string(),
            limit,
            cursor: std::mem::take(&mut all.next_cursor),
        };
        let page = session
            .answer(session.client().list_app_versions(request))
            .await?;
        all.versions.extend(page.versions);
        all.next_cursor = page.next_cursor;
        if all.next_cursor.is_empty() {
            break;
        }
    }
    context
        .format
        .print("ListAppVersionsResponse", &all, |wide| {
            list_table(&all.versions, wide)
        })
}

async fn prune(context: &Context, id: AppArg, keep: u32, dry_run: bool) -> Result<(), Error> {
    let app = context.app(id)?;
    let session = context.connect(&app.org).await?;
    let request = local::PruneVersionsRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        keep,
        dry_run,
    };
    let mut client = session.versions();
    let pruned = session.answer(client.prune_versions(request)).await?;
    let name = "dodil.ignite.local.v1.PruneVersionsResponse";
    context.format.print(name, &pruned, |_| {
        let numbers: Vec<String> = pruned.removed.iter().map(ToString::to_string).collect();
        let what = if dry_run {
            "would be removed"
        } else {
            "removed"
        };
        rows(&[
            (what, numbers.join(", ")),
            ("left", pruned.kept.to_string()),
        ])
    })
}

fn tier_name(version: &v1::AppVersion) -> String {
    plain(version.resource_tier().as_str_name(), "RESOURCE_TIER")
}

fn runtime(version: &v1::AppVersion) -> &'static str {
    output::runtime(version.runtime.as_ref()).unwrap_or("image")
}

fn list_table(versions: &[v1::AppVersion], wide: bool) -> Table {
    let mut header = vec!["VERSION", "STATUS", "TIER", "IMAGE", "PUBLISHED"];
    if wide {
        header.extend(["RUNTIME", "IMAGE ID", "HASH"]);
    }
    let mut table = table(&header);
    for version in versions {
        let mut row = vec![
            version.version.to_string(),
            status_name(version.status),
            tier_name(version),
            or_dash(&version.image_ref).to_owned(),
            time(version.created_at_ms),
        ];
        if wide {
            row.push(runtime(version).to_owned());
            row.push(version.image_id.clone());
            row.push(version.code_hash.clone());
        }
        table.add_row(row);
    }
    table
}

fn version_table(version: Option<&v1::AppVersion>) -> Table {
    let version = version.cloned().unwrap_or_default();
    let scaling = version.scaling.unwrap_or_default();
    rows(&[
        ("version", version.version.to_string()),
        ("status", status_name(version.status)),
        ("published", time(version.created_at_ms)),
        ("tier", tier_name(&version)),
        ("runtime", runtime(&version).to_owned()),
        (
            "replicas",
            format!("{}-{}", scaling.reserved_capacity(), scaling.max_replicas()),
        ),
        ("image", version.image_ref.clone()),
        ("image id", version.image_id.clone()),
        ("hash", version.code_hash.clone()),
    ])
}

/// Writes the code to a new file; an existing one is not overwritten.
fn write_code(answer: &v1::GetAppCodeResponse, to: &Path) -> Result<(), Error> {
    use v1::{code_source::Source, image_source};
    let bytes = match answer.code.as_ref().and_then(|c| c.source.as_ref()) {
        Some(Source::Compile(compile)) => &compile.source_code,
        Some(Source::Image(v1::ImageSource {
            source: Some(image_source::Source::FromCode(code)),
            ..
        })) => &code.archive,
        _ => {
            return Err(Error::Usage(
                "this code is an image or a repository, not an archive that can be written to a file"
                    .to_owned(),
            ));
        }
    };
    let written = std::fs::File::create_new(to).and_then(|mut f| f.write_all(bytes));
    written
        .with_context(|| format!("cannot write {}", to.display()))
        .map_err(Error::Other)
}

fn code_table(answer: &v1::GetAppCodeResponse) -> Table {
    use v1::{code_source::Source, image_source};
    let belongs_to = match answer.version {
        0 => "draft".to_owned(),
        n => format!("version {n}"),
    };
    let mut all = vec![
        ("code of", belongs_to),
        ("kind", plain(answer.code_kind().as_str_name(), "CODE_KIND")),
    ];
    if let Some(Source::Image(image)) = answer.code.as_ref().and_then(|c| c.source.as_ref()) {
        match &image.source {
            Some(image_source::Source::Prebuilt(prebuilt)) => {
                all.push(("image", prebuilt.image_ref.clone()));
            }
            Some(image_source::Source::FromCode(code)) => {
                all.push(("archive", format!("{} bytes", code.archive.len())));
            }
            Some(image_source::Source::FromGit(git)) => {
                all.push(("repository", git.url.clone()));
                all.push(("ref", git.r#ref.clone()));
            }
            None => {}
        }
        if !image.registry_secret_ref.is_empty() {
            all.push(("registry secret", image.registry_secret_ref.clone()));
        }
    }
    if let Some(Source::Compile(compile)) = answer.code.as_ref().and_then(|c| c.source.as_ref()) {
        all.push(("source", format!("{} bytes", compile.source_code.len())));
    }
    all.push(("hash", answer.code_hash.clone()));
    rows(&all)
}
