//! Apps that call apps: listeners on the instance's bridge, and what containers get to find them.
//!
//! The engine asks what containers get each time it has found or made the instance's network
//! ([`AppCalls::attach`]), before any container is made on it. The sockets are bound then, and served
//! once the server runs (`serving_apps.rs`); the kernel keeps early connections meanwhile.

use std::{net::Ipv4Addr, sync::Arc};

use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::mpsc};

use crate::{
    config::Config,
    engine::docker::{Attach, Attached, AttachedNetwork, Doors, LABEL, Shown},
    gateway::INTERNAL_DOMAIN,
    resolver,
};

/// The port of name servers, which containers cannot be told.
const DNS: u16 = 53;

/// Calls between apps, from before there is an engine.
pub(super) struct AppCalls {
    ports: Ports,
    /// What containers trust where apps are served over TLS.
    certificates: Option<Shown>,
    bound: mpsc::UnboundedSender<Bound>,
    to_serve: Mutex<Option<mpsc::UnboundedReceiver<Bound>>>,
    /// Where the sockets are, and the ports; those of a network that is made again at the same
    /// address are still good.
    current: tokio::sync::Mutex<Option<(Ipv4Addr, Attached)>>,
}

/// The ports that are wanted at the bridge's address.
#[derive(Debug, Clone)]
struct Ports {
    /// The first that is free serves app URLs, and is what containers are told.
    http: Vec<u16>,
    /// Serves them, too, where it is free: the port of the URLs that are printed.
    also_http: Option<u16>,
    /// Serve them over TLS, where they are free.
    https: Vec<u16>,
}

/// Bound sockets at one address.
pub(super) struct Bound {
    pub(super) names: resolver::Sockets,
    pub(super) http: Vec<TcpListener>,
    pub(super) https: Vec<TcpListener>,
}

impl AppCalls {
    /// `http` and `https` are the ports of the listeners for clients outside; `None` where apps do
    /// not call apps.
    pub(super) fn new(
        config: &Config,
        http: u16,
        https: Option<u16>,
        certificates: Option<Shown>,
    ) -> Option<Arc<Self>> {
        let calls = &config.app_calls;
        if !calls.enabled {
            return None;
        }
        let printed = config.public_url.as_ref();
        let is_https = printed.map_or_else(|| https.is_some(), |url| url.scheme == "https");
        let listens = if is_https { https } else { Some(http) };
        let printed = printed.map_or(listens, |url| url.port);
        let mut secure = vec![calls.https_port];
        secure.extend(printed.filter(|port| is_https && *port != calls.https_port));
        let (bound, to_serve) = mpsc::unbounded_channel();
        Some(Arc::new(Self {
            ports: Ports {
                http: vec![calls.http_port, calls.fallback_port],
                also_http: printed.filter(|_| !is_https),
                https: if https.is_some() { secure } else { Vec::new() },
            },
            certificates,
            bound,
            to_serve: Mutex::new(Some(to_serve)),
            current: tokio::sync::Mutex::default(),
        }))
    }

    /// What the engine asks.
    pub(super) fn attach(self: &Arc<Self>) -> Attach {
        let calls = self.clone();
        Attach::new(move |network| {
            let calls = calls.clone();
            Box::pin(async move { calls.listen_on(network).await })
        })
    }

    /// Listens on a network, and says what its containers get.
    async fn listen_on(&self, network: AttachedNetwork) -> Attached {
        let mut current = self.current.lock().await;
        if let Some((at, attached)) = &*current
            && *at == network.gateway
        {
            return attached.clone();
        }
        let why = if network.is_direct {
            match Bound::bind(network.gateway, &self.ports).await {
                Ok((bound, mut attached)) => {
                    let is_secure = !bound.https.is_empty();
                    attached.certificates = self.certificates.clone().filter(|_| is_secure);
                    tracing::info!(at = %network.gateway, ports = ?attached.doors.tcp, "Apps call apps by their URLs");
                    *current = Some((network.gateway, attached.clone()));
                    // Without a receiver the server stops.
                    let _ = self.bound.send(bound);
                    return attached;
                }
                Err(why) => why,
            }
        } else {
            "this process does not reach the engine's networks".to_owned()
        };
        tracing::warn!(network = network.name, gateway = %network.gateway, why, "Apps cannot call apps by their URLs; run `ignite` as root on the engine's host, free port 53 there, or turn this off (app_calls=false)");
        Attached::default()
    }

    /// What is bound, now and later; the first caller gets it.
    pub(super) fn bound(&self) -> Option<mpsc::UnboundedReceiver<Bound>> {
        self.to_serve.lock().take()
    }
}

impl Bound {
    /// Binds what can be bound; without a name server or any port for app URLs there is no use.
    async fn bind(at: Ipv4Addr, ports: &Ports) -> Result<(Self, Attached), String> {
        let names = resolver::Sockets::bind(at, DNS).await;
        let names = names.map_err(|e| format!("cannot listen on {at}:{DNS}: {e}"))?;
        let mut wanted = ports.http.iter().chain(&ports.also_http);
        let mut failed = Vec::new();
        let (told, first) = loop {
            let Some(port) = wanted.next() else {
                return Err(format!("cannot listen on {at}: {}", failed.join(", ")));
            };
            match TcpListener::bind((at, *port)).await {
                Ok(socket) => break (*port, socket),
                Err(error) => failed.push(format!("port {port}: {error}")),
            }
        };
        if !failed.is_empty() {
            tracing::warn!(at = %at, port = told, failed = ?failed, "App URLs are served to apps on another port");
        }
        let also = ports.also_http.filter(|port| *port != told);
        let (http, mut tcp) = optional(at, also.into_iter()).await;
        let (https, secure) = optional(at, ports.https.iter().copied()).await;
        tcp.push(told);
        tcp.extend(secure);
        tcp.push(DNS);
        tcp.sort_unstable();
        let bound = Self {
            names,
            http: http.into_iter().chain([first]).collect(),
            https,
        };
        let doors = Doors {
            at: Some(at),
            tcp,
            udp: vec![DNS],
        };
        Ok((bound, attached(at, told, doors)))
    }
}

/// Binds those ports that are free.
async fn optional(at: Ipv4Addr, ports: impl Iterator<Item = u16>) -> (Vec<TcpListener>, Vec<u16>) {
    let (mut sockets, mut bound) = (Vec::new(), Vec::new());
    for port in ports {
        match TcpListener::bind((at, port)).await {
            Ok(socket) => {
                sockets.push(socket);
                bound.push(port);
            }
            Err(error) => {
                tracing::info!(%at, port, %error, "App URLs are not served to apps on this port");
            }
        }
    }
    (sockets, bound)
}

/// What containers get whose name server is there, with app URLs on this port.
pub(super) fn attached(at: Ipv4Addr, port: u16, doors: Doors) -> Attached {
    let port = match port {
        80 => String::new(),
        other => format!(":{other}"),
    };
    let url = |host: String| format!("http://{host}{port}");
    Attached {
        names: Some(at),
        // As many as resolvers ask.
        fallback: resolver::beyond_loopback()
            .into_iter()
            .filter(|server| *server != at)
            .take(2)
            .map(Into::into)
            .collect(),
        env: vec![
            ("IGNITE_URL".to_owned(), url(INTERNAL_DOMAIN.to_owned())),
            (
                "IGNITE_APP_URL".to_owned(),
                url(format!("{LABEL}.{INTERNAL_DOMAIN}")),
            ),
        ],
        certificates: None,
        doors,
    }
}
