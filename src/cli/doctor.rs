//! `ignite doctor`: whether this machine and its engine have what the platform needs.

use std::process::ExitCode;

use super::{context::Global, output, serve};
use crate::{
    config::Flags,
    server::{self, Diagnosis, Outcome},
};

/// The flags of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The container engine's address.
    #[arg(long)]
    docker_host: Option<String>,
    /// The data directory that the server has, or is to have.
    #[arg(long)]
    data_dir: Option<String>,
    /// Any setting by its name in the configuration file; repeatable.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = serve::assignment)]
    set: Vec<(String, String)>,
}

/// Prints each check; 0 when none failed.
pub(super) fn run(args: Args, global: &Global) -> ExitCode {
    let mut flags = Flags::default();
    for (name, value) in &args.set {
        flags.set(name, Some(value), &format!("--set {name}={value}"));
    }
    flags.set("docker_host", args.docker_host.as_deref(), "--docker-host");
    flags.set("data_dir", args.data_dir.as_deref(), "--data-dir");
    let config = match serve::load(&flags, global.config.clone()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let format = global.output.unwrap_or_default();
    let examined = async { Ok(server::examine(&config).await) };
    serve::block_on(examined, |diagnosis: Diagnosis| {
        let printed = if format.is_structured() {
            format.print_value(&diagnosis)
        } else {
            print(&diagnosis)
        };
        match printed {
            Err(error) => error.report(),
            Ok(()) if diagnosis.healthy => ExitCode::SUCCESS,
            Ok(()) => ExitCode::FAILURE,
        }
    })
}

fn print(diagnosis: &Diagnosis) -> Result<(), super::Error> {
    for check in &diagnosis.checks {
        let outcome = match check.outcome {
            Outcome::Ok => "ok",
            Outcome::Warn => "warn",
            Outcome::Fail => "FAIL",
        };
        output::line(&format!("{outcome:<5} {:<9} {}", check.name, check.found))?;
        if !check.remedy.is_empty() {
            output::line(&format!("                → {}", check.remedy))?;
        }
    }
    Ok(())
}
