//! Where the server is.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use http::{Uri, uri::Scheme};

use super::{Account, Global, account, roots::Roots};
use crate::{
    cli::{Error, hidden::Hidden, settings::Settings},
    config::{Serving, Source, default_data_dir},
};

/// Where a server listens by default.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:50051";

/// Where the server is.
pub(in crate::cli) struct Place {
    pub(super) endpoint: Uri,
    /// How its certificate is checked.
    pub(super) roots: Roots,
    /// Somebody said so.
    pub(super) is_named: bool,
    /// The data directory whose key may sign for this endpoint.
    pub(super) own: Option<PathBuf>,
    /// What a server on this machine has left; it may be another one than that of the endpoint.
    pub(super) serving: Option<Serving>,
    /// The endpoint is that server's.
    is_near: bool,
}

impl Place {
    /// Finds it by flags, variables, the configuration, and what a server here has left.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is no endpoint.
    pub(in crate::cli) fn find(
        global: &Global,
        settings: &Settings,
        vars: &impl Source,
    ) -> Result<Self, Error> {
        let var = |name: &str| vars.get(name).filter(|v| !v.is_empty());
        let data_dir = data_dir(vars);
        let serving = data_dir.as_deref().and_then(Serving::read);
        let no_tls = global.debug
            || var("IGNITE_DEBUG").map_or_else(
                || settings.debug.unwrap_or(false),
                |v| v == "1" || v == "true",
            );
        let named = global
            .api_endpoint
            .clone()
            .or_else(|| var("IGNITE_API_ENDPOINT"))
            .or_else(|| settings.api_endpoint.clone());
        let near = serving
            .as_ref()
            .map_or(DEFAULT_ENDPOINT, |s| s.grpc.as_str());
        let endpoint = match &named {
            // Without a scheme, the server of this machine is asked as it listens.
            Some(named) if near.split_once("://").is_some_and(|(_, at)| at == named) => {
                endpoint(near, no_tls)?
            }
            Some(named) => endpoint(named, no_tls)?,
            None => endpoint(near, no_tls)?,
        };
        let is_near = named.is_none() || near.parse().is_ok_and(|near: Uri| near == endpoint);
        let own = is_near || is_this_machine(&endpoint);
        let given = global
            .ca_cert
            .clone()
            .or_else(|| var("IGNITE_CA_CERT").map(PathBuf::from))
            .or_else(|| settings.ca_cert.as_ref().map(PathBuf::from));
        let its = serving.as_ref().filter(|_| is_near);
        let roots = Roots::new(given, data_dir.as_deref(), its);
        Ok(Self {
            endpoint,
            roots,
            is_named: named.is_some(),
            own: data_dir.filter(|_| own),
            serving,
            is_near,
        })
    }

    /// The data directory and the addresses of a server on this machine, if the endpoint is its.
    pub(super) fn near(&self) -> Option<(PathBuf, Serving)> {
        let near = self.own.clone().zip(self.serving.clone());
        near.filter(|_| self.is_near)
    }

    /// A service account of this place, or of the issuer that is `named`.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is no issuer.
    pub(in crate::cli) fn account(
        &self,
        (id, secret): (String, Hidden),
        named: Option<&str>,
        config: Option<&Path>,
    ) -> Result<Account, Error> {
        let serving = self.serving.as_ref().filter(|_| self.own.is_some());
        let endpoint = self.is_named.then_some(&self.endpoint);
        let issuer = account::issuer(named, serving, endpoint)?;
        Ok(Account::new(id, secret, issuer, config))
    }
}

/// The data directory of a server on this machine that was started without flags.
pub(in crate::cli) fn data_dir(vars: &impl Source) -> Option<PathBuf> {
    let set = vars.get("IGNITE_DATA_DIR").filter(|v| !v.is_empty());
    set.map(PathBuf::from).or_else(|| default_data_dir(vars))
}

/// Validates an endpoint.
pub(in crate::cli) fn check_endpoint(text: &str) -> Result<(), Error> {
    endpoint(text, false).map(drop)
}

/// Parses an endpoint as users write it. Without a scheme it uses TLS, except on this machine.
fn endpoint(text: &str, no_tls: bool) -> Result<Uri, Error> {
    let refuse = || {
        Error::Usage(format!(
            "the API endpoint {text:?} is not a URL such as http://127.0.0.1:50051, nor host:port"
        ))
    };
    let bare = match text.split_once("://") {
        Some(("http" | "https", rest)) => rest,
        Some(_) => return Err(refuse()),
        None => text,
    };
    let of = |scheme: &str| -> Result<Uri, Error> {
        let uri: Uri = format!("{scheme}://{bare}").parse().map_err(|_| refuse())?;
        let named = uri.authority().map_or("", http::uri::Authority::as_str);
        let host = uri.host().unwrap_or_default();
        // A port that is none would be left out.
        let has_port = named.len() > host.len() && !named.ends_with(']');
        let is_wrong_port = has_port && uri.port_u16().is_none();
        if host.is_empty() || is_wrong_port || uri.path() != "/" || uri.query().is_some() {
            return Err(refuse());
        }
        Ok(uri)
    };
    let plain = of("http")?;
    let wants_tls = if bare == text {
        !is_this_machine(&plain)
    } else {
        text.starts_with("https")
    };
    if wants_tls && !no_tls {
        of("https")
    } else {
        Ok(plain)
    }
}

/// Whether it is an address of this machine.
pub(in crate::cli) fn is_this_machine(endpoint: &Uri) -> bool {
    let Some(host) = endpoint.host() else {
        return false;
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    // A server that listens everywhere may have recorded the unspecified address.
    host == "localhost"
        || bare
            .parse()
            .is_ok_and(|ip: IpAddr| ip.is_loopback() || ip.is_unspecified())
}

pub(super) fn uses_tls(endpoint: &Uri) -> bool {
    endpoint.scheme() == Some(&Scheme::HTTPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_speak_tls_unless_they_are_near() {
        let of = |text: &str, no_tls| endpoint(text, no_tls).map(|u| u.to_string());
        for (text, no_tls, expected) in [
            ("127.0.0.1:50051", false, "http://127.0.0.1:50051/"),
            ("localhost:1", false, "http://localhost:1/"),
            ("[::1]:1", false, "http://[::1]:1/"),
            ("api.example.com:443", false, "https://api.example.com:443/"),
            ("api.example.com", true, "http://api.example.com/"),
            ("https://localhost:1", false, "https://localhost:1/"),
            ("https://h:1", true, "http://h:1/"),
            ("http://h:1", false, "http://h:1/"),
        ] {
            assert_eq!(of(text, no_tls).ok().as_deref(), Some(expected), "{text}");
        }
        for wrong in ["", "ftp://h", "http://", "h:1/path", "a b", "h:99999", "h:"] {
            assert!(of(wrong, false).is_err(), "{wrong:?}");
        }
    }
}
