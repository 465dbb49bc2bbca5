//! `ignite df`: what this machine's instance takes of the disk, and how it is freed.

use std::process::ExitCode;

use super::{Error, context::Global, output, serve};
use crate::{
    config::Flags,
    server::{self, Usage, UsageItem, UsageKind},
};

/// The flags of `df`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The data directory [env: IGNITE_DATA_DIR].
    #[arg(long)]
    data_dir: Option<String>,
    /// The container engine's address.
    #[arg(long)]
    docker_host: Option<String>,
}

/// Prints what is known: 0, or 9 without the engine's part; 2 when there is no data directory.
pub(super) fn run(args: Args, global: &Global) -> ExitCode {
    let mut flags = Flags::default();
    flags.set("data_dir", args.data_dir.as_deref(), "--data-dir");
    flags.set("docker_host", args.docker_host.as_deref(), "--docker-host");
    let config = match serve::load(&flags, global.config.clone()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let format = global.output.unwrap_or_default();
    let measured = async { anyhow::Ok(server::usage(&config).await) };
    serve::block_on(measured, |usage: anyhow::Result<Usage>| {
        let printed = usage
            .map_err(|error| Error::Usage(format!("{error:#}")))
            .and_then(|usage| print(&usage, format));
        printed.map_or_else(Error::report, |()| ExitCode::SUCCESS)
    })
}

fn print(usage: &Usage, format: output::Format) -> Result<(), Error> {
    if format.is_structured() {
        format.print_value(usage)?
    } else {
        output::columns(table(&usage.items))?;
        totals(usage).iter().try_for_each(|l| output::line(l))?
    }
    match &usage.engine_error {
        None => Ok(()),
        Some(why) => Err(Error::Unreachable(format!(
            "containers, images and volumes of the engine are missing above: {why}"
        ))),
    }
}

fn table(items: &[UsageItem]) -> comfy_table::Table {
    let mut table = output::table(&["WHAT", "APP", "COUNT", "SIZE", "SHARED", "FREED BY"]);
    for item in items {
        let least = if item.partial { ">" } else { "" };
        let size = item.bytes.map(output::bytes);
        let size = size.map_or_else(|| "?".to_owned(), |size| format!("{least}{size}"));
        let shared = item.shared_bytes.map(output::bytes);
        table.add_row([
            name(item.kind),
            item.app.as_deref().unwrap_or("-"),
            &item.count.to_string(),
            &size,
            shared.as_deref().unwrap_or("-"),
            &item.freed_by,
        ]);
    }
    table
}

fn name(kind: UsageKind) -> &'static str {
    match kind {
        UsageKind::Store => "store",
        UsageKind::Code => "code",
        UsageKind::Executions => "executions",
        UsageKind::BuildLogs => "build logs",
        UsageKind::AuditLog => "audit log",
        UsageKind::Files => "files",
        UsageKind::Other => "other",
        UsageKind::Containers => "containers",
        UsageKind::BuiltImages => "built images",
        UsageKind::PulledImages => "other images",
        UsageKind::PlatformImages => "ignite's images",
    }
}

fn totals(usage: &Usage) -> Vec<String> {
    let free = usage.free_bytes.map_or_else(String::new, |free| {
        format!(", {} free", output::bytes(free))
    });
    let who = if usage.in_use {
        "in use by a server"
    } else {
        "no server uses it"
    };
    let mut lines = vec![format!(
        "data directory {} ({who}): {}{free}",
        usage.data_dir.display(),
        output::bytes(usage.data_dir_bytes)
    )];
    if let Some(bytes) = usage.engine_bytes {
        lines.push(format!(
            "engine, instance {}: at most {}",
            usage.instance,
            output::bytes(bytes)
        ));
    }
    if let Some(others @ 1..) = usage.other_instances {
        lines.push(format!(
            "{others} other instance{} on the engine: `ignite prune` lists {}",
            if others == 1 {
                " has something"
            } else {
                "s have something"
            },
            if others == 1 { "it" } else { "them" },
        ));
    }
    lines
}
