//! TLS as the configuration has it: where its certificates come from, and the listeners over it.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};

use super::{Reload, machine, parts};
use crate::{
    config::{Config, LocalTls, TlsMode},
    engine::docker::{FROM_CONTAINERS, Shown},
    gateway::{Gateway, INTERNAL_DOMAIN, secure::Secure},
    tls::{self, LocalConfig, Own, Protocol, Tls, TrustFiles, authority},
};

/// Where containers see the local authority's certificate.
const SHOWN_AT: &str = "/run/ignite/certificates";

/// The certificates; `None` where there is to be no TLS.
///
/// # Errors
/// A file that is not to be used, or an authority that cannot be had.
pub(super) fn open(config: &Config, data_dir: &Path) -> Result<Option<Tls>> {
    if !config.tls.is_on() {
        return Ok(None);
    }
    let files = config.tls.pairs();
    let opened = Tls::open(tls::Config {
        files: files.map(|(c, k)| (c.clone(), k.clone())).collect(),
        local: (config.tls.mode == TlsMode::Local).then(|| LocalConfig {
            data_dir: data_dir.to_owned(),
            own: Own {
                base_domain: config.base_domain.clone(),
                names: std::iter::once(machine::name())
                    .chain(FROM_CONTAINERS.map(str::to_owned))
                    .chain(names_for_apps(config))
                    .chain(config.api_hosts.names())
                    .collect(),
            },
            hosts_cached: config.tls.hosts_cached,
        }),
    });
    opened.map(Some).context("tls")
}

/// The names by which apps in containers know this server and each other.
fn names_for_apps(config: &Config) -> impl Iterator<Item = String> {
    let names = [INTERNAL_DOMAIN.to_owned(), format!("*.{INTERNAL_DOMAIN}")];
    names.into_iter().filter(|_| config.app_calls.enabled)
}

/// What containers see of the local authority, so that programs in them trust it; `None` where there
/// is none, or nobody serves them.
pub(super) fn for_apps(config: &Config, tls: Option<&Tls>, data_dir: &Path) -> Option<Shown> {
    let authority = tls.and_then(Tls::local_authority)?;
    if !config.app_calls.enabled {
        return None;
    }
    let files = match TrustFiles::write(data_dir, authority) {
        Ok(files) => files,
        Err(error) => {
            tracing::warn!(%error, "The local authority's certificate cannot be written for apps: they do not trust each other's HTTPS URLs");
            return None;
        }
    };
    let file = |name: &str| format!("{SHOWN_AT}/{name}");
    // These replace the roots of an image, that one adds to them.
    let replacing = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"].map(|v| (v, TrustFiles::BUNDLE));
    let adding = ("NODE_EXTRA_CA_CERTS", TrustFiles::AUTHORITY);
    if !files.has_roots {
        tracing::warn!(
            "This system has no root certificates, so apps get no SSL_CERT_FILE, which would take theirs away; install them (Debian: ca-certificates) to have apps trust the local authority"
        );
    }
    let replacing = replacing.into_iter().filter(|_| files.has_roots);
    Some(Shown {
        folder: files.folder,
        at: SHOWN_AT.to_owned(),
        env: replacing
            .chain([adding])
            .map(|(variable, name)| (variable.to_owned(), file(name)))
            .collect(),
    })
}

/// TLS as a listener speaks it.
pub(super) fn listener(
    config: &Config,
    tls: &Tls,
    gateway: &Gateway,
    protocol: Protocol,
) -> Secure {
    let (routes, hosts) = (gateway.routes.clone(), parts::own_hosts(config));
    Secure {
        tls: tls.clone(),
        protocol,
        exists: Arc::new(move |host| routes.lead(host, &hosts)),
        timeout: config.tls.handshake_timeout,
        handshakes: config.tls.handshakes,
        trusted_proxies: config.trusted_proxies.clone(),
    }
}

/// How clients on this machine check the certificate.
pub(super) fn for_clients(
    config: &Config,
    tls: &Tls,
    data_dir: &Path,
    https: std::net::SocketAddr,
) -> LocalTls {
    let is_local = config.tls.mode == TlsMode::Local;
    LocalTls {
        https,
        ca: is_local.then(|| authority::certificate_path(data_dir)),
        name: tls.name_here(),
    }
}

/// As `reload`, which then reads the files of certificates again as well.
pub(super) fn reload_with(reload: Reload, tls: Option<Tls>) -> Reload {
    let Some(tls) = tls else {
        return reload;
    };
    Box::new(move || {
        // Also when the configuration is not to be used.
        let certificates = tls.reload();
        let done = reload().with_context(|| certificates.clone())?;
        Ok(format!("{done}; {certificates}"))
    })
}
