//! The command line: `serve`, `token`, `prune`, `df` and `store` operate the platform, the rest uses it.
//!
//! Client commands use only the generated gRPC client. Data goes to stdout, notes for people go to
//! stderr, and the exit code follows the gRPC status (`failure.rs`). `context/` determines where
//! the server is and who calls. Invoked as `dodil`, the same program accepts the command lines of the
//! cloud's client (`dodil.rs`).

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::{Parser, Subcommand};

mod app;
mod app_settings;
mod apply;
mod audit;
mod build;
mod ca;
mod code;
mod configure;
mod context;
mod contexts;
mod curl;
mod deploy;
mod dev;
mod df;
mod docs;
mod doctor;
mod dodil;
mod draft;
mod execution;
mod failure;
mod folder;
mod follow;
mod help;
mod hidden;
mod id;
mod init;
mod invoke;
mod login;
mod logs;
mod open;
mod output;
mod overview;
mod pages;
mod parse;
mod publish;
mod ready;
mod reconnect;
mod relay;
mod secret;
mod serve;
mod server_log;
mod service_account;
mod settings;
mod shell;
mod spinner;
mod start;
mod status;
mod store;
mod template;
mod test;
mod text;
mod token;
mod top;
mod urls;
mod variables;
mod version;
mod whoami;

use context::{Context, Global};
use failure::{Error, note};
use parse::CommandLine;

use crate::config::process_env;

/// A serverless platform on one machine: scale to zero, with requests held while apps start.
#[derive(Debug, Parser)]
#[command(
    name = "ignite",
    version,
    propagate_version = true,
    infer_subcommands = false,
    after_help = "`ignite docs` has the manual."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the platform on this machine.
    Serve(Box<serve::Args>),
    /// Make bearer tokens with this machine's signing key, and replace the key.
    #[command(subcommand)]
    Token(token::Command),
    /// Accounts of this machine's server that fetch tokens with an id and a secret.
    #[command(subcommand, visible_alias = "sa")]
    ServiceAccount(service_account::Command),
    /// Print what is in the audit log of this machine's server.
    Audit(audit::Args),
    /// The local certificate authority in the data directory (`serve --tls local`).
    #[command(subcommand)]
    Ca(ca::Command),
    /// Say whether this machine's server is ready, as health checks and scripts need to know.
    Ready(ready::Args),
    /// Remove containers and networks left behind by instances that no longer exist.
    Prune(serve::PruneArgs),
    /// Check that this machine and its container engine have what the platform needs.
    Doctor(doctor::Args),
    /// Say what this machine's instance takes of the disk, for each app where that is known, and what
    /// frees it.
    Df(df::Args),
    /// Show the manual: a page, a setting, or a reason of a failure.
    Docs(docs::Args),
    /// Check, compact, repair or export the store in the data directory, while no server uses it.
    #[command(subcommand)]
    Store(store::Command),
    /// Say what a folder without a Dockerfile is, and show or write a Dockerfile for it.
    Init(init::Args),
    #[command(flatten)]
    Remote(Remote),
    /// The client's own configuration.
    #[command(subcommand)]
    Config(configure::Command),
    /// Several servers, one of them in use.
    #[command(subcommand)]
    Context(contexts::Command),
    /// Print completions for a shell.
    Completion(shell::CompletionArgs),
    /// Write the manual pages of all commands into a folder.
    Man(shell::ManArgs),
    /// Store a token (given with --token or --token-file) or a service account for later commands;
    /// also --api-endpoint and --org.
    Login(login::Args),
    /// Carry names and connections of apps to the server that started this in a container.
    #[command(hide = true)]
    Relay(relay::Args),
    /// The cloud's models, which are not here.
    #[command(hide = true)]
    Models(Elsewhere),
    /// The cloud's builds for images of any kind, which are not here.
    #[command(hide = true)]
    Build(Elsewhere),
}

/// Whatever is asked of a part of the cloud that is not here.
#[derive(Debug, clap::Args)]
struct Elsewhere {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _words: Vec<OsString>,
}

