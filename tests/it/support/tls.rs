//! A client that speaks TLS, certificates from files, and real clients.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

/// A certificate authority of a test.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("signed"))
    }

    /// Its certificate, in a file.
    pub(crate) fn write(&self, file: &Path) {
        let text = pem::encode(&pem::Pem::new("CERTIFICATE", self.certificate().to_vec()));
        fs::write(file, text).expect("written");
    }

    /// Its certificate.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }
}

/// A certificate with its key, in two files.
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pair {
    /// Paths in a folder; nothing is there yet.
    pub(crate) fn at(folder: &Path, name: &str) -> Self {
        Self {
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        }
    }

    /// Replaces both files by a new certificate for this name, which it returns. Without an authority
    /// it signs itself.
    pub(crate) fn renew(&self, name: &str, by: Option<&Authority>) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = match by {
            None => params.self_signed(&key),
            Some(authority) => params.signed_by(&key, &*authority.0),
        };
        let certificate = certificate.expect("signed");
        let text = pem::encode(&pem::Pem::new("CERTIFICATE", certificate.der().to_vec()));
        fs::write(&self.certificate, text).expect("written");
        let text = pem::encode(&pem::Pem::new("PRIVATE KEY", key.serialize_der()));
        fs::write(&self.key, text).expect("written");
        certificate.der().clone()
    }
}

impl Pair {
    /// A server's side of connections, with the certificate that is in the files now.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::from_pem_file(&self.key).expect("a key in PEM");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate(&self.certificate)], key)
            .expect("a pair");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// The certificate in a file.
pub(crate) fn certificate(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).expect("a certificate in PEM")
}

/// Connects for HTTP/1.1, trusting these certificates.
///
/// # Errors
/// Of the connection or the handshake.
pub(crate) async fn connect(
    to: SocketAddr,
    name: &str,
    trusted: &[CertificateDer<'static>],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.clone()).expect("a root");
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = TcpStream::connect(to).await?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

/// Sends a GET and reads to the end: the status line, headers and body as text.
///
/// # Errors
/// Of the connection.
pub(crate) async fn get(
    stream: &mut TlsStream<TcpStream>,
    host: &str,
    path: &str,
) -> io::Result<String> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// What a program printed, and whether it succeeded.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        let why = String::from_utf8_lossy(&output.stderr);
        Err(format!("{}: {text}{why}", output.status))
    }
}
