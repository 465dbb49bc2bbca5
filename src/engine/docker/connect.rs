//! The engine's address, and the lazily made client to it.
//!
//! The address comes from the configuration, else `DOCKER_HOST`, else the docker command's context,
//! else the usual sockets of Docker and Podman, rootless and desktop ones included. A bad address
//! is refused at once. An absent engine is not: the client is made on first use, so `ignite` starts
//! before its engine and finds it when it appears.

use std::path::{Path, PathBuf};

use bollard::{API_DEFAULT_VERSION, errors::Error as ClientError};
use http::uri::Authority;
use parking_lot::Mutex;

use super::{
    Error,
    api_version::ApiVersion,
    cli_config::CliConfig,
    local_sockets::{choose, usual_sockets},
};

/// This process, or the whole machine, has no file descriptor left.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// The accepted forms of address, for error messages.
const FORMS: &str = "give unix:///path/to/socket, tcp://host:port, http://host:port or https://host:port \
     (with DOCKER_TLS_VERIFY and DOCKER_CERT_PATH for TLS)";
/// Docker's registered ports, without and with TLS.
const PLAIN_PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;
/// Bollard's own limit per request, in seconds: longer than any limit of ours, which take effect
/// because they also cover the body of the response.
const CLIENT_TIMEOUT_SECS: u64 = 24 * 60 * 60;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// The first of these sockets that exists.
    Unix(Vec<PathBuf>),
    /// HTTP, host and port.
    Plain(String),
    /// HTTPS, host and port, and the directory of `ca.pem`, `cert.pem` and `key.pem`.
    Tls(String, PathBuf),
}

impl Address {
    /// Finds the address: `host`, else `DOCKER_HOST`, else the docker command's context, else the
    /// usual sockets. `env` reads a variable.
    ///
    /// # Errors
    /// [`Error::BadAddress`] for a value in no accepted form, a context that cannot be used, or
    /// missing certificates.
    pub(super) fn find(
        host: Option<&str>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        Self::find_with_reason(host, env).map(|(address, _)| address)
    }

    /// As [`Self::find`], with who chose the address, as part of a sentence.
    pub(super) fn find_with_reason(
        host: Option<&str>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<(Self, String), Error> {
        let set = |name: &str| env(name).filter(|v| !v.is_empty());
        let given = host.map(str::to_owned).filter(|h| !h.is_empty());
        if let Some(value) = given.or_else(|| set("DOCKER_HOST")) {
            let address = Self::parse(value.trim(), set)?;
            return Ok((address, "docker_host or DOCKER_HOST says so".to_owned()));
        }
        let context = CliConfig::new(&env)
            .context()
            .map_err(|(value, why)| Error::BadAddress { value, why })?;
        let Some(context) = context else {
            let why = "it is the first of the usual sockets that answers".to_owned();
            return Ok((Self::Unix(usual_sockets(set)), why));
        };
        // The environment's TLS settings apply to `DOCKER_HOST`; a context has its own.
        let address = Self::parse(context.host.trim(), |name| match name {
            "DOCKER_TLS_VERIFY" | "DOCKER_CERT_PATH" => {
                let directory = context.certificates.as_ref()?;
                Some(directory.to_string_lossy().into_owned())
            }
            _ => None,
        });
        let whose = format!(
            "{} names the docker context {:?}",
            context.chosen_by, context.name
        );
        match address {
            Ok(address) => Ok((address, whose)),
            Err(Error::BadAddress { value, why }) => Err(Error::BadAddress {
                value,
                why: format!("{why} ({whose}; DOCKER_CONTEXT=default leaves it aside)"),
            }),
            Err(other) => Err(other),
        }
    }

    fn parse(value: &str, set: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let refuse = |why: String| Error::BadAddress {
            value: value.to_owned(),
            why,
        };
        let Some((scheme, rest)) = value.split_once("://") else {
            let hint = if value.starts_with('/') {
                format!("did you mean unix://{value}? ")
            } else {
                String::new()
            };
            return Err(refuse(format!("it has no scheme; {hint}{FORMS}")));
        };
        let tls = match scheme {
            "unix" if rest.starts_with('/') => return Ok(Self::Unix(vec![rest.into()])),
            "unix" => {
                return Err(refuse(
                    "the socket's path is not absolute; write unix:///path/to/socket".into(),
                ));
            }
            "tcp" => set("DOCKER_TLS_VERIFY").is_some(),
            "http" => false,
            "https" => true,
            "ssh" => {
                return Err(refuse(
                    "ssh is not supported; forward the socket (ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock HOST) \
                     and give unix:///tmp/docker.sock"
                        .into(),
                ));
            }
            other => {
                return Err(refuse(format!(
                    "the scheme {other:?} is not supported; {FORMS}"
                )));
            }
        };
        let authority: Authority = rest
            .trim_end_matches('/')
            .parse()
            .map_err(|_| refuse(format!("{rest:?} is not a host and port; {FORMS}")))?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(refuse(format!("{rest:?} is not a host and port; {FORMS}")));
        }
        // Not `Authority::port`, which reports a number that is too large as no port.
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            None => {
                if tls {
                    TLS_PORT
                } else {
                    PLAIN_PORT
                }
            }
            Some(port) => port
                .parse()
                .ok()
                .filter(|p| *p != 0)
                .ok_or_else(|| refuse(format!("{port:?} is not a port between 1 and 65535")))?,
        };
        let target = format!("{}:{port}", authority.host());
        if !tls {
            return Ok(Self::Plain(target));
        }
        let certs = certificates(set).map_err(refuse)?;
        Ok(Self::Tls(target, certs))
    }

    /// The host of a remote engine, without brackets; `None` when it is this machine.
    pub(super) fn remote_host(&self) -> Option<&str> {
        let (Self::Plain(target) | Self::Tls(target, _)) = self else {
            return None;
        };
        let (host, _) = target.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let here = host == "localhost"
            || host
                .parse()
                .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        (!here).then_some(host)
    }

    /// Whether the engine is reached through a socket file.
    pub(super) fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

