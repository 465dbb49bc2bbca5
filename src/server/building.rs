//! The builder's settings, and its access to secrets.

use std::sync::Arc;

use super::{base::Base, clamp, data_dir::DataDir};
use crate::{
    builder::{
        self, Admission, Limits, OpenArgs, SecretUse, Vault,
        runtime::{self, deno, go, python, rust},
    },
    config::Config,
    engine::{BuildLimits, BuildNetwork},
    model::image_name::Naming,
    store::secrets::Secrets,
};

/// The folder for source trees, in the data directory, since that is the disk whose free space is
/// watched.
const SCRATCH: &str = "builds";

/// The folder for logs of builds, in the data directory.
const LOGS: &str = "build-logs";

pub(super) fn config(base: &Base) -> builder::Config {
    let (c, data) = (&base.config, &base.data);
    builder::Config {
        instance: data.instance().clone(),
        scratch: data.path().join(SCRATCH),
        concurrency: c.build_concurrency,
        per_org: c.build_permits_per_org(),
        queue_max: c.build_queue_max,
        queue_per_org: c.build_queue_per_org(),
        timeout: c.build_timeout,
        limits: Limits {
            bytes: c.code_max_unpacked_bytes,
            entries: c.code_max_files,
            ratio: c.code_max_ratio,
            depth: c.code_max_depth,
            path_bytes: c.code_max_path_bytes,
            links: c.code_max_links,
        },
        log_bytes: clamp(c.build_log_bytes),
        logs: data.path().join(LOGS),
        logs_kept: c.build_logs_kept,
        logs_bytes: c.build_logs_bytes,
        network: network(c),
        step_limits: step_limits(c),
        git_files: c.git_file_urls.unwrap_or_else(|| !c.trust.isolates_host()),
        git_timeout: c.git_timeout,
        strict: c.strict,
        vitals: base.vitals.clone(),
        tracer: base.tracer.clone(),
        metrics: base.metrics.clone(),
        runtimes: runtime::Settings {
            python: python::Settings {
                image: c.python_base.clone(),
                index_url: c.pip_index_url.as_ref().map(ToString::to_string),
            },
            deno: deno::Settings {
                image: c.deno_base.clone(),
            },
            rust: rust::Settings {
                builder: c.rust_builder.clone(),
                image: c.rust_base.clone(),
            },
            go: go::Settings {
                builder: c.go_builder.clone(),
                image: c.go_base.clone(),
            },
        },
    }
}

/// Where build steps run: behind egress rules, unless the trust level lets them reach this machine
/// or the operator names a network.
fn network(c: &Config) -> BuildNetwork {
    match &c.build_network {
        Some(name) => BuildNetwork::Named(name.clone()),
        None if c.trust.isolates_host() => BuildNetwork::Isolated,
        None => BuildNetwork::Engine,
    }
}

/// Limits of build steps: the whole of a single user's machine, but half of a shared one for all
/// builds together.
fn step_limits(c: &Config) -> BuildLimits {
    let builds = u32::try_from(c.build_concurrency).unwrap_or(u32::MAX);
    BuildLimits {
        memory_bytes: c.build_memory,
        cpu_millicores: c.build_cpu_millicores,
        shares: if c.trust.isolates_host() {
            builds.saturating_mul(2)
        } else {
            1
        },
        cgroup_parent: c.build_cgroup_parent.clone(),
        required: c.trust.isolates_organizations(),
    }
}

/// Decides which images and hosts are admitted.
pub(super) fn admission(c: &Config, data: &DataDir) -> Admission {
    let naming = Naming {
        trust: c.trust,
        instance: data.instance().clone(),
    };
    Admission::new(naming, c.build_allow.clone(), c.image_grant_ttl)
}

/// Lets builds look secrets up, afresh each time.
pub(super) fn vault(secrets: &Secrets) -> Vault {
    let secrets = secrets.clone();
    Arc::new(move |org, name, needed| {
        let secrets = secrets.clone();
        Box::pin(async move {
            match needed {
                SecretUse::Registry => secrets.for_bases(&org, &name).await,
                SecretUse::Git { host } => secrets.for_git(&org, &name, &host).await,
            }
        })
    })
}

/// Lets builds decrypt their arguments.
pub(super) fn open_args(secrets: &Secrets) -> OpenArgs {
    let secrets = secrets.clone();
    Arc::new(move |org, args| {
        let secrets = secrets.clone();
        Box::pin(async move { secrets.open_args(&org, args).await })
    })
}
