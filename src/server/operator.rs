//! What an operator does with a running server's containers from outside of its process.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};

use super::{data_dir, parts};
use crate::{
    engine::docker::{self, Seal, exec::Operator},
    store::secrets::Secrets,
};

/// The client for containers of the server of a data directory, on its engine.
///
/// # Errors
/// When the directory is not a server's, its key cannot be read, or the engine's address is bad.
pub fn operator(data_dir: &Path, engine: Option<&str>) -> Result<Operator> {
    let instance = data_dir::instance_of(data_dir)
        .ok()
        .flatten()
        .ok_or_else(|| {
            anyhow!(
                "{} is not the data directory of a server",
                data_dir.display()
            )
        })?;
    let key = Secrets::derive_in(data_dir, parts::SEAL).map_err(|_| {
        anyhow!(
            "the key in {} cannot be read, by which containers of the server are told from others; run this as the user that serves",
            data_dir.join("identity").display()
        )
    })?;
    let config = docker::Config {
        host: engine.map(str::to_owned),
        ..docker::Config::new(instance, data_dir.to_owned(), Seal::new(&key))
    };
    Operator::new(config).context("the container engine's address")
}
