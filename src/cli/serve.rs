//! `ignite serve` and `ignite prune`: flags over the configuration, then the server.

use std::{path::PathBuf, process::ExitCode};

use super::{
    context::Global,
    failure::{fatal, note},
    output,
    server_log::{self, SetFilter},
};
use crate::{
    config::{Config, Flags, process_env},
    server::{self, Inherited},
};

/// The configuration cannot be used: `EX_USAGE` of sysexits.h.
const EXIT_BAD_CONFIG: u8 = 64;

/// The flags of `serve`; `--dump-config` lists every setting by its name in the file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the JSON API and the app URLs listen, as address:port; port 0 takes a free one.
    #[arg(long)]
    http_addr: Option<String>,
    /// Where gRPC listens, as address:port; port 0 takes a free one.
    #[arg(long)]
    grpc_addr: Option<String>,
    /// Where HTTPS listens, once there are certificates, as address:port.
    #[arg(long)]
    https_addr: Option<String>,
    /// Certificates of a local authority, made in the data directory: local or off.
    #[arg(long)]
    tls: Option<String>,
    /// A file with a chain of certificates in PEM; repeatable, each with its --tls-key.
    #[arg(long, value_name = "FILE")]
    tls_cert: Vec<String>,
    /// The file of a certificate's private key; repeatable, in the same order.
    #[arg(long, value_name = "FILE")]
    tls_key: Vec<String>,
    /// Listen beyond this machine without TLS.
    #[arg(long)]
    insecure_http: bool,
    /// The data directory, where the state is kept.
    #[arg(long)]
    data_dir: Option<String>,
    /// The base domain of app URLs.
    #[arg(long)]
    base_domain: Option<String>,
    /// Scheme and port of public URLs behind a TLS proxy, such as https://:443.
    #[arg(long)]
    public_url: Option<String>,
    /// Keep nothing: remove containers, networks and state on exit.
    #[arg(long)]
    ephemeral: bool,
    /// Leave containers running on a clean stop, for the next start to adopt.
    #[arg(long)]
    keep_replicas: bool,
    /// Give a data directory that was copied from another a new identity.
    #[arg(long)]
    new_instance: bool,
    /// Refuse what the cloud platform would refuse, instead of warning.
    #[arg(long)]
    strict: bool,
    /// Whom the platform serves: sandbox, team or tenants.
    #[arg(long)]
    trust: Option<String>,
    /// A file with the seccomp profile of containers.
    #[arg(long)]
    seccomp: Option<String>,
    /// The engine's runtime for apps' containers, such as runsc.
    #[arg(long)]
    runtime: Option<String>,
    /// A network of the engine that every app also joins.
    #[arg(long)]
    network: Option<String>,
    /// How containers are reached: auto, direct or published.
    #[arg(long)]
    reach: Option<String>,
    /// The container engine's address.
    #[arg(long)]
    docker_host: Option<String>,
    /// The client's organization on this machine when none is given.
    #[arg(long)]
    default_org: Option<String>,
    /// The longest that a request waits for a replica, in seconds.
    #[arg(long)]
    cold_start_budget_secs: Option<String>,
    /// The shortest scale-down period of apps, in seconds.
    #[arg(long)]
    min_scaledown_secs: Option<String>,
    /// The most replicas of one app.
    #[arg(long)]
    max_replicas_cap: Option<String>,
    /// How spare replicas are kept: pause, prepared or none.
    #[arg(long)]
    standby: Option<String>,
    /// Who freezes containers: engine, cgroup or auto.
    #[arg(long)]
    freezer: Option<String>,
    /// The format of log lines: plain or json.
    #[arg(long)]
    log_format: Option<String>,
    /// An issuer whose tokens are taken, as "URL audience=A orgs=NAME,NAME scopes=ROLE"; repeatable.
    #[arg(long, value_name = "ISSUER")]
    oidc_issuer: Vec<String>,
    /// A PEM file with certificate authorities to trust for issuers, besides the system's.
    #[arg(long, value_name = "FILE")]
    oidc_ca: Option<String>,
    /// A log level, or a filter such as info,ignite::fleet=debug.
    #[arg(long)]
    log_level: Option<String>,
    /// Any setting by its name in the configuration file; repeatable.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    /// Print the resulting configuration as TOML and exit.
    #[arg(long)]
    dump_config: bool,
}

