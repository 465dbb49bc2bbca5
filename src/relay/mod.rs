//! Carries names and connections of apps from the engine's host to a server that cannot listen there.
//!
//! Replicas reach the server at the address of their network's bridge. An ordinary user may not bind
//! port 53 or 80 there, and the bridge of a rootless, remote or virtualized engine is not on this
//! machine at all. There the engine runs this same program in a container that has the network of
//! the bridge ([`run`]): it listens, and carries what arrives over its standard input and output,
//! which the engine connects to the server ([`Link`]). So replicas see the same address in either
//! case, and the server sees theirs.
//!
//! Both ends speak HTTP/2, the relay as the client: a stream for each connection and each query of
//! a name, with flow control of its own. The relay knows nothing of what it carries, and trusts no
//! one who connects: connections and queries are bounded in number, in all and for each address, and
//! the windows of HTTP/2 bound what waits in memory.
//!
//! | file | subject |
//! |---|---|
//! | `wire.rs` | how both ends use HTTP/2 |
//! | `stream.rs` | a stream of HTTP/2 as a connection |
//! | `inside/` | the end in the container |
//! | `link.rs` | the server's end |

mod inside;
mod link;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

use std::net::SocketAddr;

pub use inside::run;
pub use link::{Front, Link};
pub use stream::Stream;
pub use wire::Listens;

/// Memory of the relay itself, with the pages of its program that it uses.
const OWN_MEMORY: u64 = 32 << 20;
/// Memory of a stream beside its window: tasks, copies on the way, the kernel's share.
const PER_STREAM: u64 = 64 << 10;

/// What a relay listens on, and the bounds on what it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where names are asked for, by UDP and TCP; `None` means nowhere.
    pub names: Option<SocketAddr>,
    /// The listeners for connections, each with the addresses that are tried in turn.
    pub listeners: Vec<Vec<SocketAddr>>,
    /// Further listeners, those of them that are free.
    pub also: Vec<SocketAddr>,
    /// The bounds.
    pub limits: Limits,
}

/// The bounds on what a relay carries at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most connections, those that ask for names among them.
    pub connections: usize,
    /// Most of those of one address.
    pub connections_each: usize,
    /// Most queries of names that wait for an answer.
    pub queries: usize,
    /// Most of those of one address.
    pub queries_each: usize,
}

/// How a query of a name came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// Where a query of a name came from, and where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The address that asks.
    pub peer: SocketAddr,
    /// The address at which it asked.
    pub at: SocketAddr,
    /// How it came.
    pub over: Transport,
}

impl Plan {
    /// The arguments of this program with which it is a relay of this plan.
    pub fn arguments(&self) -> Vec<String> {
        let listeners = self.listeners.iter().map(|all| {
            let all: Vec<_> = all.iter().map(ToString::to_string).collect();
            format!("--listen={}", all.join(","))
        });
        let limits = &self.limits;
        let bounds = [
            ("connections", limits.connections),
            ("connections-each", limits.connections_each),
            ("queries", limits.queries),
            ("queries-each", limits.queries_each),
        ];
        let bounds = bounds.map(|(name, most)| format!("--{name}={most}"));
        ["relay".to_owned()]
            .into_iter()
            .chain(self.names.map(|at| format!("--names={at}")))
            .chain(listeners)
            .chain(self.also.iter().map(|at| format!("--also={at}")))
            .chain(bounds)
            .collect()
    }
}

impl Limits {
    /// Memory that a relay needs at most: its own, and the windows and buffers of what it carries.
    pub fn memory(self) -> u64 {
        let each = u64::from(wire::WINDOW) + u64::from(wire::FRAME) + PER_STREAM;
        OWN_MEMORY.saturating_add((self.streams() as u64).saturating_mul(each))
    }

    /// Streams of HTTP/2 at a time, and sockets: one for each connection and query, and the first
    /// one.
    pub fn streams(self) -> usize {
        self.connections
            .saturating_add(self.queries)
            .saturating_add(1)
    }
}
