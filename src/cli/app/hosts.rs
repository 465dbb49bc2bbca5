//! `ignite app host`: host names that an app is given.

use clap::Subcommand;

use super::super::{
    Context, Error,
    context::Session,
    id::AppArg,
    output::{rows, table},
};
use crate::{api::proto::local::v1, model::AppId};

/// What to do with the host names of an app.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// Give an app a host name; its DNS entry has to lead to this server.
    Add {
        /// The app, as org:app or app.
        id: AppArg,
        /// The name, such as shop.example.com.
        host: String,
    },
    /// List the host names that an app was given.
    #[command(visible_alias = "ls")]
    List {
        /// The app, as org:app or app.
        id: AppArg,
    },
    /// Take a host name from an app.
    #[command(visible_alias = "rm")]
    Remove {
        /// The app, as org:app or app.
        id: AppArg,
        /// The name.
        host: String,
    },
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Error> {
    match command {
        Command::Add { id, host } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let added = add(&session, &app, host).await?;
            let name = "dodil.ignite.local.v1.AddHostResponse";
            context.format.print(name, &added, |_| {
                let host = added.host.clone().unwrap_or_default();
                rows(&[("host", host.host), ("url", host.url)])
            })
        }
        Command::List { id } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let request = v1::ListHostsRequest {
                organization_name: app.org.to_string(),
                app_name: app.name.to_string(),
            };
            let listed = session.answer(session.hosts().list_hosts(request)).await?;
            let name = "dodil.ignite.local.v1.ListHostsResponse";
            context.format.print(name, &listed, |_| {
                let mut table = table(&["HOST", "URL"]);
                for host in &listed.hosts {
                    table.add_row([&host.host, &host.url]);
                }
                table
            })
        }
        Command::Remove { id, host } => {
            let app = context.app(id)?;
            let session = context.connect(&app.org).await?;
            let request = v1::RemoveHostRequest {
                organization_name: app.org.to_string(),
                app_name: app.name.to_string(),
                host,
            };
            let removed = session.answer(session.hosts().remove_host(request)).await?;
            let name = "dodil.ignite.local.v1.RemoveHostResponse";
            let table = |_| rows(&[("removed", removed.host.clone())]);
            context.format.print(name, &removed, table)
        }
    }
}

/// Gives an app a host name.
pub(in crate::cli) async fn add(
    session: &Session,
    app: &AppId,
    host: String,
) -> Result<v1::AddHostResponse, Error> {
    let request = v1::AddHostRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        host,
    };
    session.answer(session.hosts().add_host(request)).await
}
