//! The command line: `serve`, `token`, `prune` and `store` operate the platform, the rest uses it.
//!
//! Client commands use only the generated gRPC client. Data goes to stdout, notes for people go to
//! stderr, and the exit code follows the gRPC status (`failure.rs`). `context/` determines where
//! the server is and who calls.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod app;
mod app_settings;
mod audit;
mod build;
mod code;
mod configure;
mod context;
mod deploy;
mod dev;
mod draft;
mod execution;
mod failure;
mod folder;
mod follow;
mod id;
mod invoke;
mod logs;
mod output;
mod pages;
mod publish;
mod secret;
mod serve;
mod server_log;
mod service_account;
mod settings;
mod spinner;
mod store;
mod test;
mod text;
mod token;
mod version;

use context::{Context, Global};
use failure::Error;

use crate::config::process_env;

/// A serverless platform on one machine: scale to zero, with requests held while apps start.
#[derive(Debug, Parser)]
#[command(
    name = "ignite",
    version,
    propagate_version = true,
    infer_subcommands = false
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the platform on this machine.
    Serve(serve::Args),
    /// Make bearer tokens with this machine's signing key, and replace the key.
    #[command(subcommand)]
    Token(token::Command),
    /// Accounts of this machine's server that fetch tokens with an id and a secret.
    #[command(subcommand, visible_alias = "sa")]
    ServiceAccount(service_account::Command),
    /// Print what is in the audit log of this machine's server.
    Audit(audit::Args),
    /// Remove containers and networks left behind by instances that no longer exist.
    Prune(serve::PruneArgs),
    /// Check, compact, repair or export the store in the data directory, while no server uses it.
    #[command(subcommand)]
    Store(store::Command),
    #[command(flatten)]
    Remote(Remote),
    /// The client's own configuration.
    #[command(subcommand)]
    Config(configure::Command),
    /// Store a token (given with --token or --token-file) for later commands.
    Login,
}

/// The commands that call a server.
#[derive(Debug, Subcommand)]
enum Remote {
    /// Apps: create, configure, deploy, delete.
    #[command(subcommand, visible_aliases = ["function", "fn"])]
    App(app::Command),
    /// Keep a folder live at one URL: build and publish it on each change, and show the app's log.
    Dev(dev::Args),
    /// The draft: the code that the next publish makes a version of.
    #[command(subcommand)]
    Draft(draft::Command),
    /// Published versions, and rolling back to them.
    #[command(subcommand)]
    Version(version::Command),
    /// Send a request to an app and print its answer, or run it in the background with --async.
    Invoke(invoke::Args),
    /// Asynchronous executions, started by `invoke --async`.
    #[command(subcommand, visible_alias = "exec")]
    Execution(execution::Command),
    /// The organization's credentials for registries and git servers.
    #[command(subcommand)]
    Secret(secret::Command),
}