const NO_MODELS: &str = "there are no models here; an app or script reaches those of the cloud, or of a stand-in, at the address in its MODEL_API_BASE";
const NO_BUILDS: &str = "images that belong to no app are not built here; `ignite app deploy --code DIR` builds and publishes an app's, `ignite draft compile APP --follow` builds its draft";
/// The name under which the program takes the cloud's command lines.
const CLOUD_NAME: &str = "dodil";

impl CommandLine for Cli {
    fn global(&mut self) -> &mut Global {
        &mut self.global
    }
}

/// The commands that call a server.
#[derive(Debug, Subcommand)]
enum Remote {
    /// Apps: create, configure, deploy, delete.
    #[command(subcommand, visible_aliases = ["function", "fn"])]
    App(app::Command),
    /// Show the server, its engine, the apps and the executions on one screen.
    Status,
    /// Show apps and replicas, redrawn in place.
    Top(top::Args),
    /// Show who calls which server, and whether it takes them.
    Whoami,
    /// Open an app in a browser, and print its URL that works here.
    Open(open::Args),
    /// Run curl on an app, with your token.
    Curl(curl::Args),
    /// Create, change and publish the apps of a file.
    Apply(apply::Args),
    /// Keep a folder live at one URL: build and publish it on each change, and show the app's log.
    Dev(Box<dev::Args>),
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
    let words: Vec<OsString> = std::env::args_os().collect();
    let name = words.first().and_then(|path| Path::new(path).file_name());
    if name.is_some_and(|name| name == CLOUD_NAME) {
        let line: dodil::Line = parsed(words);
        return dodil::run(line);
    }
    let line: Cli = parsed(words);
    match line.command {
        Some(command) => run(line.global, command),
        None => ended(block_on(start::run(line.global, &process_env))),
    }
}

/// The command line, or the end of the process with help or with what is wrong.
fn parsed<T: CommandLine>(words: Vec<OsString>) -> T {
    if let Some(format) = parse::format_in(&words) {
        failure::speak(format.is_structured());
    }
    let (mut line, left_out) = parse::parse::<T>(words).unwrap_or_else(|error| {
        if error.use_stderr() && failure::is_for_programs() {
            Error::Usage(parse::in_short(&error)).print();
            std::process::exit(error.exit_code());
        }
        error.exit()
    });
    failure::speak(line.global().output.unwrap_or_default().is_structured());
    for option in left_out {
        note(&format!("warning: {option} {}", app::NO_AUTONOMY));
    }
    line
}

fn run(global: Global, command: Command) -> ExitCode {
    let outcome = match command {
        Command::Serve(args) => return serve::run(*args, global.config),
        Command::Prune(args) => return serve::prune(args, &global),
        Command::Doctor(args) => return doctor::run(args, &global),
        Command::Df(args) => return df::run(args, &global),
        Command::Store(command) => return store::run(command, &global),
        Command::Token(command) => token::run(command, &global),
        Command::ServiceAccount(command) => service_account::run(command, &global),
        Command::Audit(args) => audit::run(args, &global),
        Command::Docs(args) => docs::run(args, &global),
        Command::Ready(args) => ready::run(args, &global),
        Command::Ca(command) => ca::run(command),
        Command::Init(args) => init::run(args, &global),
        Command::Config(command) => configure::run(command, &global, &process_env),
        Command::Context(command) => contexts::run(command, &global, &process_env),
        Command::Completion(args) => shell::complete(&args),
        Command::Man(args) => shell::man(&args),
        Command::Relay(args) => relay::run(args),
        Command::Login(args) => login::run(args, global, &process_env),
        Command::Models(_) => Err(Error::Usage(NO_MODELS.to_owned())),
        Command::Build(_) => Err(Error::Usage(NO_BUILDS.to_owned())),
        Command::Remote(command) => client(global, command),
    };
    ended(outcome)
}

fn ended(outcome: Result<(), Error>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

/// Runs work on a new runtime; one thread is enough for one call at a time.
fn block_on<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| {
            Error::Other(anyhow::Error::new(e).context("cannot start the async runtime"))
        })?;
    let outcome = runtime.block_on(work);
    // A thread that still reads stdin must not keep the process alive.
    runtime.shutdown_background();
    outcome
}

