//! The name server of containers: it answers for the hosts of apps, and forwards every other query
//! to the machine's servers.
//!
//! Its clients may be hostile. A query for an app's host costs a parse and one answer; one that is
//! forwarded takes a permit, of which one client has at most a quarter, and a socket for as long as a
//! server may take. There is no cache, so nothing can be put into one.
//!
//! | file | subject |
//! |---|---|
//! | `message.rs` | queries are read, and answers to them written |
//! | `forward.rs` | a query goes to the machine's servers |
//! | `servers.rs` | which servers these are |
//! | `listen.rs` | queries come by UDP and TCP |

mod forward;
mod listen;
mod message;
mod servers;

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use simple_dns::RCODE;

use self::{forward::Forwarder, message::Read, servers::Servers};
use crate::{
    config::DnsServers,
    quota::{Quota, Usage},
};

pub use listen::{Sockets, serve};
pub use servers::{RESOLV_CONF, beyond_loopback};

/// One client has at most this fraction (1/n) of each bound.
const SHARES: usize = 4;

/// Whether a name, in lower case and without a dot at its end, is of an app.
pub type IsApps = Arc<dyn Fn(&str) -> bool + Send + Sync>;
/// Whether a client's query may be sent to this server.
pub type MayAsk = Arc<dyn Fn(IpAddr, IpAddr) -> bool + Send + Sync>;

/// What a resolver answers for, and what its clients may take.
#[derive(Clone)]
pub struct Config {
    /// Which names are those of apps.
    pub is_apps: IsApps,
    /// Which queries are forwarded.
    pub may_ask: MayAsk,
    /// The servers that know all other names; `None` means those in `resolv_conf`.
    pub servers: Option<DnsServers>,
    /// The file with the machine's servers.
    pub resolv_conf: PathBuf,
    /// Most queries that wait for a server at a time.
    pub queries: usize,
    /// Most connections by TCP.
    pub connections: usize,
    /// Longest wait for one server.
    pub timeout: Duration,
}

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram: the answer is cut to what the client takes.
    Udp,
    /// On a connection, without the two bytes of its length.
    Tcp,
}

/// Where a query came from, and where to.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The container's address.
    pub client: IpAddr,
    /// The address at which it asked; the hosts of apps have the same.
    pub here: Ipv4Addr,
    /// How it came.
    pub over: Transport,
}

/// Answers queries; clones share the bounds.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    forwarder: Forwarder,
    waiting: Mutex<Usage<IpAddr>>,
}

/// One query that waits for a server, until dropped.
struct Waiting<'a> {
    shared: &'a Shared,
    client: IpAddr,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.waiting.lock().release(Some(&self.client), 1);
    }
}

/// What becomes of a query that needs no server.
pub(crate) enum Reply {
    /// This is the answer; `None` sends nothing.
    Ready(Option<Vec<u8>>),
    /// It is for [`Resolver::answer`].
    Forward,
}

impl Resolver {
    /// Asks no server before a query comes.
    pub fn new(config: Config) -> Self {
        let servers = match &config.servers {
            Some(DnsServers(list)) => Servers::fixed(list.clone()),
            None => Servers::of_file(config.resolv_conf.clone()),
        };
        Self {
            shared: Arc::new(Shared {
                forwarder: Forwarder::new(servers, config.timeout),
                config,
                waiting: Mutex::default(),
            }),
        }
    }

    /// The answer to a message; `None` for one that gets none, since it is no query.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket to the machine's server.
    pub async fn answer(&self, query: &[u8], asked: Asked) -> Option<Vec<u8>> {
        let read = message::read(query);
        match self.reply(&read, asked) {
            Reply::Ready(answer) => answer,
            Reply::Forward => self.forward(query, &read, asked).await,
        }
    }

    /// The answer to a message if it takes no waiting.
    pub(crate) fn answer_now(&self, query: &[u8], asked: Asked) -> Reply {
        self.reply(&message::read(query), asked)
    }

    fn reply(&self, read: &Read<'_>, asked: Asked) -> Reply {
        match read {
            Read::NoQuery => Reply::Ready(None),
            Read::Refused(header, code) => Reply::Ready(message::refuse(*header, *code)),
            Read::Query(query) => match &query.question {
                Some(question) if (self.shared.config.is_apps)(&question.name) => {
                    Reply::Ready(message::app(query, question, asked.here))
                }
                _ => Reply::Forward,
            },
        }
    }

    async fn forward(&self, bytes: &[u8], read: &Read<'_>, asked: Asked) -> Option<Vec<u8>> {
        let Read::Query(query) = read else {
            return None;
        };
        let shared = &*self.shared;
        let Some(_waiting) = shared.wait(asked.client) else {
            tracing::debug!(client = %asked.client, "A query for a name was refused, since too many wait");
            return message::refuse(query.header, RCODE::ServerFailure);
        };
        let may_ask = |server: IpAddr| {
            server != IpAddr::V4(asked.here) && (shared.config.may_ask)(asked.client, server)
        };
        match shared
            .forwarder
            .forward(bytes, query, asked.over, may_ask)
            .await
        {
            Some(answer) => Some(answer),
            None => message::refuse(query.header, RCODE::ServerFailure),
        }
    }
}

impl Shared {
    fn wait(&self, client: IpAddr) -> Option<Waiting<'_>> {
        let quota = quota(self.config.queries);
        let taken = self.waiting.lock().acquire(Some(&client), 1, quota);
        taken.ok().map(|()| Waiting {
            shared: self,
            client,
        })
    }
}

/// So many for all clients, a quarter of them for one.
fn quota(all: usize) -> Quota {
    Quota {
        all,
        each: all.div_ceil(SHARES),
    }
}

#[cfg(test)]
mod tests;