/// The directory of the certificates for TLS, with all three in it.
///
/// # Errors
/// The missing file, and where it is expected.
fn certificates(set: impl Fn(&str) -> Option<String>) -> Result<PathBuf, String> {
    let certs = set("DOCKER_CERT_PATH")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".docker")))
        .ok_or("TLS needs DOCKER_CERT_PATH, the directory of ca.pem, cert.pem and key.pem")?;
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        if let Err(cause) = std::fs::File::open(certs.join(file)) {
            return Err(format!(
                "TLS needs {} ({cause}); set DOCKER_CERT_PATH to the directory of ca.pem, cert.pem and key.pem",
                certs.join(file).display()
            ));
        }
    }
    Ok(certs)
}

/// The address, and the client to it once there is one.
#[derive(Debug)]
pub(super) struct Connector {
    address: Address,
    /// Held only to clone or replace; making a client reads files but never the network.
    client: Mutex<Option<bollard::Docker>>,
    /// The version of the API that is spoken; `None` before the engine has said which it knows.
    version: Mutex<Option<ApiVersion>>,
}

impl Connector {
    pub(super) fn new(address: Address) -> Self {
        // Bollard signs with the process-wide TLS provider. An error means that one is installed
        // already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            address,
            client: Mutex::new(None),
            version: Mutex::new(None),
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The socket file that answers; `None` when the engine is reached another way.
    pub(super) fn socket(&self) -> Option<PathBuf> {
        match &self.address {
            Address::Unix(sockets) => choose(sockets).or_else(|| sockets.first()).cloned(),
            Address::Plain(_) | Address::Tls(..) => None,
        }
    }

    /// The client; made now if this is the first call since a socket exists.
    pub(super) fn client(&self) -> Result<bollard::Docker, Error> {
        let mut slot = self.client.lock();
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let client = self.connect().map_err(|cause| self.unreachable(&cause))?;
        let client = match self.version() {
            Some(version) => version.put_on(client),
            None => client,
        };
        *slot = Some(client.clone());
        Ok(client)
    }

    /// Makes the next call find the sockets again: another engine may be running by then.
    pub(super) fn forget(&self) {
        *self.client.lock() = None;
    }

    /// Makes further calls without a version: the engine refused the one that was agreed on, so it
    /// is another engine by now.
    pub(super) fn forget_version(&self) {
        *self.version.lock() = None;
        self.forget();
    }

    /// Makes every further call in this version of the API.
    pub(super) fn speak(&self, version: Option<ApiVersion>) {
        let before = std::mem::replace(&mut *self.version.lock(), version);
        if before != version {
            self.forget();
        }
    }

    /// The version of the API that is spoken, once it is known.
    pub(super) fn version(&self) -> Option<ApiVersion> {
        *self.version.lock()
    }

    /// The error for an engine that does not respond.
    pub(super) fn unreachable(&self, cause: &ClientError) -> Error {
        let cause = innermost(cause);
        let system = cause.downcast_ref::<std::io::Error>();
        match system.and_then(std::io::Error::raw_os_error) {
            Some(EMFILE | ENFILE) => Error::NoDescriptors,
            _ => Error::Unreachable {
                address: self.describe(),
                cause: cause.to_string(),
            },
        }
    }

    /// The address as a user would write it.
    pub(super) fn describe(&self) -> String {
        match &self.address {
            Address::Unix(sockets) => match choose(sockets).or_else(|| sockets.first()) {
                Some(socket) => format!("unix://{}", socket.display()),
                None => "unix://".to_owned(),
            },
            Address::Plain(target) => format!("tcp://{target}"),
            Address::Tls(target, _) => format!("https://{target}"),
        }
    }

    fn connect(&self) -> Result<bollard::Docker, ClientError> {
        let (limit, version) = (CLIENT_TIMEOUT_SECS, API_DEFAULT_VERSION);
        match &self.address {
            Address::Unix(sockets) => match choose(sockets) {
                Some(socket) => {
                    bollard::Docker::connect_with_unix(&socket.to_string_lossy(), limit, version)
                }
                None => {
                    let looked: Vec<_> = sockets.iter().map(|s| s.display().to_string()).collect();
                    Err(ClientError::SocketNotFoundError(looked.join(", ")))
                }
            },
            Address::Plain(target) => bollard::Docker::connect_with_http(target, limit, version),
            Address::Tls(target, certs) => {
                let file = |name| certs.join(name);
                bollard::Docker::connect_with_ssl(
                    target,
                    &file("key.pem"),
                    &file("cert.pem"),
                    &file("ca.pem"),
                    limit,
                    version,
                )
            }
        }
    }
}

/// The innermost cause of an error: the outer ones only say "client error".
fn innermost(err: &ClientError) -> &(dyn std::error::Error + 'static) {
    let mut deepest: &(dyn std::error::Error + 'static) = err;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn find(host: &str, env: &[(&str, &str)]) -> Result<Address, String> {
        let lookup = |name: &str| {
            env.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        };
        Address::find(Some(host).filter(|h| !h.is_empty()), lookup).map_err(|e| e.to_string())
    }

    #[test]
    fn every_documented_form_is_understood() {
        assert_eq!(
            find("unix:///a/b.sock", &[]),
            Ok(Address::Unix(vec!["/a/b.sock".into()]))
        );
        assert_eq!(
            find("tcp://docker", &[]),
            Ok(Address::Plain("docker:2375".into()))
        );
        assert_eq!(
            find("http://10.0.0.1:99/", &[]),
            Ok(Address::Plain("10.0.0.1:99".into()))
        );
        assert_eq!(
            find("tcp://[::1]:2375", &[]),
            Ok(Address::Plain("[::1]:2375".into()))
        );
        assert_eq!(
            find("", &[("DOCKER_HOST", "tcp://h:1")]),
            Ok(Address::Plain("h:1".into()))
        );
        let usual = find("", &[("XDG_RUNTIME_DIR", "/run/user/7")]).expect("no address is fine");
        assert_eq!(
            usual,
            Address::Unix(vec![
                "/var/run/docker.sock".into(),
                "/run/user/7/docker.sock".into(),
                "/run/user/7/podman/podman.sock".into(),
                "/run/podman/podman.sock".into()
            ])
        );
        let Ok(Address::Unix(at_home)) = find("", &[("HOME", "/h")]) else {
            panic!("no sockets");
        };
        for socket in [
            "/h/.docker/desktop/docker.sock",
            "/h/.config/colima/default/docker.sock",
        ] {
            assert!(at_home.contains(&socket.into()), "{at_home:?}");
        }
    }

    #[test]
    fn tls_needs_its_three_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().to_str().expect("plain path");
        let env = [("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", path)];
        std::fs::write(dir.path().join("ca.pem"), "").expect("writes");
        assert!(
            find("tcp://h", &env)
                .expect_err("no cert")
                .contains("cert.pem")
        );
        for file in ["cert.pem", "key.pem"] {
            std::fs::write(dir.path().join(file), "").expect("writes");
        }
        assert_eq!(
            find("tcp://h", &env),
            Ok(Address::Tls("h:2376".into(), path.into()))
        );
        assert_eq!(
            find("https://h:1", &env[1..]),
            Ok(Address::Tls("h:1".into(), path.into()))
        );
    }