/// Parses the command line, runs the command, and returns the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Serve(args) => return serve::run(args, cli.global.config),
        Command::Prune(args) => return serve::prune(args, &cli.global),
        Command::Store(command) => return store::run(command, &cli.global),
        Command::Token(command) => token::run(command, &cli.global),
        Command::ServiceAccount(command) => service_account::run(command, &cli.global),
        Command::Audit(args) => audit::run(args, &cli.global),
        Command::Config(command) => configure::run(command, &cli.global, &process_env),
        Command::Login => configure::login(&cli.global, &process_env),
        Command::Remote(command) => client(cli.global, command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

/// Runs a client command on a new runtime; one thread is enough for one call at a time.
fn client(global: Global, command: Remote) -> Result<(), Error> {
    let context = Context::new(global, &process_env)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| {
            Error::Other(anyhow::Error::new(e).context("cannot start the async runtime"))
        })?;
    let outcome = runtime.block_on(async {
        match command {
            Remote::App(command) => Box::pin(app::run(&context, command)).await,
            Remote::Dev(args) => Box::pin(dev::run(&context, args)).await,
            Remote::Draft(command) => Box::pin(draft::run(&context, command)).await,
            Remote::Version(command) => Box::pin(version::run(&context, command)).await,
            Remote::Invoke(args) => Box::pin(invoke::run(&context, args)).await,
            Remote::Execution(command) => Box::pin(execution::run(&context, command)).await,
            Remote::Secret(command) => Box::pin(secret::run(&context, command)).await,
        }
    });
    // A thread that still reads stdin must not keep the process alive.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_contracts_spellings_parse() {
        for line in [
            "ignite fn create a -t large --memory 128 --cpu 250 --timeout-secs 5 --max-replicas 3 --reserved 1 --description d --env A=b=c --env D=",
            "ignite function ls -o wide",
            "ignite app update acme:a --allow-unauthenticated=false --org acme --debug --timeout 10s --api-endpoint h:1 --token t",
            "ignite app deploy a --image-ref r:1 --registry-secret-ref s --tier small --health-path /h --allow-unauthenticated --follow",
            "ignite app deploy a --code d --runtime rust --toolchain 1.90.0 --target x86_64-unknown-linux-musl",
            "ignite dev",
            "ignite dev fn --app acme:fn --runtime python --env A=b --allow-unauthenticated --tier small",
            "ignite dev . --dockerfile-path f --build-arg A=b --registry-secret-ref s",
            "ignite app delete a --yes",
            "ignite app logs a",
            "ignite fn logs acme:a -f --replica 0123456789 --since 10m --limit 5 -o json",
            "ignite app replicas acme:a -o wide",
            "ignite app events a -f --limit 5",
            "ignite app scale a 3",
            "ignite app idle a --depth prepared",
            "ignite app wait a --replicas 3 --within 5s",
            "ignite app wait a --depth paused",
            "ignite draft save a --image-ref r",
            "ignite draft status a -o yaml",
            "ignite draft publish acme:a",
            "ignite draft test a -p {}",
            "ignite version test acme:a 2 --method get --path /x",
            "ignite version list a --limit 5 -o wide",
            "ignite version ls acme:a",
            "ignite version get a 1",
            "ignite version rollback acme:a 3",
            "ignite version code a",
            "ignite version code a 2",
            "ignite invoke a -p {} --method get --path /x?y=z --header k:v --include",
            "ignite invoke a --payload-file f",
            "ignite invoke a --async",
            "ignite invoke a --async --wait --include --idempotency-key k -o json",
            "ignite execution get exec_01HZX9AAAAAAAAAAAAAAAAAAAA",
            "ignite exec get exec_01HZX9AAAAAAAAAAAAAAAAAAAA --result",
            "ignite exec list",
            "ignite exec ls acme:a --status Failed --since 1h --limit 5 -o wide",
            "ignite exec watch exec_01HZX9AAAAAAAAAAAAAAAAAAAA -o json",
            "ignite exec stream exec_01HZX9AAAAAAAAAAAAAAAAAAAA",
            "ignite exec cancel exec_01HZX9AAAAAAAAAAAAAAAAAAAA",
            "ignite exec stats a --bucket 1h --since 24h",
            "ignite secret create reg --username u --password p --server registry.example:5000",
            "ignite secret create git --type git --password-stdin",
            "ignite secret get reg -o json",
            "ignite secret list --org acme",
            "ignite secret delete reg",
            "ignite token create --org o --ttl 1h --data-dir /d",
            "ignite token create --org o --scope InvokeApp --scope ignite.app-viewer --audience a",
            "ignite token keys -o json",
            "ignite token rotate-key --revoke",
            "ignite token revoke-key k --data-dir /d",
            "ignite service-account create ci --org o --role ignite.app-developer --app a -o json",
            "ignite service-account list --org o",
            "ignite sa rotate cli-ci --org o --keep 1h",
            "ignite service-account grant-role ci@svcacc.dodil.io ignite.app-viewer --org o",
            "ignite service-account revoke-role ci ignite.app-viewer --org o --app a",
            "ignite service-account delete ci --org o --yes",
            "ignite audit --org o --since 1h --limit 5 -o json",
            "ignite serve --http-addr 127.0.0.1:0 --set pids_limit=9 --ephemeral --dump-config --config f",
            "ignite prune",
            "ignite prune --after 1h --gone 0123456789ab --volumes 0123456789ac -o json",
            "ignite store check --data-dir /d -o json",
            "ignite store compact --config f",
            "ignite store export",
            "ignite config set api_endpoint 127.0.0.1:1",
            "ignite config view -o json",
            "ignite login --token t",
            "ignite login --token -",
            "ignite app list --token-file f",
        ] {
            if let Err(e) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {e}");
            }
        }
        for line in [
            "ignite invoke a -p 1 --payload-file f",
            "ignite invoke a --wait",
            "ignite invoke a --idempotency-key k",
            "ignite invoke a --async --include",
            "ignite exec get 7",
            "ignite exec list --limit 0",
            "ignite exec list --status odd",
            "ignite exec list --since 1",
            "ignite exec stats a --bucket 0",
            "ignite secret create reg",
            "ignite secret create a.b --password p",
            "ignite secret create reg --password p --password-stdin",
            "ignite app logs a --limit 0",
            "ignite app logs a --since 10",
            "ignite app deploy a",
            "ignite app deploy a --image-ref r --runtime python",
            "ignite app deploy a --git-url u --build-arg A=b",
            "ignite dev --runtime python --dockerfile-path f",
            "ignite dev --runtime rust --toolchain 1.90;",
            "ignite app create a --env A",
            "ignite app list -o xml",
            "ignite app list --token t --token-file f",
            "ignite token create --scope Fly",
            "ignite service-account create Ci",
            "ignite service-account grant-role ci ignite.king",
            "ignite service-account create ci --app a",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
