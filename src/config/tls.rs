//! The settings of TLS, and what may be listened on without it.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use super::Config;

/// Port of the HTTPS listener when nothing is said, beside an unprivileged port for HTTP.
const HTTPS_PORT: u16 = 8443;

/// Where certificates come from when no file has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// From nowhere: without files there is no TLS.
    Off,
    /// From a certificate authority in the data directory.
    Local,
}

/// Paths of files, with commas between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files(pub Vec<PathBuf>);

/// The settings of TLS; their names are the same in [`Config`]'s file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// `tls`, `IGNITE_TLS`: `local` for certificates of a certificate authority that is made in the
    /// data directory, for hosts that `tls_cert` does not have; `off` for those of `tls_cert`
    /// alone. Default `off`.
    pub mode: TlsMode,
    /// `tls_cert`, `IGNITE_TLS_CERT`: files with chains of certificates in PEM, separated by commas
    /// (a flag `--tls-cert` for each). Clients get the first that has the name they ask for.
    /// Default: none.
    pub certificates: Option<Files>,
    /// `tls_key`, `IGNITE_TLS_KEY`: the files of their private keys, in the same order (a flag
    /// `--tls-key` for each). Default: none.
    pub keys: Option<Files>,
    /// `https_addr`, `IGNITE_HTTPS_ADDR`: where HTTPS listens, once there are certificates. Port 0
    /// takes a free one. Default: the address of `http_addr`, at port 8443; at 443 when that is 80.
    pub https_addr: Option<SocketAddr>,
    /// `http_redirect`, `IGNITE_HTTP_REDIRECT`: once there is HTTPS, plain HTTP only redirects
    /// there, except for `/healthz` and `/readyz`. Default `true`.
    pub redirect: bool,
    /// `insecure_http`, `IGNITE_INSECURE_HTTP`: listen beyond this machine without TLS. Default
    /// `false`: such an address is refused.
    pub insecure_http: bool,
    /// `tls_check_interval`, `IGNITE_TLS_CHECK_INTERVAL`: time between two checks whether the files
    /// of `tls_cert` and `tls_key` have changed and are to be read again. Default 10 s.
    pub check_interval: Duration,
    /// `tls_handshake_timeout`, `IGNITE_TLS_HANDSHAKE_TIMEOUT`: longest time for a new connection to
    /// get through its handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// `tls_handshakes`, `IGNITE_TLS_HANDSHAKES`: most handshakes at a time on each listener, a
    /// quarter of them with one address; others wait. Default 256.
    pub handshakes: usize,
    /// `tls_hosts_cached`, `IGNITE_TLS_HOSTS_CACHED`: most certificates that the local authority
    /// keeps for hosts that its wildcard does not cover. Default 1024.
    pub hosts_cached: u64,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            mode: TlsMode::Off,
            certificates: None,
            keys: None,
            https_addr: None,
            redirect: true,
            insecure_http: false,
            // A new certificate is made days before the old one expires; its key may be written a
            // moment later.
            check_interval: Duration::from_secs(10),
            // Three round trips of a phone in a tunnel.
            handshake_timeout: Duration::from_secs(10),
            // Each takes a core for about a millisecond, and some 30 KB.
            handshakes: 256,
            hosts_cached: 1024,
        }
    }
}

impl Tls {
    /// Whether there are certificates.
    pub fn is_on(&self) -> bool {
        self.mode != TlsMode::Off || self.certificates.is_some()
    }

    /// Each file of a certificate with that of its key.
    pub fn pairs(&self) -> impl Iterator<Item = (&PathBuf, &PathBuf)> {
        let keys = self.keys.iter().flat_map(|files| &files.0);
        let certificates = self.certificates.iter().flat_map(|files| &files.0);
        certificates.zip(keys)
    }

    /// What is wrong with these settings alone.
    pub(super) fn problems(&self) -> Vec<&'static str> {
        let count = |files: &Option<Files>| files.as_ref().map_or(0, |f| f.0.len());
        [
            (
                count(&self.certificates) == count(&self.keys),
                "tls_cert and tls_key must name as many files, each certificate with its key (--tls-cert FILE --tls-key FILE)",
            ),
            (
                self.https_addr.is_none() || self.is_on(),
                "https_addr needs certificates; give files (--tls-cert FILE --tls-key FILE), or --tls local",
            ),
            (
                self.handshakes > 0 && self.hosts_cached > 0,
                "tls_handshakes and tls_hosts_cached must be at least 1",
            ),
            (
                !self.handshake_timeout.is_zero() && !self.check_interval.is_zero(),
                "tls_handshake_timeout and tls_check_interval must be more than 0",
            ),
        ]
        .into_iter()
        .filter_map(|(holds, otherwise)| (!holds).then_some(otherwise))
        .collect()
    }
}

