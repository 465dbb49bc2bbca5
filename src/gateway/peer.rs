//! The other end of a connection, as the requests on it see it.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue, header};

use super::{client::ClientHandle, headers};
use crate::fleet::upstream::Interim;

/// The address of a connection's other end, in the extensions of requests to the API.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub IpAddr);

/// The other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether its connection serves no apps, because too many are open.
    pub reserved: bool,
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
            forwarded_for: HeaderValue::try_from(text).expect("an address is ASCII"),
            client: None,
        }
    }

    /// The peer at the other end of a connection.
    pub(super) fn on(client: ClientHandle, address: SocketAddr, reserved: bool) -> Self {
        Self {
            reserved,
            client: Some(client),
            ..Self::at(address)
        }
    }

    /// Its address, as `X-Forwarded-For` has it.
    pub fn forwarded_for(&self) -> &HeaderValue {
        &self.forwarded_for
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
    fn a_mapped_address_is_forwarded_as_ipv4() {
        let peer = Peer::at("[::ffff:10.0.0.7]:1".parse().expect("valid"));
        assert_eq!(peer.forwarded_for(), "10.0.0.7");
    }
}
