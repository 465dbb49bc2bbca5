//! What clients of a listener may take: how many connections, and what each may cost.

use std::time::Duration;

use crate::{config::Proxies, connections::Connections};

/// Bounds of a listener. The settings of the same names describe them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most connections.
    pub max_connections: usize,
    /// The process's connections, which clients share with replicas.
    pub connections: Connections,
    /// Most connections from one address; 0 for no bound.
    pub max_connections_per_ip: usize,
    /// How many of the connections, the last ones, serve no apps.
    pub reserved: usize,
    /// Proxies, which speak for many clients: they have no bound per address.
    pub trusted_proxies: Proxies,
    /// Longest time for the head of a request.
    pub header_read_timeout: Duration,
    /// Longest time for a connection to be without a request.
    pub keep_alive_timeout: Duration,
    /// Most header lines of an HTTP/1.1 request.
    pub max_headers: usize,
    /// Most bytes of a request's head.
    pub max_header_bytes: usize,
    /// Most concurrent requests on one HTTP/2 connection.
    pub max_streams: u32,
}
