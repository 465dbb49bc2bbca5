//! `ignite secret`: credentials for registries and git servers.

use std::io::Read as _;

use clap::{Subcommand, ValueEnum};
use comfy_table::Table;

use super::{
    Context, Error,
    hidden::Hidden,
    output::{rows, table, time},
};
use crate::{
    api::proto::v1::{self, secret_value::Value},
    model::secret::SecretName,
};

/// What to do with secrets.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a secret, or overwrite the one with that name.
    Create(Create),
    /// Show a secret with its value.
    Get {
        /// The secret's name.
        name: SecretName,
    },
    /// List the organization's secrets without their values.
    #[command(visible_alias = "ls")]
    List,
    /// Delete a secret; a missing one is not an error.
    #[command(visible_alias = "rm")]
    Delete {
        /// The secret's name.
        name: SecretName,
    },
}

/// What a secret is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Type {
    /// A container registry, for --registry-secret-ref.
    #[value(alias = "registry_secret")]
    Registry,
    /// A git server.
    #[value(alias = "git_secret")]
    Git,
}

/// A new secret.
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// The secret's name: 1 to 64 letters, digits, '-' and '_'.
    name: SecretName,
    /// What it is for [default: registry, with --token git].
    #[arg(long = "type", value_enum, ignore_case = true)]
    kind: Option<Type>,
    /// The user name.
    #[arg(long, default_value = "")]
    username: String,
    /// The host that it is for, with the port if any [default: Docker Hub; for a git secret, the
    /// host of the first repository that it is used for].
    #[arg(
        long,
        visible_alias = "server",
        value_name = "HOST",
        default_value = ""
    )]
    server_address: String,
    #[command(flatten)]
    password: Password,
}

/// Where the password comes from; exactly one source.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Password {
    /// The password or access token. Others on this machine can see it while the command runs.
    #[arg(long, value_name = "TEXT")]
    password: Option<Hidden>,
    /// The access token of a git server, or - for stdin; the same as --password. The token for the
    /// API stands before `secret` here.
    #[arg(long = "token", id = "git_token", value_name = "TEXT")]
    git_token: Option<Hidden>,
    /// Read the password or access token from stdin, to its end.
    #[arg(long)]
    password_stdin: bool,
}

impl Create {
    /// What it is for.
    ///
    /// # Errors
    /// [`Error::Usage`] for a token of a registry.
    fn kind(&self) -> Result<Type, Error> {
        match (self.kind, &self.password.git_token) {
            (Some(Type::Registry), Some(_)) => {
                Err(Error::Usage(
                    "--token is the token of a git secret; a registry's is given with --password or --password-stdin, and the token for the API before `secret`: `ignite --token T secret create …`"
                        .to_owned(),
                ))
            }
            (None, Some(_)) => Ok(Type::Git),
            (kind, _) => Ok(kind.unwrap_or(Type::Registry)),
        }
    }

    fn request(self) -> Result<v1::CreateSecretRequest, Error> {
        let kind = self.kind()?;
        let given = self.password.password;
        let token = self.password.git_token.filter(|token| token.0 != "-");
        let password = match given.or(token) {
            Some(Hidden(password)) => password,
            None => {
                let mut text = String::new();
                std::io::stdin().lock().read_to_string(&mut text)?;
                // The line end that `echo` adds.
                let text = text.strip_suffix('\n').unwrap_or(&text);
                text.strip_suffix('\r').unwrap_or(text).to_owned()
            }
        };
        let value = match kind {
            Type::Git => Value::GitSecret(v1::GitSecret {
                username: self.username,
                token: password,
                host: self.server_address,
            }),
            Type::Registry => Value::RegistrySecret(v1::RegistrySecret {
                username: self.username,
                password,
                server_address: self.server_address,
            }),
        };
        Ok(v1::CreateSecretRequest {
            name: self.name.to_string(),
            value: Some(v1::SecretValue { value: Some(value) }),
        })
    }
}

/// Runs one of the commands.
pub(super) async fn run(context: &Context, command: Command) -> Result<(), Error> {
    if let Command::Create(create) = &command {
        create.kind()?;
    }
    // Resolved before a password is read.
    let session = context.connect(&context.org()?).await?;
    match command {
        Command::Create(create) => {
            let request = create.request()?;
            let created = session
                .answer(session.secrets().create_secret(request))
                .await?;
            context.format.print("CreateSecretResponse", &created, |_| {
                rows(&metadata(created.secret.as_ref()))
            })
        }
        Command::Get { name } => {
            let request = v1::GetSecretRequest {
                name: name.to_string(),
            };
            let got = session
                .answer(session.secrets().get_secret(request))
                .await?;
            context
                .format
                .print("GetSecretResponse", &got, |_| secret_table(&got))
        }
        Command::List => {
            let mut all = v1::ListSecretsResponse::default();
            loop {
                let request = v1::ListSecretsRequest {
                    limit: 0,
                    cursor: std::mem::take(&mut all.next_cursor),
                };
                let page = session
                    .answer(session.secrets().list_secrets(request))
                    .await?;
                all.secrets.extend(page.secrets);
                all.next_cursor = page.next_cursor;
                if all.next_cursor.is_empty() {
                    break;
                }
            }
            context
                .format
                .print("ListSecretsResponse", &all, |_| list_table(&all.secrets))
        }
        Command::Delete { name } => {
            let request = v1::DeleteSecretRequest {
                name: name.to_string(),
            };
            let deleted = session
                .answer(session.secrets().delete_secret(request))
                .await?;
            context.format.print("DeleteSecretResponse", &deleted, |_| {
                rows(&[("deleted", name.to_string())])
            })
        }
    }
}

fn metadata(secret: Option<&v1::SecretMetadata>) -> Vec<(&'static str, String)> {
    let secret = secret.cloned().unwrap_or_default();
    vec![
        ("secret", secret.name),
        ("type", secret.r#type),
        ("created", time(secret.created_at_ms)),
        ("updated", time(secret.updated_at_ms)),
    ]
}

fn secret_table(got: &v1::GetSecretResponse) -> Table {
    let mut all = metadata(got.secret.as_ref());
    match got.value.clone().and_then(|v| v.value) {
        Some(Value::GitSecret(s)) => {
            all.push(("username", s.username));
            all.push(("token", s.token));
        }
        Some(Value::RegistrySecret(s)) => {
            all.push(("server", s.server_address));
            all.push(("username", s.username));
            all.push(("password", s.password));
        }
        None => {}
    }
    rows(&all)
}

fn list_table(secrets: &[v1::SecretMetadata]) -> Table {
    let mut table = table(&["SECRET", "TYPE", "CREATED", "UPDATED"]);
    for secret in secrets {
        table.add_row([
            secret.name.clone(),
            secret.r#type.clone(),
            time(secret.created_at_ms),
            time(secret.updated_at_ms),
        ]);
    }
    table
}
