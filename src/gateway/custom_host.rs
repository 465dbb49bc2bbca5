//! Requests for host names that apps were given.

use http::HeaderMap;

use super::{Gateway, admission::RequestedApp, front::Destination, peer::Peer, routes::Route};
use crate::model::AppId;

impl Gateway {
    /// The destination of a request for a host name that an app was given.
    pub(super) fn by_custom_host(
        &self,
        id: &AppId,
        host: &str,
        headers: &HeaderMap,
        peer: &Peer,
        grpc: bool,
    ) -> Destination {
        if peer.reserved {
            return Destination::Answered(self.too_many_connections(grpc));
        }
        match self.fleet.get(id) {
            Some(deployment) => {
                let port = None;
                Destination::App(Route { deployment, port }, None)
            }
            None => self.no_app(RequestedApp::Host(id, host), headers, peer, grpc),
        }
    }
}
