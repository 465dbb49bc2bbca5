//! The other end of a connection, as the requests on it see it.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue, header};
use tokio::sync::OnceCell;

use super::{client::ClientHandle, headers};
use crate::{config::Proxies, fleet::upstream::Interim, model::AppId};

/// The other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether its connection serves no apps, because too many are open.
    pub reserved: bool,
    /// Whether its connection is encrypted.
    pub secure: bool,
    /// Whether it is an app in a container. None is a trusted proxy, whatever its address.
    pub is_app: bool,
    /// The app whose container it is, once it was looked for; `None` for none.
    pub(super) app: OnceCell<Option<AppId>>,
    /// Its address for `X-Forwarded-For`, encoded once for all requests of the connection.
    forwarded_for: HeaderValue,
    /// Its socket, for interim answers; `None` where there is none to write to.
    client: Option<ClientHandle>,
}

impl Peer {
    /// The peer at an address, without a connection. An IPv4 address mapped into IPv6, as a
    /// dual-stack socket reports it, counts as IPv4.
    pub fn at(address: SocketAddr) -> Self {
        let text = address.ip().to_canonical().to_string();
        Self {
            address,
            reserved: false,
            secure: false,
            is_app: false,
            app: OnceCell::new(),
            forwarded_for: HeaderValue::try_from(text).expect("an address is ASCII"),
            client: None,
        }
    }

    /// The peer at the other end of a connection.
    pub(super) fn on(client: ClientHandle, address: SocketAddr) -> Self {
        Self {
            client: Some(client),
            ..Self::at(address)
        }
    }

    /// The same peer, as a client of a listener for apps or of another, on one of its reserved
    /// connections or on another.
    pub(super) fn of_service(self, is_app: bool, reserved: bool) -> Self {
        Self {
            is_app,
            reserved,
            ..self
        }
    }

    /// The same peer, over TLS.
    pub(super) fn over_tls(self) -> Self {
        Self {
            secure: true,
            ..self
        }
    }

    /// Its address, as `X-Forwarded-For` has it.
    pub fn forwarded_for(&self) -> &HeaderValue {
        &self.forwarded_for
    }
}

/// The address of the client that sent a request to the API, in the request's extensions: that of
/// the connection, or what a trusted proxy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

impl ClientAddress {
    /// The client of a request that came over a connection from `peer`: the last address on its way
    /// that is not of a trusted proxy. What clients themselves forward stands before that one.
    pub fn of(peer: &Peer, headers: &HeaderMap, trusted: &Proxies) -> Self {
        /// More proxies than any way has.
        const MOST_HOPS: usize = 16;
        let mut address = peer.address.ip().to_canonical();
        if peer.is_app {
            return Self(address);
        }
        let mut hops = headers
            .get_all("x-forwarded-for")
            .iter()
            .rev()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.rsplit(','))
            .take(MOST_HOPS);
        while trusted.contain(address)
            && let Some(hop) = hops.next()
        {
            let Ok(before) = hop.trim().parse::<IpAddr>() else {
                break;
            };
            address = before.to_canonical();
        }
        Self(address)
    }
}

impl Interim for Peer {
    fn early_hints(&self, mut hints: HeaderMap) {
        headers::remove_hop_by_hop(&mut hints);
        headers::remove_ours(&mut hints);
        hints.remove(header::CONTENT_LENGTH);
        let Some(client) = self.client.as_ref().filter(|_| !hints.is_empty()) else {
            return;
        };
        let mut head = b"HTTP/1.1 103 Early Hints\r\n".to_vec();
        for (name, value) in &hints {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        client.write_interim(&head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_the_last_address_that_no_trusted_proxy_has() {
        let of = |peer: &str, lines: &[&str]| {
            let peer = Peer::at(peer.parse().expect("valid"));
            let lines = lines.iter().map(|line| {
                let name = header::HeaderName::from_static("x-forwarded-for");
                (name, line.parse::<HeaderValue>().expect("valid"))
            });
            let trusted = "127.0.0.1,10.0.0.0/8".parse().expect("valid");
            let headers = HeaderMap::from_iter(lines);
            ClientAddress::of(&peer, &headers, &trusted).0.to_string()
        };
        assert_eq!(of("192.0.2.1:1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(of("127.0.0.1:1", &[]), "127.0.0.1");
        assert_eq!(of("127.0.0.1:1", &["198.51.100.1"]), "198.51.100.1");
        let spoofed = ["203.0.113.9, 198.51.100.1, 10.0.0.7"];
        assert_eq!(of("127.0.0.1:1", &spoofed), "198.51.100.1");
        let lines = ["203.0.113.9", "198.51.100.2"];
        assert_eq!(of("127.0.0.1:1", &lines), "198.51.100.2");
        assert_eq!(of("127.0.0.1:1", &["198.51.100.1, x"]), "127.0.0.1");
    }

    #[test]
    fn a_mapped_address_is_forwarded_as_ipv4() {
        let peer = Peer::at("[::ffff:10.0.0.7]:1".parse().expect("valid"));
        assert_eq!(peer.forwarded_for(), "10.0.0.7");
    }
}