    #[test]
    fn bad_addresses_are_refused_with_the_remedy() {
        let err = |host: &str| find(host, &[]).expect_err(host);
        assert!(err("/var/run/docker.sock").contains("unix:///var/run/docker.sock"));
        assert!(err("unix://docker.sock").contains("absolute"));
        assert!(err("ssh://me@host").contains("forward the socket"));
        assert!(err("npipe:////./pipe/docker").contains("\"npipe\""));
        assert!(err("tcp://").contains("tcp://host:port"));
        assert!(err("tcp://host:99999").contains("65535"));
        assert!(err("tcp://host/path").contains("not a host"));
    }

    #[test]
    fn a_context_says_where_the_engine_is_unless_a_host_does() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().to_str().expect("plain path");
        let with = |host: &str| {
            let digest = crate::model::hex::encode(&Sha256::digest("lab"));
            let meta = dir.path().join("contexts/meta").join(digest);
            std::fs::create_dir_all(&meta).expect("made");
            let text = format!(r#"{{"Name":"lab","Endpoints":{{"docker":{{"Host":"{host}"}}}}}}"#);
            std::fs::write(meta.join("meta.json"), text).expect("written");
        };
        let env = [("DOCKER_CONFIG", path), ("DOCKER_CONTEXT", "lab")];
        with("tcp://lab.example:2375");
        assert_eq!(
            find("", &env),
            Ok(Address::Plain("lab.example:2375".into()))
        );
        assert_eq!(
            find("unix:///a", &env),
            Ok(Address::Unix(vec!["/a".into()]))
        );
        let with_host = [env[0], env[1], ("DOCKER_HOST", "tcp://h:1")];
        assert_eq!(find("", &with_host), Ok(Address::Plain("h:1".into())));
        // The TLS variables belong to `DOCKER_HOST`.
        let with_tls = [env[0], env[1], ("DOCKER_TLS_VERIFY", "1")];
        assert!(matches!(find("", &with_tls), Ok(Address::Plain(_))));
        with("ssh://me@lab.example");
        let why = find("", &env).expect_err("no ssh");
        for word in ["forward the socket", "DOCKER_CONTEXT", "\"lab\""] {
            assert!(why.contains(word), "{why}");
        }
        let unknown = [env[0], ("DOCKER_CONTEXT", "gone")];
        assert!(
            find("", &unknown)
                .expect_err("none")
                .contains("no such context")
        );
    }

    #[test]
    fn only_another_machine_is_remote() {
        let remote = |host: &str| {
            find(host, &[])
                .expect(host)
                .remote_host()
                .map(str::to_owned)
        };
        assert_eq!(
            remote("tcp://build.example:2375").as_deref(),
            Some("build.example")
        );
        assert_eq!(remote("tcp://[fd00::1]:2375").as_deref(), Some("fd00::1"));
        assert_eq!(remote("tcp://[::1]:2375"), None);
        assert_eq!(remote("tcp://127.0.0.1:2375"), None);
        assert_eq!(remote("unix:///x"), None);
    }
}
