//! Which certificate a TLS connection gets: one from a file that has the name it asks for, else one
//! of the local authority, if there is one and the host exists. A connection that asks for another
//! name gets none.
//!
//! | file | subject |
//! |---|---|
//! | `files.rs` | certificates from files, read again when they change |
//! | `authority.rs` | the local certificate authority, kept in the data directory |
//! | `local.rs` | the certificates that it makes, and for which hosts |
//! | `trust_files.rs` | the files by which programs in containers trust it |
//! | `names.rs` | whether a certificate has a name |
//! | `sessions.rs` | what all connections share, whatever their certificate |

pub mod authority;
mod files;
mod local;
mod names;
mod sessions;
mod trust_files;

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use self::{files::Files, local::Local, sessions::Sessions};

pub use local::Own;
pub use sessions::Protocol;
pub use trust_files::TrustFiles;

/// Whether a host, in lower case, leads to an app.
pub type Exists = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Where certificates come from.
pub struct Config {
    /// Files with chains of certificates, and those with their keys.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// The local authority; `None` without one.
    pub local: Option<LocalConfig>,
}

/// The local authority, and what it makes certificates for.
pub struct LocalConfig {
    /// Keeps the authority.
    pub data_dir: PathBuf,
    /// The hosts of the server itself.
    pub own: Own,
    /// Most certificates for other hosts that are kept.
    pub hosts_cached: u64,
}

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file with a certificate or a key is not to be used.
    #[error("{0}")]
    File(String),
    /// The local authority cannot be had.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// The library refuses, or the system gives no random bytes.
    #[error("TLS cannot be set up: {0}")]
    Library(#[from] rustls::Error),
}

/// The certificates; clones share them.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    files: Files,
    local: Option<Local>,
}

impl Tls {
    /// Reads every file, and opens or makes the local authority.
    ///
    /// # Errors
    /// What cannot be used, and why.
    pub fn open(config: Config) -> Result<Self, Error> {
        let sessions = Sessions::new()?;
        let files = Files::open(config.files, sessions.clone())?;
        let local = config.local.map(|local| Local::open(local, sessions));
        Ok(Self {
            shared: Arc::new(Shared {
                files,
                local: local.transpose()?,
            }),
        })
    }

    /// What a connection to this machine's address `here` is served with when it asks for `name`;
    /// `None` when there is no certificate for that. Certificates are made on another thread.
    pub async fn choose(
        &self,
        name: Option<&str>,
        here: IpAddr,
        protocol: Protocol,
        exists: &Exists,
    ) -> Option<Arc<ServerConfig>> {
        let Shared { files, local } = &*self.shared;
        let name = name.map(str::to_ascii_lowercase);
        let found = match (&name, local) {
            (Some(name), _) => files.find(name),
            (None, None) => files.first(),
            // Clients that ask for an address cannot name it.
            (None, Some(_)) => None,
        };
        if let Some(found) = found {
            return Some(found.config(protocol));
        }
        let found = local.as_ref()?.choose(name, here, exists).await?;
        Some(found.config(protocol))
    }

    /// Reads the files again where they have changed. One that cannot be used leaves what it was.
    /// Answers in words what it did.
    pub fn reload(&self) -> String {
        self.shared.files.reload()
    }

    /// Looks for changed files now and then, until `stop`.
    pub async fn watch(self, every: Duration, stop: CancellationToken) {
        if self.shared.files.is_empty() {
            return;
        }
        let look = async {
            loop {
                tokio::time::sleep(every).await;
                let tls = self.clone();
                // A panic is reported by the runtime; the next look comes all the same.
                let _ = tokio::task::spawn_blocking(move || tls.reload()).await;
            }
        };
        stop.run_until_cancelled(look).await;
    }

    /// What is wrong with changed files; their earlier certificates are still in use.
    pub fn warnings(&self) -> Vec<String> {
        self.shared.files.warnings()
    }

    /// The certificate of the local authority, in PEM, if there is one.
    pub fn local_authority(&self) -> Option<&str> {
        self.shared.local.as_ref().map(Local::authority)
    }

    /// The name by which a client on this machine checks the certificate of an address; `None` when
    /// the certificate is for the address.
    pub fn name_here(&self) -> Option<String> {
        match self.shared.local {
            Some(_) => None,
            None => self.shared.files.first_name(),
        }
    }
}

#[cfg(test)]
mod tests;
