//! Connections that come otherwise than from a socket that this process accepted.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::{Service, Shared, Stop, serve};
use crate::gateway::{
    client::ClientHandle,
    limiter::{ConnectionLimiter, ConnectionPermit},
    limits::Limits,
    peer::Peer,
    refusal,
};

/// Serves HTTP on streams that come otherwise than from a socket that this process accepted.
pub struct Streams<S> {
    shared: Arc<Shared<S>>,
    limiter: Arc<ConnectionLimiter>,
    refusal: Bytes,
}

impl<S: Service> Streams<S> {
    /// Serves with the bounds of one listener.
    pub async fn new(service: S, limits: Limits, stop: Stop) -> Self {
        Self {
            refusal: service.refusal(&refusal::too_many_connections()).await,
            shared: Shared::new(service, &limits, stop),
            limiter: ConnectionLimiter::new(limits),
        }
    }

    /// Serves one stream to its end. Cancelling `closed` says that the client at `peer` has closed
    /// its side, which a stream that nobody reads does not show.
    pub async fn serve<I>(&self, mut io: I, peer: SocketAddr, closed: CancellationToken)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Some(permit) = self.limiter.try_acquire(peer) else {
            tracing::debug!(%peer, "A connection was refused, since too many are open");
            // The client may be gone.
            let _ = io.write_all(&self.refusal).await;
            let _ = io.shutdown().await;
            return;
        };
        let is_reserved = permit.is_reserved();
        let peer = Peer::at(peer).of_service(S::CLIENTS_ARE_APPS, is_reserved);
        let held = Held {
            io,
            _permit: permit.clone(),
        };
        let handle = Handle::Stream(closed);
        serve(self.shared.clone(), held, handle, permit, peer).await;
    }
}

/// A stream that keeps its permit, also once its connection has left HTTP.
struct Held<I> {
    io: I,
    _permit: Arc<ConnectionPermit>,
}

/// What tells that a client leaves.
#[derive(Clone)]
pub(super) enum Handle {
    /// Its socket.
    Socket(ClientHandle),
    /// Whoever carries its stream.
    Stream(CancellationToken),
}

impl Handle {
    pub(super) async fn closed(&self) {
        match self {
            Self::Socket(socket) => socket.closed().await,
            Self::Stream(closed) => closed.cancelled().await,
        }
    }

    pub(super) async fn linger(self, limit: Duration) {
        match self {
            Self::Socket(socket) => socket.linger(limit).await,
            Self::Stream(_) => {}
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Held<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Held<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
