//! `ignite service-account`: accounts that fetch tokens with an id and a secret.
//!
//! The commands change files in the data directory of a server on this machine and notify the server
//! if it runs, so they need neither a server nor a token; a user who can write there could sign
//! tokens as well.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use clap::Subcommand;
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::{
    Error,
    app::confirm,
    context::Global,
    failure::note,
    output::{self, Format},
    token::{Place, org, record},
};
use crate::{
    audit::{Entry, Kind},
    config::parse_duration,
    identity::accounts::{self, Account, Book, Granted, Secret},
    model::{AccountName, OrgName, Role},
};

/// What to do with service accounts of the organization that --org names.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an account; prints its id and its secret, which is shown this once.
    Create {
        /// Its name: lower-case letters, digits and '-'.
        #[arg(value_parser = AccountName::from_user)]
        name: AccountName,
        /// A role that it has from the beginning; repeatable. Without any, the server's
        /// default_scopes hold.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<Role>,
        /// The app that these roles are bound to.
        #[arg(long, requires = "roles")]
        app: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// List the accounts.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Give an account a new secret; the one before, and tokens made with it, are refused at once.
    Rotate {
        /// The account.
        #[arg(value_parser = AccountName::from_user)]
        id: AccountName,
        /// Let the secret before give tokens for this long, such as 1h.
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        keep: Option<Duration>,
        #[command(flatten)]
        place: Place,
    },
    /// Delete an account; its tokens are refused at once.
    Delete {
        /// The account.
        #[arg(value_parser = AccountName::from_user)]
        id: AccountName,
        /// Ask nothing.
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Grant a role: ignite.app-viewer, ignite.app-developer or ignite.model-user.
    GrantRole(Bind),
    /// Take a role back; tokens follow at once.
    RevokeRole(Bind),
}

/// A role of an account.
#[derive(Debug, clap::Args)]
pub(super) struct Bind {
    /// The account.
    #[arg(value_parser = AccountName::from_user)]
    id: AccountName,
    /// The role.
    role: Role,
    /// The one app that it holds for, by its name or as org:app.
    #[arg(long)]
    app: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// Runs the command; needs no server.
pub(super) fn run(command: Command, global: &Global) -> Result<(), Error> {
    let org = org(global, "a service account is an organization's")?;
    let format = global.output.unwrap_or_default();
    match command {
        Command::Create {
            name,
            roles,
            app,
            place,
        } => {
            let dir = place.resolve()?;
            let app = app.map(|app| app_of(&org, &app)).transpose()?;
            let granted = |role| Granted {
                role,
                app: app.clone(),
            };
            let roles = roles.into_iter().map(granted).collect();
            let secret = create(&dir, &org, &name, roles)?;
            show_secret(&name, &secret, format)
        }
        Command::List { place } => list_all(&place.resolve()?, &org, format),
        Command::Rotate { id, keep, place } => {
            let secret = rotate(&place.resolve()?, &org, &id, keep)?;
            show_secret(&id, &secret, format)
        }
        Command::Delete { id, yes, place } => {
            let dir = place.resolve()?;
            if !yes && !confirm(&format!("{} of {org}", id.client_id()))? {
                note("nothing was deleted");
                return Ok(());
            }
            delete(&dir, &org, &id)
        }
        Command::GrantRole(bind) => set_role(bind, &org, true, format),
        Command::RevokeRole(bind) => set_role(bind, &org, false, format),
    }
}

/// Makes an account, and returns its secret.
///
/// # Errors
/// With the exit codes of gRPC: a name that is taken is ALREADY_EXISTS.
pub(super) fn create(
    dir: &Path,
    org: &OrgName,
    name: &AccountName,
    roles: Vec<Granted>,
) -> Result<Secret, Error> {
    let made = Book::of(dir).create(org, name, roles, SystemTime::now());
    noted(dir, "create", org, name, made)
}

/// Gives an account a new secret; see [`Book::rotate`].
///
/// # Errors
/// As [`create`]; one that is not there is NOT_FOUND.
pub(super) fn rotate(
    dir: &Path,
    org: &OrgName,
    name: &AccountName,
    keep: Option<Duration>,
) -> Result<Secret, Error> {
    let rotated = Book::of(dir).rotate(org, name, keep, SystemTime::now());
    noted(dir, "rotate", org, name, rotated)
}

/// Deletes an account.
///
/// # Errors
/// As [`rotate`].
pub(super) fn delete(dir: &Path, org: &OrgName, name: &AccountName) -> Result<(), Error> {
    noted(dir, "delete", org, name, Book::of(dir).delete(org, name))
}

/// Grants a role to an account, or takes it back; returns the account as it is then.
///
/// # Errors
/// As [`rotate`].
pub(super) fn grant_role(
    dir: &Path,
    org: &OrgName,
    name: &AccountName,
    granted: &Granted,
    is_granted: bool,
) -> Result<Account, Error> {
    let verb = if is_granted {
        "grant-role"
    } else {
        "revoke-role"
    };
    let set = Book::of(dir).set_role(org, name, granted, is_granted);
    noted(dir, &format!("{verb} {}", of_role(granted)), org, name, set)
}

/// Prints the accounts of an organization.
///
/// # Errors
/// When they cannot be read or printed.
pub(super) fn list_all(dir: &Path, org: &OrgName, format: Format) -> Result<(), Error> {
    list(&Book::of(dir).list(org).map_err(refused)?, format)
}

/// Notes in the audit log what was done.
fn noted<T>(
    dir: &Path,
    action: &str,
    org: &OrgName,
    name: &AccountName,
    outcome: Result<T, accounts::Error>,
) -> Result<T, Error> {
    let value = outcome.map_err(refused)?;
    let entry = Entry::local(Kind::Account, action)
        .org(Some(org.as_str()))
        .target(Some(&name.client_id()));
    record(dir, &entry);
    Ok(value)
}

/// The failure of a change, with the exit code that the API would have for it.
fn refused(error: accounts::Error) -> Error {
    let code = match &error {
        accounts::Error::Exists(..) => Code::AlreadyExists,
        accounts::Error::Missing { .. } => Code::NotFound,
        accounts::Error::Role(_) => Code::InvalidArgument,
        accounts::Error::File(_) => return Error::Other(error.into()),
    };
    Error::Api {
        status: Box::new(Status::new(code, error.to_string())),
        hint: None,
    }
}

/// The app's name in what a user writes: the name, or `org:app` of the same organization.
///
/// # Errors
/// [`Error::Usage`] for an app of another organization.
pub(super) fn app_of(org: &OrgName, text: &str) -> Result<String, Error> {
    let Some((other, name)) = text.split_once([':', '/']) else {
        return Ok(text.to_owned());
    };
    if other != org.as_str() {
        return Err(Error::Usage(format!(
            "--app names an app of {other}, and the account is of {org}"
        )));
    }
    Ok(name.to_owned())
}

/// Prints a new secret, which is shown this once. The id has two names in JSON: programs read either.
///
/// # Errors
/// When it cannot be printed.
pub(super) fn show_secret(
    name: &AccountName,
    secret: &Secret,
    format: Format,
) -> Result<(), Error> {
    let id = name.client_id();
    if format.is_structured() {
        let all = json!({ "id": id, "serviceAccountId": id, "secret": secret.as_str() });
        return format.print_value(&all);
    }
    output::columns(output::rows(&[
        ("ID", id),
        ("SECRET", secret.as_str().to_owned()),
    ]))?;
    note("The secret is not shown again; `rotate` gives another one.");
    Ok(())
}

fn set_role(bind: Bind, org: &OrgName, is_granted: bool, format: Format) -> Result<(), Error> {
    let Bind {
        id,
        role,
        app,
        place,
    } = bind;
    let app = app.map(|app| app_of(org, &app)).transpose()?;
    let granted = Granted { role, app };
    let account = grant_role(&place.resolve()?, org, &id, &granted, is_granted)?;
    if format.is_structured() {
        return format.print_value(&of_account(&account));
    }
    list(std::slice::from_ref(&account), format)
}

fn of_role(granted: &Granted) -> String {
    match &granted.app {
        Some(app) => format!("{} for {app}", granted.role),
        None => granted.role.to_string(),
    }
}

fn of_account(account: &Account) -> Value {
    let roles = account.roles.iter().map(|granted| match &granted.app {
        Some(app) => json!({ "role": granted.role.as_str(), "app": app }),
        None => json!({ "role": granted.role.as_str() }),
    });
    json!({
        "id": account.name.client_id(),
        "organization": account.org.as_str(),
        "roles": roles.collect::<Vec<_>>(),
        "createdAt": time(account.created_at_ms),
        "secretCreatedAt": time(account.secret_created_at_ms()),
        "hasEarlierSecret": account.has_earlier_secret(SystemTime::now()),
    })
}

fn list(accounts: &[Account], format: Format) -> Result<(), Error> {
    if format.is_structured() {
        let all: Vec<_> = accounts.iter().map(of_account).collect();
        return format.print_value(&json!({ "serviceAccounts": all }));
    }
    let mut table = output::table(&["ID", "ROLES", "CREATED", "SECRET OF"]);
    for account in accounts {
        let roles: Vec<_> = account.roles.iter().map(of_role).collect();
        table.add_row([
            account.name.client_id(),
            output::or_dash(&roles.join(", ")).to_owned(),
            time(account.created_at_ms),
            time(account.secret_created_at_ms()),
        ]);
    }
    output::columns(table)
}

fn time(ms: u64) -> String {
    output::time(i64::try_from(ms).unwrap_or(i64::MAX))
}
