//! How a client on the same machine finds the server: `<data_dir>/serve.json`.
//!
//! The server writes the file when it is ready and removes it when it stops. The file survives a
//! crash, so it says only where a server may be.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::model::OrgName;

/// Where a server can be reached from its own machine: a listener on every address is recorded with
/// the loopback one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Base URL of the HTTP listener, such as `http://127.0.0.1:8080`.
    pub http: String,
    /// URL of the gRPC listener, such as `http://127.0.0.1:50051`.
    pub grpc: String,
    /// The server's process id.
    pub pid: u32,
    /// The organization of clients that name none.
    pub default_org: String,
    /// URL of the plain HTTP listener, which answers `/readyz` with TLS, too; `None` in files of an
    /// older `ignite`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<String>,
    /// How to check the server's certificate; `None` where it speaks without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<LocalTls>,
    /// The container engine's address; `None` in files of an older `ignite`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
}

/// How a client on the server's own machine checks its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalTls {
    /// Where HTTPS listens.
    pub https: SocketAddr,
    /// The certificate of the authority that is to be trusted; `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// The name that the certificate is for; `None` when it is for the address.
    pub name: Option<String>,
}

impl Serving {
    /// This process, listening on these addresses; with TLS, gRPC is on the same address, and HTTP on
    /// one more.
    pub fn new(
        http: SocketAddr,
        grpc: SocketAddr,
        default_org: &OrgName,
        tls: Option<LocalTls>,
    ) -> Self {
        let plain = format!("http://{}", reachable(http));
        let (scheme, http) = match &tls {
            Some(tls) => ("https", tls.https),
            None => ("http", http),
        };
        Self {
            http: format!("{scheme}://{}", reachable(http)),
            grpc: format!("{scheme}://{}", reachable(grpc)),
            pid: std::process::id(),
            default_org: default_org.to_string(),
            plain: Some(plain),
            tls,
            engine: None,
        }
    }

    /// Where the server says whether it is ready.
    pub fn ready_url(&self) -> String {
        format!("{}/readyz", self.plain.as_ref().unwrap_or(&self.http))
    }

    /// Writes the whole file, over one that a crash left.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, data_dir: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.persist(path(data_dir)).map_err(|e| e.error)?;
        Ok(())
    }

    /// Reads the file; `None` when it is missing or unreadable.
    pub fn read(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path(data_dir)).ok()?).ok()
    }

    /// Removes the file. A missing one is a success.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(data_dir: &Path) -> io::Result<()> {
        match std::fs::remove_file(path(data_dir)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// An address that a client on this machine can connect to.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, addr.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, addr.port()).into(),
        _ => addr,
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("serve.json")
}
