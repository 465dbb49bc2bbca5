//! The program under the name `dodil`: the command lines of the cloud's client, as far as what they
//! are about is here.
//!
//! `dodil ignite …` is `ignite …`; `dodil login`, `dodil config` and `dodil auth` work on the same
//! configuration and the same server.

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

use super::{
    Error, block_on, configure,
    context::{self, Context, Global},
    ended,
    failure::note,
    login, output,
    parse::CommandLine,
    service_account as accounts,
};
use crate::{
    config::process_env,
    identity::accounts::Granted,
    model::{self, AccountName, OrgName},
};

/// The service whose roles are granted here; those of others are the cloud's.
const OWN_SERVICE: &str = "ignite-authorization-service";

/// The cloud's command line, for a server on this machine or elsewhere: ignite, login, auth.
#[derive(Debug, Parser)]
#[command(name = "dodil", version, propagate_version = true)]
pub(super) struct Line {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

impl CommandLine for Line {
    fn global(&mut self) -> &mut Global {
        &mut self.global
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All that `ignite` does.
    #[command(subcommand)]
    Ignite(Box<super::Command>),
    /// Keep a service account, or a token, for the commands that follow.
    Login(login::Args),
    /// The client's own configuration.
    #[command(subcommand)]
    Config(configure::Command),
    /// Who may call.
    #[command(subcommand)]
    Auth(Auth),
    #[command(external_subcommand)]
    Elsewhere(Vec<OsString>),
}

#[derive(Debug, Subcommand)]
enum Auth {
    /// Where the API is, and how this client is known there.
    Status,
    /// Accounts for programs.
    #[command(subcommand, visible_alias = "service-accounts")]
    ServiceAccount(ServiceAccount),
}

/// What to do with service accounts, of the organization in use.
#[derive(Debug, Subcommand)]
pub(super) enum ServiceAccount {
    /// Make an account and print its id and its secret, which is shown this once.
    Create {
        /// Its name.
        name: String,
    },
    /// List the accounts.
    #[command(visible_alias = "ls")]
    List,
    /// Delete an account; its tokens are refused at once.
    #[command(visible_alias = "rm")]
    Delete {
        /// Its id or name.
        id: String,
    },
    /// Give an account a new secret.
    RotateSecret {
        /// Its id or name.
        id: String,
    },
    /// Grant a role. Roles of other services than Ignite are taken with a warning: those services are
    /// the cloud's.
    GrantRole(Role),
    /// Take a role back.
    RevokeRole(Role),
    /// List the roles that can be granted here.
    ListRoles,
}

/// A role of an account.
#[derive(Debug, clap::Args)]
pub(super) struct Role {
    /// The account's id or name.
    id: String,
    /// The service that the role is of.
    service: String,
    /// The role.
    role: String,
    /// What it is bound to, as resource=ORG:APP; repeatable.
    #[arg(long, value_name = "resource=APP")]
    on: Vec<String>,
}

/// Runs a command line.
pub(super) fn run(line: Line) -> ExitCode {
    let Line { global, command } = line;
    match command {
        Command::Ignite(command) => super::run(global, *command),
        Command::Login(args) => ended(login::run(args, global, &process_env)),
        Command::Config(command) => ended(configure::run(command, &global, &process_env)),
        Command::Auth(Auth::Status) => ended(status(global)),
        Command::Auth(Auth::ServiceAccount(command)) => ended(service_account(global, command)),
        Command::Elsewhere(words) => {
            let name = words.first().map(|w| w.to_string_lossy());
            ended(Err(Error::Usage(format!(
                "`dodil {}` is the cloud's: here are `dodil ignite`, `dodil login`, `dodil config` and `dodil auth`",
                name.unwrap_or_default()
            ))))
        }
    }
}

fn status(global: Global) -> Result<(), Error> {
    let mut context = Context::new(global, &process_env)?;
    block_on(context.log_in())?;
    let all = context.describe();
    if context.format.is_structured() {
        let all = all
            .into_iter()
            .map(|(name, value)| (name.replace(' ', "_"), value.into()));
        let all: serde_json::Map<String, serde_json::Value> = all.collect();
        return context.format.print_value(&all);
    }
    output::columns(output::rows(&all))
}

fn service_account(global: Global, command: ServiceAccount) -> Result<(), Error> {
    match command {
        ServiceAccount::GrantRole(role) | ServiceAccount::RevokeRole(role)
            if role.service != OWN_SERVICE =>
        {
            note(&format!(
                "warning: {} of {} is not known here and opens nothing: that service is the cloud's",
                role.role, role.service
            ));
            Ok(())
        }
        command => manage_service_accounts(global, command),
    }
}

/// Makes and changes service accounts of a server on this machine, as `ignite service-account` does.
fn manage_service_accounts(global: Global, command: ServiceAccount) -> Result<(), Error> {
    let context = Context::new(global, &process_env)?;
    let (org, format) = (context.org()?, context.format);
    let dir = context::data_dir(&process_env).ok_or_else(|| {
        Error::Usage(
            "neither HOME nor XDG_DATA_HOME is set; name the server's data directory with IGNITE_DATA_DIR"
                .to_owned(),
        )
    })?;
    match command {
        ServiceAccount::Create { name } => {
            let name = account(&name)?;
            let secret = accounts::create(&dir, &org, &name, Vec::new())?;
            accounts::show_secret(&name, &secret, format)
        }
        ServiceAccount::List => accounts::list_all(&dir, &org, format),
        ServiceAccount::Delete { id } => accounts::delete(&dir, &org, &account(&id)?),
        ServiceAccount::RotateSecret { id } => {
            let name = account(&id)?;
            let secret = accounts::rotate(&dir, &org, &name, None)?;
            accounts::show_secret(&name, &secret, format)
        }
        ServiceAccount::GrantRole(role) => set_role(&dir, &org, &role, true, format),
        ServiceAccount::RevokeRole(role) => set_role(&dir, &org, &role, false, format),
        ServiceAccount::ListRoles => {
            let names = model::Role::ALL.map(model::Role::as_str);
            if format.is_structured() {
                return format.print_value(&serde_json::json!({ "roles": names }));
            }
            let mut table = output::table(&["ROLE"]);
            for name in names {
                table.add_row([name]);
            }
            output::columns(table)
        }
    }
}

fn set_role(
    dir: &std::path::Path,
    org: &OrgName,
    role: &Role,
    is_granted: bool,
    format: output::Format,
) -> Result<(), Error> {
    let name = account(&role.id)?;
    let known = role.role.parse::<model::Role>();
    let known = known.map_err(|e| Error::Usage(e.to_string()))?;
    let apps = role.on.iter().map(|on| {
        let app = on.strip_prefix("resource=").ok_or_else(|| {
            Error::Usage(format!("--on {on} is not of the form resource=ORG:APP"))
        })?;
        accounts::app_of(org, app).map(Some)
    });
    let mut apps = apps.collect::<Result<Vec<_>, _>>()?;
    if apps.is_empty() {
        apps.push(None);
    }
    for app in apps {
        let granted = Granted { role: known, app };
        accounts::grant_role(dir, org, &name, &granted, is_granted)?;
    }
    accounts::list_all(dir, org, format)
}

fn account(text: &str) -> Result<AccountName, Error> {
    AccountName::from_user(text).map_err(|e| Error::Usage(format!("{text:?}: {e}")))
}
