//! `ignite store`: works on the store in the data directory while no server uses it.

use std::process::ExitCode;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{Error, context::Global, failure::note, output, serve};
use crate::{
    config::{Config, Flags},
    server::store::{self, Item},
    store::tools::{Compacted, Execution, Problem, Repaired, Report},
};

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Read everything and report damage and what to do about it; exits with 1 if there is any.
    Check(Args),
    /// Free the disk space that deleted and overwritten records still take.
    Compact(Args),
    /// Save the intact part of a damaged journal of executions and report what is lost; the journal
    /// is copied first.
    Repair(Args),
    /// Print every app and every execution, each as a line of JSON.
    Export(Args),
}

/// Which store.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The data directory [env: IGNITE_DATA_DIR].
    #[arg(long)]
    data_dir: Option<String>,
}

/// Runs the command: 0 when all is well, 64 on a bad configuration, 1 otherwise.
pub(super) fn run(command: Command, global: &Global) -> ExitCode {
    let (Command::Check(args)
    | Command::Compact(args)
    | Command::Repair(args)
    | Command::Export(args)) = &command;
    let mut flags = Flags::default();
    flags.set("data_dir", args.data_dir.as_deref(), "--data-dir");
    let config = match serve::load(&flags, global.config.clone()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let format = global.output.unwrap_or_default();
    let outcome = match command {
        Command::Check(_) => check(&config, format),
        Command::Compact(_) => compact(&config, format),
        Command::Repair(_) => repair(&config, format),
        Command::Export(_) => export(&config),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => error.report(),
    }
}

fn check(config: &Config, format: output::Format) -> Result<bool, Error> {
    let report = store::check(config).map_err(Error::Other)?;
    if format.is_structured() {
        format.print_value(&report)?
    } else {
        output::line(&text(&report))?
    }
    Ok(report.problems.is_empty())
}

fn compact(config: &Config, format: output::Format) -> Result<bool, Error> {
    let done = store::compact(config).map_err(Error::Other)?;
    let Compacted {
        before,
        after,
        left,
    } = &done;
    if format.is_structured() {
        format.print_value(&done)?
    } else {
        output::line(&format!("{before} bytes before, {after} after"))?
    }
    left.iter().for_each(|problem| note(&line_of(problem)));
    Ok(left.is_empty())
}

fn repair(config: &Config, format: output::Format) -> Result<bool, Error> {
    let done = store::repair(config).map_err(Error::Other)?;
    if format.is_structured() {
        format.print_value(&done)?
    } else {
        output::line(&repaired(&done))?
    }
    Ok(true)
}

fn repaired(done: &Repaired) -> String {
    if done.journals.is_empty() {
        return "nothing needs repair".to_owned();
    }
    let mut lines = Vec::new();
    for journal in &done.journals {
        let path = journal.path.display();
        let lost = journal.lost.iter();
        let lost: Vec<_> = lost
            .map(|(at, len)| format!("{len} bytes at byte {at}"))
            .collect();
        lines.push(format!(
            "{path}: saved {} writes, lost {}; the journal as it was: {}",
            journal.saved,
            if lost.is_empty() {
                "none".to_owned()
            } else {
                lost.join(", ")
            },
            journal.copy.display()
        ));
    }
    if done.removed_rows > 0 {
        lines.push(format!(
            "removed {} rows of executions whose request is lost",
            done.removed_rows
        ));
    }
    lines.push("now run `ignite store check`".to_owned());
    lines.join("\n")
}

fn export(config: &Config) -> Result<bool, Error> {
    let problems = store::export(config, |item| {
        let value = match item {
            Item::App(app) => app_json(*app)?,
            Item::Execution(execution, stored) => json!({
                "execution": output::sparse("Execution", &*execution)?,
                "request": request_json(&stored),
            }),
        };
        output::line(&value.to_string())
    })?;
    problems.iter().for_each(|p| note(&line_of(p)));
    Ok(problems.is_empty())
}

fn app_json(app: store::App) -> Result<Value, Error> {
    let mut value = json!({
        "app": output::sparse("AppMeta", &app.app)?,
        "versions": app
            .versions
            .iter()
            .map(|(version, published)| {
                Ok(json!({
                    "version": output::sparse("AppVersion", version)?,
                    "app": output::sparse("AppMeta", published)?,
                }))
            })
            .collect::<Result<Vec<_>, Error>>()?,
    });
    if let Some(draft) = &app.draft {
        value["draft"] = json!(output::sparse("DraftInfo", draft)?);
    }
    Ok(value)
}

fn request_json(stored: &Execution) -> Value {
    let headers = stored.headers.iter();
    let headers: Vec<_> = headers
        .map(|(name, value)| json!({ "name": name, "value": String::from_utf8_lossy(value) }))
        .collect();
    json!({
        "method": stored.method,
        "target": stored.target,
        "headers": headers,
        "body": stored.body.as_ref().map(|body| BASE64_STANDARD.encode(body)),
    })
}

/// One line per database, one per problem, and a conclusion.
fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    for database in &report.databases {
        let rows = database.rows.0.iter();
        let counts: Vec<_> = rows.map(|(kind, n)| format!("{n} {kind}")).collect();
        lines.push(format!("{}: {}", database.name, counts.join(", ")));
    }
    lines.extend(report.problems.iter().map(line_of));
    for leftover in &report.leftovers {
        lines.push(format!(
            "leftover: {leftover}; `ignite store compact` removes it"
        ));
    }
    lines.push(match report.problems.len() {
        0 => "all is well".to_owned(),
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    });
    lines.join("\n")
}

fn line_of(problem: &Problem) -> String {
    let Problem { path, what, remedy } = problem;
    format!("problem: {}: {what}; {remedy}", path.display())
}