/// The flags of `prune`.
#[derive(Debug, clap::Args)]
pub(super) struct PruneArgs {
    /// The container engine's address.
    #[arg(long)]
    docker_host: Option<String>,
    /// The data directory of the instance on this machine.
    #[arg(long)]
    data_dir: Option<String>,
    /// How long ago the lease of an instance that cannot be seen from here must have expired, such
    /// as 1h.
    #[arg(long, value_name = "DURATION")]
    after: Option<String>,
    /// Treat this instance as gone, though that cannot be verified from here; repeatable.
    #[arg(long, value_name = "INSTANCE")]
    gone: Vec<String>,
    /// The same, and remove the volumes of its apps and the images built for them; repeatable.
    #[arg(long, value_name = "INSTANCE")]
    volumes: Vec<String>,
}

pub(super) fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("write NAME=VALUE, such as pids_limit=1024")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Args {
    fn overlay(&self) -> Flags {
        let mut flags = Flags::default();
        for (name, value) in &self.set {
            flags.set(name, Some(value), &format!("--set {name}={value}"));
        }
        let switch = |on: bool| on.then_some("true");
        let joined = |files: &[String]| (!files.is_empty()).then(|| files.join(","));
        let (certificates, keys) = (joined(&self.tls_cert), joined(&self.tls_key));
        for (name, value) in [
            ("http_addr", self.http_addr.as_deref()),
            ("grpc_addr", self.grpc_addr.as_deref()),
            ("https_addr", self.https_addr.as_deref()),
            ("tls", self.tls.as_deref()),
            ("tls_cert", certificates.as_deref()),
            ("tls_key", keys.as_deref()),
            ("insecure_http", switch(self.insecure_http)),
            ("data_dir", self.data_dir.as_deref()),
            ("base_domain", self.base_domain.as_deref()),
            ("public_url", self.public_url.as_deref()),
            ("ephemeral", switch(self.ephemeral)),
            ("keep_replicas", switch(self.keep_replicas)),
            ("new_instance", switch(self.new_instance)),
            ("strict", switch(self.strict)),
            ("trust", self.trust.as_deref()),
            ("seccomp", self.seccomp.as_deref()),
            ("runtime", self.runtime.as_deref()),
            ("network", self.network.as_deref()),
            ("reach", self.reach.as_deref()),
            ("docker_host", self.docker_host.as_deref()),
            ("default_org", self.default_org.as_deref()),
            (
                "cold_start_budget_secs",
                self.cold_start_budget_secs.as_deref(),
            ),
            ("min_scaledown_secs", self.min_scaledown_secs.as_deref()),
            ("max_replicas_cap", self.max_replicas_cap.as_deref()),
            ("standby", self.standby.as_deref()),
            ("freezer", self.freezer.as_deref()),
            ("oidc_ca", self.oidc_ca.as_deref()),
            ("log_format", self.log_format.as_deref()),
            ("log_level", self.log_level.as_deref()),
        ] {
            flags.set(name, value, &format!("--{}", name.replace('_', "-")));
        }
        if !self.oidc_issuer.is_empty() {
            let all = self.oidc_issuer.join("; ");
            flags.set("oidc_issuers", Some(&all), "--oidc-issuer");
        }
        flags
    }
}