/// Runs a client command.
fn client(global: Global, command: Remote) -> Result<(), Error> {
    let mut context = Context::new(global, &process_env)?;
    failure::speak(context.format.is_structured());
    block_on(async {
        context.log_in().await?;
        match command {
            Remote::App(command) => Box::pin(app::run(&context, command)).await,
            Remote::Status => Box::pin(status::run(&context)).await,
            Remote::Top(args) => Box::pin(top::run(&context, args)).await,
            Remote::Whoami => Box::pin(whoami::run(&context)).await,
            Remote::Open(args) => Box::pin(open::run(&context, args)).await,
            Remote::Curl(args) => Box::pin(curl::run(&context, args)).await,
            Remote::Apply(args) => Box::pin(apply::run(&context, args)).await,
            Remote::Dev(args) => Box::pin(dev::run(&context, *args)).await,
            Remote::Draft(command) => Box::pin(draft::run(&context, command)).await,
            Remote::Version(command) => Box::pin(version::run(&context, command)).await,
            Remote::Invoke(args) => Box::pin(invoke::run(&context, args)).await,
            Remote::Execution(command) => Box::pin(execution::run(&context, command)).await,
            Remote::Secret(command) => Box::pin(secret::run(&context, command)).await,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Cli, Vec<String>), clap::Error> {
        parse::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_command_line_is_consistent() {
        parse::spread::<Cli>().debug_assert();
        parse::spread::<dodil::Line>().debug_assert();
    }

    #[test]
    fn a_token_may_stand_anywhere_and_a_git_servers_is_none_of_ours() {
        for (line, token) in [
            ("ignite --token t app get a", Some("t")),
            ("ignite app --token t get a", Some("t")),
            ("ignite --token s app get a --token t", Some("t")),
            ("ignite secret create s --type git --token pat", None),
            (
                "ignite --token t secret create s --type git --token pat",
                Some("t"),
            ),
        ] {
            let (cli, _) = parsed(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert_eq!(cli.global.token.as_deref(), token, "{line}");
        }
        assert!(parsed("ignite --token t app get a --token-file f").is_err());
    }

    #[test]
    fn options_of_autonomous_scaling_are_left_out_with_their_values() {
        for (line, left_out) in [
            ("ignite app create a --auto-x", &["--auto-x"][..]),
            ("ignite app create --auto-x a", &["--auto-x"]),
            ("ignite app create --auto-x v a", &["--auto-x"]),
            ("ignite app create a --auto-x v --memory 9", &["--auto-x"]),
            (
                "ignite fn update a --auto-x=v --auto-y 1 --cpu 9",
                &["--auto-x", "--auto-y"],
            ),
        ] {
            let (cli, found) = parsed(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert_eq!(found, left_out, "{line}");
            let Some(Command::Remote(Remote::App(
                app::Command::Create { id, .. } | app::Command::Update { id, .. },
            ))) = cli.command
            else {
                panic!("{line}");
            };
            assert_eq!(id.name.as_str(), "a", "{line}");
        }
        for wrong in [
            "ignite app create a --auto-x v w",
            "ignite app create a b",
            "ignite app get a --auto-x",
            "ignite app create a --other",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
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
            "ignite init --show",
            "ignite init fn --write --base python:3.13-slim --template flask -o json",
            "ignite dev . --closed --base python:3.13",
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
            "ignite audit -f --limit 5",
            "ignite df --data-dir d --docker-host h -o json",
            "ignite serve --http-addr 127.0.0.1:0 --set pids_limit=9 --ephemeral --dump-config --config f",
            "ignite serve --tls local --https-addr 127.0.0.1:0 --tls-cert a --tls-key b --tls-cert c --tls-key d --insecure-http",
            "ignite ca trust --data-dir d",
            "ignite ca print",
            "ignite ca path",
            "ignite app host add acme:a shop.example.com",
            "ignite app host ls a",
            "ignite fn host remove a shop.example.com --ca-cert f",
            "ignite app deploy a --image-ref r --host a.example --host b.example",
            "ignite docs",
            "ignite docs storage -o json",
            "ignite docs --search volume",
            "ignite doctor --set http_addr=127.0.0.1:0 --data-dir d -o json",
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
            if let Err(e) = parsed(line) {
                panic!("{line}: {e}");
            }
        }
        for line in [
            "ignite invoke a -p 1 --payload-file f",
            "ignite invoke a --wait",
            "ignite docs storage --search volume",
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
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
