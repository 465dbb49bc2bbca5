//! Connections over TLS: the handshake, and what hyper reads and writes then.
//!
//! A client that sends nothing takes no handshake permit, only a connection, until the timeout. A
//! client without TLS is refused in plain text; one that asks for a name without a certificate gets
//! the alert `unrecognized_name`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{
    client::{self, ClientHandle, Raw},
    handshakes::Handshakes,
    limiter::ConnectionPermit,
};
use crate::{
    config::Proxies,
    model::{Failure, Reason},
    tls::{Exists, Protocol, Tls},
};

/// The type of a record that a handshake begins with (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;
/// `unrecognized_name` (RFC 6066, 3), fatal, as a record.
const UNRECOGNIZED_NAME: [u8; 7] = alert(112);
/// `internal_error`, likewise: there is none for a server that has too much to do.
pub(super) const INTERNAL_ERROR: [u8; 7] = alert(80);
/// Longest time to read what a client without TLS still sends.
const LINGER: Duration = Duration::from_millis(500);

/// TLS as a listener speaks it.
pub struct Secure {
    /// The certificates.
    pub tls: Tls,
    /// What is spoken over it.
    pub protocol: Protocol,
    /// Whether a host leads to an app.
    pub exists: Exists,
    /// Longest time for a handshake.
    pub timeout: Duration,
    /// Most handshakes at a time.
    pub handshakes: usize,
    /// Proxies, which may have more than an address's share of these.
    pub trusted_proxies: Proxies,
}

/// The handshakes of a listener.
pub(super) struct Accepting {
    secure: Secure,
    handshakes: Handshakes,
    /// The answer to a client without TLS.
    without_tls: Bytes,
}

impl Accepting {
    /// Answers clients without TLS with this message.
    pub(super) fn new(secure: Secure, without_tls: Bytes) -> Self {
        Self {
            handshakes: Handshakes::new(secure.handshakes, secure.trusted_proxies.clone()),
            secure,
            without_tls,
        }
    }

    /// Gets a new connection through its handshake; `None` when it does not.
    pub(super) async fn accept(
        &self,
        tcp: TcpStream,
        permit: Arc<ConnectionPermit>,
        peer: SocketAddr,
    ) -> Option<(Connection, ClientHandle)> {
        let (raw, handle) = client::split_encrypted(tcp);
        let shaken = self.shake_hands(raw, &handle, peer.ip());
        let error = match tokio::time::timeout(self.secure.timeout, shaken).await {
            Ok(Ok(tls)) => {
                let connection = Connection {
                    tls,
                    handle: handle.clone(),
                    interim: Vec::new(),
                    _permit: permit,
                };
                return Some((connection, handle));
            }
            Ok(Err(Refused::NoTls)) => {
                handle.write_bare(&self.without_tls);
                handle.close_and_linger(LINGER).await;
                "it does not speak TLS".to_owned()
            }
            Ok(Err(Refused::NoCertificate(name))) => {
                handle.write_bare(&UNRECOGNIZED_NAME);
                format!("there is no certificate for {name:?}")
            }
            Ok(Err(Refused::Broken(error))) => error.to_string(),
            Err(_) => format!("it took longer than {:?}", self.secure.timeout),
        };
        tracing::debug!(%peer, error, "A TLS handshake failed");
        None
    }

    async fn shake_hands(
        &self,
        raw: Raw,
        handle: &ClientHandle,
        peer: IpAddr,
    ) -> Result<TlsStream<Raw>, Refused> {
        let Secure {
            tls,
            protocol,
            exists,
            ..
        } = &self.secure;
        if handle.first_byte().await? != HANDSHAKE {
            return Err(Refused::NoTls);
        }
        let _handshake = self.handshakes.begin(peer).await;
        let hello = LazyConfigAcceptor::new(Acceptor::default(), raw).await?;
        let here = handle.local_addr()?.ip();
        let name = hello.client_hello().server_name().map(str::to_owned);
        let config = tls.choose(name.as_deref(), here, *protocol, exists).await;
        match config {
            Some(config) => Ok(hello.into_stream(config).await?),
            None => Err(Refused::NoCertificate(name)),
        }
    }
}

/// The refusal of a client without TLS.
pub(super) fn without_tls() -> Failure {
    Failure::new(
        Reason::MalformedRequest,
        "this address speaks TLS; ask with https:// (in gRPC, with TLS)",
    )
}

/// Why a handshake did not succeed.
enum Refused {
    NoTls,
    NoCertificate(Option<String>),
    Broken(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// The connection, for hyper to read and write. Holds the permit as a plain one does.
pub(super) struct Connection {
    tls: TlsStream<Raw>,
    handle: ClientHandle,
    /// The rest of an interim answer; it goes out before hyper's next bytes.
    interim: Vec<u8>,
    _permit: Arc<ConnectionPermit>,
}

impl Connection {
    /// Writes interim answers to their end.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(message) = self.handle.take_interim() {
            // Until it is out, further ones are left out.
            self.handle.set_flushed(false);
            self.interim.extend(message);
        }
        while !self.interim.is_empty() {
            let written = ready!(Pin::new(&mut self.tls).poll_write(cx, &self.interim))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.handle.set_flushed(false);
        ready!(self.poll_interim(cx))?;
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.handle.set_flushed(false);
        ready!(self.poll_interim(cx))?;
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has nothing left to write.
        ready!(self.poll_interim(cx))?;
        ready!(Pin::new(&mut self.tls).poll_flush(cx))?;
        self.handle.set_flushed(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

const fn alert(description: u8) -> [u8; 7] {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    [ALERT, 3, 3, 0, 2, FATAL, description]
}