/// Serves until a signal: 0 after a clean stop, 64 on a bad configuration, 1 on a failed start.
pub(super) fn run(args: Args, file: Option<PathBuf>) -> ExitCode {
    let mut flags = args.overlay();
    let inherited = match inherit(&mut flags) {
        Ok(sockets) => sockets,
        Err(error) => {
            return fatal(
                "INVALID_ARGUMENT",
                EXIT_BAD_CONFIG,
                &format!("ignite: {error:#}"),
            );
        }
    };
    let (config, filter) = match load_with_filter(&flags, file.clone()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if args.dump_config {
        return output::line(config.to_toml().trim_end())
            .map_or_else(super::Error::report, |()| ExitCode::SUCCESS);
    }
    let before = config.clone();
    let reload = Box::new(move || {
        let now = Config::load(&process_env, file.clone(), &flags)?;
        filter(&now.log_level)?;
        let mut done = format!("the log level is {}", now.log_level);
        let others = changed(&before, &now);
        if !others.is_empty() {
            done.push_str("; a restart is needed for ");
            done.push_str(&others.join(", "));
        }
        Ok(done)
    });
    block_on(Box::pin(server::run(config, reload, inherited)), |()| {
        ExitCode::SUCCESS
    })
}

/// Takes the service manager's sockets; their addresses replace the configured ones, so that every
/// check of an address is one of theirs.
fn inherit(flags: &mut Flags) -> anyhow::Result<Inherited> {
    let inherited = Inherited::from_env()?;
    for (setting, addr) in inherited.addresses()? {
        flags.set(setting, Some(&addr.to_string()), "socket activation");
    }
    Ok(inherited)
}

/// Removes what vanished instances left behind, and prints what it removed and what stays: 0 when
/// nothing failed.
pub(super) fn prune(args: PruneArgs, global: &Global) -> ExitCode {
    let mut flags = Flags::default();
    flags.set("docker_host", args.docker_host.as_deref(), "--docker-host");
    flags.set("data_dir", args.data_dir.as_deref(), "--data-dir");
    flags.set("prune_after", args.after.as_deref(), "--after");
    let config = match load(&flags, global.config.clone()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let named = server::Named {
        gone: args.gone,
        files: args.volumes,
    };
    let format = global.output.unwrap_or_default();
    block_on(Box::pin(server::prune(config, named)), |pruned| {
        let printed = if format.is_structured() {
            format.print_value(&pruned)
        } else {
            pruned.lines().iter().try_for_each(|l| output::line(l))
        };
        if let Err(error) = printed {
            return error.report();
        }
        pruned.failures.iter().for_each(|f| note(f));
        if pruned.failures.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    })
}

/// The names of the settings that differ, without the log level.
fn changed(before: &Config, now: &Config) -> Vec<String> {
    let (before, now) = (before.to_toml(), now.to_toml());
    let lines = before.lines().zip(now.lines()).filter(|(a, b)| a != b);
    let name = |line: &str| {
        let mut words = line.trim_start_matches("# ").split(' ');
        words.next().unwrap_or_default().to_owned()
    };
    lines
        .map(|(_, line)| name(line))
        .filter(|name| name != "log_level")
        .collect()
}

/// Loads the configuration and sets up the log accordingly.
pub(super) fn load(flags: &Flags, file: Option<PathBuf>) -> Result<Config, ExitCode> {
    load_with_filter(flags, file).map(|(config, _)| config)
}

/// As [`load`]; also returns the function that changes the log's filter.
fn load_with_filter(flags: &Flags, file: Option<PathBuf>) -> Result<(Config, SetFilter), ExitCode> {
    let bad = |text: String| {
        fatal(
            "INVALID_ARGUMENT",
            EXIT_BAD_CONFIG,
            &format!("ignite: {text}"),
        )
    };
    let config = Config::load(&process_env, file, flags).map_err(|e| bad(e.to_string()))?;
    let set = server_log::install(&config).map_err(|e| bad(format!("{e:#}")))?;
    server::check(&config).map_err(|e| bad(format!("{e:#}")))?;
    Ok((config, set))
}

pub(super) fn block_on<T>(
    work: impl Future<Output = anyhow::Result<T>>,
    then: impl FnOnce(T) -> ExitCode,
) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            return fatal(
                "FAILED",
                1,
                &format!("ignite: cannot start the async runtime: {e}"),
            );
        }
    };
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    match outcome {
        Ok(value) => then(value),
        Err(e) => fatal("FAILED", 1, &format!("ignite: {e:#}")),
    }
}
