//! What builds are given: their settings, and the way to secrets.

use std::sync::Arc;

use super::{clamp, data_dir::DataDir};
use crate::{
    build::{
        self, Limits, Vault,
        runtime::{deno, go, python, rust},
    },
    config::Config,
    store::secrets::Secrets,
    vitals::Vitals,
};

/// The folder for source trees, in the data directory: their disk is the one that is watched.
const SCRATCH: &str = "builds";

pub(super) fn config(c: &Config, data: &DataDir, vitals: &Vitals) -> build::Config {
    build::Config {
        instance: data.instance().clone(),
        scratch: data.path().join(SCRATCH),
        concurrency: c.build_concurrency,
        queue_max: c.build_queue_max,
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
        logs_kept: c.build_logs_kept,
        network: c.build_network.clone(),
        git_timeout: c.git_timeout,
        strict: c.strict,
        vitals: vitals.clone(),
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
    }
}

/// The secrets, as builds see them: asked afresh at each one.
pub(super) fn vault(secrets: &Secrets) -> Vault {
    let secrets = secrets.clone();
    Arc::new(move |org, name, kind| {
        let secrets = secrets.clone();
        Box::pin(async move { secrets.for_build(&org, &name, kind).await })
    })
}
