//! Apps that call apps: listeners on the instance's bridge, and what containers get to find them.
//!
//! The engine asks what containers get each time it has found or made the instance's network
//! ([`AppCalls::attach`]), before any container is made on it. The sockets are bound then, and served
//! once the server runs (`serving_apps.rs`); the kernel keeps early connections meanwhile.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock, Weak},
};

use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::relaying::{self, OnceServed, Served, State};
use crate::{
    config::{self, Config, Via},
    engine::docker::{Attach, Attached, AttachedNetwork, Docker, Doors, LABEL, Shown},
    gateway::INTERNAL_DOMAIN,
    relay::{Limits, Plan},
    resolver,
};

/// The port of name servers, which containers cannot be told.
const DNS: u16 = 53;
/// Starts of a relay before the network is one where apps cannot call apps: someone may be removing
/// its image.
const ATTEMPTS: usize = 3;
/// One container has at most this fraction (1/n) of what a relay carries.
const SHARES: usize = 4;

/// Calls between apps, from before there is an engine.
pub(super) struct AppCalls {
    ports: Ports,
    /// What containers trust where apps are served over TLS.
    certificates: Option<Shown>,
    via: Via,
    /// The bounds on what a relay carries.
    limits: Limits,
    /// Runs relays.
    engine: OnceLock<Weak<Docker>>,
    /// What serves what relays carry, once the server runs.
    served: watch::Sender<Option<Arc<Served>>>,
    bound: mpsc::UnboundedSender<Bound>,
    to_serve: Mutex<Option<mpsc::UnboundedReceiver<Bound>>>,
    /// Where the sockets are, and the ports; those of a network that is made again at the same
    /// address are still good.
    current: tokio::sync::Mutex<Option<Current>>,
    /// No relay is started any more.
    ended: CancellationToken,
}

/// What serves containers now.
struct Current {
    at: Ipv4Addr,
    attached: Attached,
    /// Keeps a relay running; `None` for sockets of this process.
    relay: Option<JoinSet<()>>,
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

/// Why this process does not listen.
struct Unbound {
    why: String,
    /// Whether a relay could: the address is not this machine's, or the port not for this user.
    may_relay: bool,
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
            via: calls.via,
            limits: limits(calls),
            engine: OnceLock::new(),
            served: watch::Sender::new(None),
            bound,
            to_serve: Mutex::new(Some(to_serve)),
            current: tokio::sync::Mutex::default(),
            ended: CancellationToken::new(),
        }))
    }

    /// Has this engine run relays, where they are needed.
    pub(super) fn relay_by(&self, engine: &Arc<Docker>) {
        // There is one engine.
        let _ = self.engine.set(Arc::downgrade(engine));
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
        if let Some(Current { at, attached, .. }) = &*current
            && *at == network.gateway
        {
            return attached.clone();
        }
        *current = None;
        match self.start_on(&network).await {
            Ok(started) => current.insert(started).attached.clone(),
            Err(why) => {
                tracing::warn!(network = network.name, gateway = %network.gateway, why, "Apps cannot call apps by their URLs; free port 53 of that address on the engine's host, see `app_calls_via` in src/docs/settings.md for who may listen there, or turn this off (app_calls=false)");
                Attached::default()
            }
        }
    }

    /// Has someone listen: this process, or a relay.
    async fn start_on(&self, network: &AttachedNetwork) -> Result<Current, String> {
        let at = network.gateway;
        let unbound = match self.via {
            Via::Relay => Unbound::relayed("app_calls_via=relay"),
            Via::Auto | Via::Bridge if !network.is_direct => {
                Unbound::relayed("this process does not reach the engine's networks")
            }
            Via::Auto | Via::Bridge => match Bound::bind(at, &self.ports).await {
                Ok((bound, mut attached)) => {
                    let is_secure = !bound.https.is_empty();
                    attached.certificates = self.certificates.clone().filter(|_| is_secure);
                    tracing::info!(%at, ports = ?attached.doors.tcp, "Apps call apps by their URLs; this process listens on the bridge");
                    // Without a receiver the server stops.
                    let _ = self.bound.send(bound);
                    let relay = None;
                    return Ok(Current {
                        at,
                        attached,
                        relay,
                    });
                }
                Err(unbound) => unbound,
            },
        };
        if self.via == Via::Bridge || !unbound.may_relay {
            return Err(unbound.why);
        }
        let relaying = self.ended.run_until_cancelled(self.relay_at(at));
        let relayed = relaying.await.unwrap_or_else(|| Err(stops()));
        let (relay, attached) =
            relayed.map_err(|why| format!("{}, and there is no relay: {why}", unbound.why))?;
        let why = unbound.why;
        tracing::info!(%at, ports = ?attached.doors.tcp, why, "Apps call apps by their URLs; a relay listens on the bridge");
        let relay = Some(relay);
        Ok(Current {
            at,
            attached,
            relay,
        })
    }

    /// Starts a relay, and waits until it listens.
    async fn relay_at(&self, at: Ipv4Addr) -> Result<(JoinSet<()>, Attached), String> {
        let engine = self
            .engine
            .get()
            .and_then(Weak::upgrade)
            .ok_or_else(stops)?;
        let front = Arc::new(OnceServed(self.served.subscribe()));
        let plan = self.ports.plan(at, self.limits);
        let (state, mut known) = watch::channel(State::Starting);
        let mut relay = JoinSet::new();
        relay.spawn(relaying::keep(engine, plan, front, state));
        let mut lost = 0;
        let listens = loop {
            known.changed().await.map_err(|_| stops())?;
            match known.borrow_and_update().clone() {
                State::Carries(listens) => break listens,
                State::Lost(why) => {
                    lost += 1;
                    if lost == ATTEMPTS {
                        return Err(why);
                    }
                }
                State::Starting => {}
            }
        };
        let mut tcp: Vec<_> = listens.connections.iter().map(SocketAddr::port).collect();
        let told = tcp.first().copied().ok_or_else(stops)?;
        tcp.push(DNS);
        tcp.sort_unstable();
        let doors = Doors {
            at: Some(at),
            tcp,
            udp: vec![DNS],
        };
        Ok((relay, attached(at, told, doors)))
    }

    /// What is bound, now and later; the first caller gets it.
    pub(super) fn bound(&self) -> Option<mpsc::UnboundedReceiver<Bound>> {
        self.to_serve.lock().take()
    }

    /// Serves what relays carry, from now on.
    pub(super) fn serve_relayed(&self, served: Served) {
        self.served.send_replace(Some(Arc::new(served)));
    }

    /// Ends the relay, if there is one, and sees to it that its container is gone.
    pub(super) async fn end_relay(&self) {
        self.ended.cancel();
        let current = self.current.lock().await.take();
        if current.is_none_or(|current| current.relay.is_none()) {
            return;
        }
        if let Some(engine) = self.engine.get().and_then(Weak::upgrade)
            && let Err(error) = engine.remove_relays().await
        {
            tracing::warn!(%error, "A relay may be left behind; the next start removes it");
        }
    }
}