impl Config {
    /// Where HTTPS listens; `None` without certificates.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        let default = || {
            let port = match self.http_addr.port() {
                0 => 0,
                80 => 443,
                _ => HTTPS_PORT,
            };
            SocketAddr::new(self.http_addr.ip(), port)
        };
        let on = self.tls.is_on();
        on.then(|| self.tls.https_addr.unwrap_or_else(default))
    }

    /// A listener that other machines reach, and over which tokens would go unencrypted although
    /// `insecure_http` does not allow it: its setting and its address.
    pub(super) fn unencrypted(&self) -> Option<(&'static str, SocketAddr)> {
        let tls = &self.tls;
        let only_redirects = tls.is_on() && tls.redirect;
        [
            ("http_addr", self.http_addr, only_redirects),
            ("grpc_addr", self.grpc_addr, tls.is_on()),
        ]
        .into_iter()
        .find(|(_, addr, safe)| !safe && !addr.ip().to_canonical().is_loopback())
        .filter(|_| !tls.insecure_http)
        .map(|(name, addr, _)| (name, addr))
    }
}

impl FromStr for Files {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let files: Vec<_> = text.split(',').map(str::trim).map(PathBuf::from).collect();
        if files.iter().any(|file| file.as_os_str().is_empty()) {
            return Err("write paths of files with commas between");
        }
        Ok(Self(files))
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(|file| file.to_string_lossy()).collect();
        f.write_str(&all.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(edit: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::defaults("/d".into());
        edit(&mut config);
        config
            .validate()
            .map_or_else(|e| e.problems.join("\n"), |()| String::new())
    }

    fn with_files(config: &mut Config) {
        config.tls.certificates = Some("a.pem, b.pem".parse().expect("paths"));
        config.tls.keys = Some("a.key,b.key".parse().expect("paths"));
    }

    #[test]
    fn without_tls_nothing_is_listened_on_beyond_this_machine_unless_that_is_wanted() {
        let everywhere: SocketAddr = "[::]:8080".parse().expect("an address");
        for setting in ["http_addr", "grpc_addr"] {
            let open = |config: &mut Config| match setting {
                "http_addr" => config.http_addr = everywhere,
                _ => config.grpc_addr = everywhere,
            };
            let text = problems(open);
            for word in [setting, "--tls-cert", "--tls local", "--insecure-http"] {
                assert!(text.contains(word), "{word} is missing in: {text}");
            }
            for allowed in [
                |config: &mut Config| config.tls.insecure_http = true,
                |config: &mut Config| config.tls.mode = TlsMode::Local,
                with_files,
            ] {
                let text = problems(|config| {
                    open(config);
                    allowed(config);
                });
                assert_eq!(text, "");
            }
        }
        let text = problems(|config| {
            config.http_addr = everywhere;
            config.tls.mode = TlsMode::Local;
            config.tls.redirect = false;
        });
        assert!(text.contains("http_addr"), "it serves there: {text}");
        let mapped = problems(|c| c.http_addr = "[::ffff:127.0.0.1]:1".parse().expect("valid"));
        assert_eq!(mapped, "");
    }

    #[test]
    fn each_certificate_comes_with_a_key_and_https_with_certificates() {
        assert_eq!(problems(with_files), "");
        let text = problems(|config| {
            with_files(config);
            config.tls.keys = None;
        });
        assert!(text.contains("tls_key"), "{text}");
        let text = problems(|c| c.tls.https_addr = Some("127.0.0.1:1".parse().expect("valid")));
        assert!(text.contains("https_addr"), "{text}");
        let mut config = Config::defaults("/d".into());
        assert_eq!(config.https_addr(), None);
        with_files(&mut config);
        let pairs: Vec<_> = config.tls.pairs().collect();
        assert_eq!(pairs[1], (&"b.pem".into(), &"b.key".into()));
        let port = |config: &Config| config.https_addr().map(|addr| addr.port());
        assert_eq!(port(&config), Some(8443));
        config.http_addr.set_port(80);
        assert_eq!(port(&config), Some(443));
        assert!("a.pem,,b".parse::<Files>().is_err());
    }
}
