//! `ignite store`: runs the store's tools under the data directory's lock, so that they never run
//! beside a server.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::data_dir;
use crate::{
    api::{export as wire, proto::v1},
    config::Config,
    store::tools::{self, Compacted, Execution, Exported, Problem, Repaired, Report},
};

/// A record of the store as the API's messages.
pub enum Item {
    /// An app.
    App(Box<App>),
    /// An execution, and its record with the request.
    Execution(Box<v1::Execution>, Box<Execution>),
}

/// An app and its code.
pub struct App {
    /// The app.
    pub app: v1::AppMeta,
    /// Its draft.
    pub draft: Option<v1::DraftInfo>,
    /// Its versions, each with the app as it was published.
    pub versions: Vec<(v1::AppVersion, v1::AppMeta)>,
}

/// Checks the store of a data directory.
///
/// # Errors
/// When there is no store, or an `ignite` uses it. Damage is in the report.
pub fn check(config: &Config) -> Result<Report> {
    let _lock = hold_unchanged(&config.data_dir)?;
    Ok(tools::check(&config.data_dir))
}

/// Rewrites the store of a data directory without unused space.
///
/// # Errors
/// As [`check`], and when it could not be written.
pub fn compact(config: &Config) -> Result<Compacted> {
    let _lock = hold(&config.data_dir)?;
    tools::compact(&config.data_dir)
        .map_err(anyhow::Error::msg)
        .context("the store could not be compacted")
}

/// Saves what can be saved of damaged journals in a data directory.
///
/// # Errors
/// As [`check`], and when it could not be written.
pub fn repair(config: &Config) -> Result<Repaired> {
    let _lock = hold(&config.data_dir)?;
    tools::repair(&config.data_dir)
        .map_err(anyhow::Error::msg)
        .context("the store could not be repaired")
}

/// Passes every record in the store of a data directory to `each`; returns what could not be read.
///
/// # Errors
/// The error of `each`, and as [`check`].
pub fn export<E: From<anyhow::Error>>(
    config: &Config,
    mut each: impl FnMut(Item) -> Result<(), E>,
) -> Result<Vec<Problem>, E> {
    let _lock = hold_unchanged(&config.data_dir)?;
    tools::export(&config.data_dir, &mut |exported| each(item(exported)))
}

fn item(exported: Exported) -> Item {
    match exported {
        Exported::App(app) => Item::App(Box::new(App {
            app: wire::app(&app),
            draft: wire::draft(&app),
            versions: app
                .versions
                .iter()
                .map(|v| wire::version(&app, v))
                .collect(),
        })),
        Exported::Execution(execution) => {
            Item::Execution(Box::new(wire::execution(&execution.record)), execution)
        }
    }
}

fn hold(data_dir: &Path) -> Result<data_dir::Lock> {
    // Checked first: the lock would leave a file in a folder that is not a data directory.
    must_be_there(data_dir)?;
    data_dir::hold(data_dir)
}

/// As [`hold`], without writing to the directory.
fn hold_unchanged(data_dir: &Path) -> Result<Option<data_dir::Lock>> {
    must_be_there(data_dir)?;
    data_dir::hold_unchanged(data_dir)
}

fn must_be_there(data_dir: &Path) -> Result<()> {
    if !tools::is_there(data_dir) {
        bail!(
            "there is no store in {}; name the data directory with --data-dir (IGNITE_DATA_DIR)",
            data_dir.display()
        );
    }
    Ok(())
}
