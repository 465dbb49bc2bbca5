//! The certificates that the local authority makes, and for which hosts.
//!
//! One is for the hosts of the server itself, with a wildcard for those of apps; each further host
//! gets one when it is first asked for. They are made only for hosts that exist, so strangers cannot
//! have the server sign, and cache, whatever they make up.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use moka::sync::Cache;
use rcgen::SanType;
use rustls::pki_types::DnsName;

use super::{
    Error, Exists, LocalConfig,
    authority::Authority,
    names::Names,
    sessions::{Served, Sessions},
};

/// A certificate is made anew after this, so that one of a clock that was wrong does not stay, and
/// none expires.
const KEPT_FOR: Duration = Duration::from_secs(3600);

/// The hosts of the server itself.
pub struct Own {
    /// The domain below which apps have their hosts.
    pub base_domain: String,
    /// Further names; `*.name` stands for one label below a name.
    pub names: Vec<String>,
}

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    /// The server itself.
    Own,
    /// Another address of this machine.
    Address(IpAddr),
    /// An app's host that no wildcard covers.
    Host(String),
}

/// The authority and what it has made.
pub(super) struct Local {
    maker: Arc<Maker>,
    made: Cache<Subject, Served>,
}

struct Maker {
    authority: Authority,
    own: Names,
    sessions: Sessions,
}

impl Local {
    /// # Errors
    /// When the authority cannot be had.
    pub(super) fn open(config: LocalConfig, sessions: Sessions) -> Result<Self, Error> {
        let Own { base_domain, names } = config.own;
        // Clients refuse a wildcard for a domain of one label.
        let wildcard = base_domain
            .contains('.')
            .then(|| format!("*.{base_domain}"));
        let own = [base_domain, "localhost".to_owned()];
        let is_name = |name: &String| DnsName::try_from(name.trim_start_matches("*.")).is_ok();
        let own = own.into_iter().chain(wildcard).chain(names);
        let maker = Maker {
            authority: Authority::open_or_create(&config.data_dir)?,
            own: Names::new(own.filter(is_name)),
            sessions,
        };
        Ok(Self {
            maker: Arc::new(maker),
            made: Cache::builder()
                .max_capacity(config.hosts_cached)
                .time_to_live(KEPT_FOR)
                .build(),
        })
    }

    /// The authority's certificate, in PEM.
    pub(super) fn authority(&self) -> &str {
        self.maker.authority.pem()
    }

    /// The certificate for a connection to `here` that asks for `name`; `None` for a host that does
    /// not exist.
    pub(super) async fn choose(
        &self,
        name: Option<String>,
        here: IpAddr,
        exists: &Exists,
    ) -> Option<Served> {
        let subject = self.subject(name, here, exists)?;
        if let Some(made) = self.made.get(&subject) {
            return Some(made);
        }
        let (maker, cache) = (self.maker.clone(), self.made.clone());
        let made = tokio::task::spawn_blocking(move || {
            // Connections that ask for the same host at once wait for one certificate.
            cache.try_get_with_by_ref(&subject, || maker.make(&subject))
        });
        match made.await {
            Ok(Ok(made)) => Some(made),
            Ok(Err(error)) => {
                tracing::error!(%error, "A certificate could not be made");
                None
            }
            Err(panicked) => {
                tracing::error!(error = %panicked, "The making of a certificate panicked");
                None
            }
        }
    }

    fn subject(&self, name: Option<String>, here: IpAddr, exists: &Exists) -> Option<Subject> {
        match name {
            None => {
                let here = here.to_canonical();
                let is_own = addresses().contains(&here);
                Some(if is_own {
                    Subject::Own
                } else {
                    Subject::Address(here)
                })
            }
            Some(name) if self.maker.own.cover(&name) => Some(Subject::Own),
            Some(name) => exists(&name).then_some(Subject::Host(name)),
        }
    }
}

impl Maker {
    fn make(&self, subject: &Subject) -> Result<Served, Error> {
        let name = |name: &String| {
            let name = name.as_str().try_into().map(SanType::DnsName);
            name.map_err(super::authority::Error::from)
        };
        let names = match subject {
            Subject::Own => {
                let names = self.own.iter().map(name);
                let addresses = addresses().into_iter().map(SanType::IpAddress);
                names.chain(addresses.map(Ok)).collect::<Result<_, _>>()?
            }
            Subject::Address(address) => vec![SanType::IpAddress(*address)],
            Subject::Host(host) => vec![name(host)?],
        };
        let certified = self.authority.issue(names, self.sessions.provider())?;
        Ok(self.sessions.serve(certified)?)
    }
}

fn addresses() -> [IpAddr; 2] {
    [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
}
