//! Bounds of a listener, as values.

use std::time::Duration;

use crate::{config::Proxies, connections::Connections};

/// Bounds of a listener; each is described where it is configured.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most connections.
    pub max_connections: usize,
    /// All connections of the process.
    pub connections: Connections,
    /// Most connections from one address; 0 for no bound.
    pub max_connections_per_ip: usize,
    /// Of the connections the last ones, which serve no apps.
    pub reserved: usize,
    /// Who speaks for many: has no bound of its own.
    pub trusted_proxies: Proxies,
    /// Longest time for the head of a request.
    pub header_read_timeout: Duration,
    /// Longest time without a request.
    pub keep_alive_timeout: Duration,
    /// Most header lines of an HTTP/1.1 request.
    pub max_headers: usize,
    /// Most bytes of a request's head.
    pub max_header_bytes: usize,
    /// Most requests at a time on one HTTP/2 connection.
    pub max_streams: u32,
}
