//! What all connections share, whatever their certificate: the versions of TLS, the protocols that
//! are offered, and what it takes to resume a session. A session is resumed only for the name that it
//! was begun for.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions},
    sign::{CertifiedKey, SingleCertAndKey},
};

/// Sessions of clients that cannot keep tickets.
const SESSIONS_KEPT: usize = 4096;

/// What is spoken over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2, or HTTP/1.1.
    Web,
    /// HTTP/2 alone.
    Grpc,
}

/// Makes the configurations of connections; clones share their sessions.
#[derive(Clone)]
pub(super) struct Sessions {
    provider: Arc<CryptoProvider>,
    tickets: Arc<dyn ProducesTickets>,
    storage: Arc<dyn StoresServerSessions>,
}

/// The configurations for one certificate.
#[derive(Clone)]
pub(super) struct Served {
    web: Arc<ServerConfig>,
    grpc: Arc<ServerConfig>,
}

impl Sessions {
    /// # Errors
    /// When the system gives no random bytes.
    pub(super) fn new() -> Result<Self, rustls::Error> {
        Ok(Self {
            provider: Arc::new(ring::default_provider()),
            tickets: ring::Ticketer::new()?,
            storage: ServerSessionMemoryCache::new(SESSIONS_KEPT),
        })
    }

    pub(super) fn provider(&self) -> &CryptoProvider {
        &self.provider
    }

    /// Serves connections with this certificate.
    ///
    /// # Errors
    /// When the library refuses.
    pub(super) fn serve(&self, certified: CertifiedKey) -> Result<Served, rustls::Error> {
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        let mut web = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        web.ticketer = self.tickets.clone();
        web.session_storage = self.storage.clone();
        let mut grpc = web.clone();
        web.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        grpc.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Served {
            web: Arc::new(web),
            grpc: Arc::new(grpc),
        })
    }
}

impl Served {
    pub(super) fn config(&self, protocol: Protocol) -> Arc<ServerConfig> {
        match protocol {
            Protocol::Web => self.web.clone(),
            Protocol::Grpc => self.grpc.clone(),
        }
    }
}