impl Ports {
    /// What a relay listens on. App URLs over TLS are left to this process's own listeners.
    fn plan(&self, at: Ipv4Addr, limits: Limits) -> Plan {
        let here = |port: &u16| SocketAddr::from((at, *port));
        Plan {
            names: Some(here(&DNS)),
            listeners: vec![self.http.iter().map(here).collect()],
            also: self.also_http.iter().map(here).collect(),
            limits,
        }
    }
}

impl Unbound {
    fn relayed(why: &str) -> Self {
        Self {
            why: why.to_owned(),
            may_relay: true,
        }
    }

    fn new(why: String, cause: &io::Error) -> Self {
        use io::ErrorKind::{AddrNotAvailable, PermissionDenied};
        Self {
            why,
            may_relay: matches!(cause.kind(), AddrNotAvailable | PermissionDenied),
        }
    }
}

/// The bounds on what a relay carries. Those who ask for names on a connection share it with others.
fn limits(calls: &config::AppCalls) -> Limits {
    let connections = calls.connections.saturating_add(calls.dns_connections);
    Limits {
        connections,
        connections_each: connections.div_ceil(SHARES),
        queries: calls.dns_queries,
        queries_each: calls.dns_queries.div_ceil(SHARES),
    }
}

fn stops() -> String {
    "the server stops".to_owned()
}

impl Bound {
    /// Binds what can be bound; without a name server or any port for app URLs there is no use.
    async fn bind(at: Ipv4Addr, ports: &Ports) -> Result<(Self, Attached), Unbound> {
        let names = resolver::Sockets::bind(at, DNS).await;
        let names = names.map_err(|error| {
            Unbound::new(format!("cannot listen on {at}:{DNS}: {error}"), &error)
        })?;
        let mut wanted = ports.http.iter().chain(&ports.also_http);
        let mut failed = Vec::new();
        let (told, first) = loop {
            let Some(port) = wanted.next() else {
                return Err(Unbound {
                    why: format!("cannot listen on {at}: {}", failed.join(", ")),
                    may_relay: false,
                });
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
