//! gRPC clients, generated from the contract.

use std::net::SocketAddr;

use ignite::api::proto::v1::compute_service_client::ComputeServiceClient;
use tonic::{
    Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::ignite::Ignite;

/// A client that sends one token with every call.
pub(crate) type Client = ComputeServiceClient<InterceptedService<Channel, Bearer>>;

/// Puts a bearer token on calls.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// A client of this server; an empty token is not sent at all.
pub(crate) async fn grpc_client(ignite: &Ignite, token: &str) -> Client {
    client_on(channel(ignite).await, token)
}

/// A client on a channel, as [`grpc_client`].
pub(crate) fn client_on(channel: Channel, token: &str) -> Client {
    let bearer =
        (!token.is_empty()).then(|| format!("Bearer {token}").parse().expect("a token is ASCII"));
    ComputeServiceClient::with_interceptor(channel, Bearer(bearer))
        // The client's own default of 4 MiB must not be what a body limit is tested against.
        .max_decoding_message_size(usize::MAX)
}

/// A channel to this server, for other services (health, reflection).
pub(crate) async fn channel(ignite: &Ignite) -> Channel {
    channel_to(ignite.grpc_addr()).await
}

/// A channel to an address.
pub(crate) async fn channel_to(address: SocketAddr) -> Channel {
    let url = format!("http://{address}");
    let endpoint = Endpoint::from_shared(url).expect("an address makes a URL");
    endpoint
        .connect()
        .await
        .unwrap_or_else(|e| panic!("no gRPC at {address}: {e}"))
}
