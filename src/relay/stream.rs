//! A stream of HTTP/2 as a connection.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{FlowControl, Reason, RecvStream, SendStream};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::wire::{FRAME, WINDOW, broken};

/// One end of a carried connection. Dropping it before its write side is shut down resets it.
#[derive(Debug)]
pub struct Stream {
    incoming: DuplexStream,
    shared: Arc<Shared>,
    is_shut_down: bool,
    /// Ends the future that fills `incoming`.
    _filling: DropGuard,
    /// Cancelled once nothing more arrives.
    ended: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    /// Held only to poll: one task uses the stream.
    outgoing: Mutex<SendStream<Bytes>>,
    /// Gives the other end leave to send more, once it has sent anything.
    credit: Mutex<Option<FlowControl>>,
    /// Whether what is received has not ended as it should, or not yet.
    is_broken: AtomicBool,
}

impl Stream {
    /// A connection, and the future that receives for it until either ends.
    ///
    /// What arrives is copied at once into one buffer, as large as the window: kept as the frames
    /// in which it came, a byte in each, it would take a hundred times as much memory.
    pub(super) fn new(
        outgoing: SendStream<Bytes>,
        body: impl Future<Output = Result<RecvStream, h2::Error>>,
    ) -> (Self, impl Future<Output = ()>) {
        let (incoming, into) = tokio::io::duplex(WINDOW as usize);
        let shared = Arc::new(Shared {
            outgoing: Mutex::new(outgoing),
            credit: Mutex::default(),
            is_broken: AtomicBool::new(true),
        });
        let (gone, ended) = (CancellationToken::new(), CancellationToken::new());
        let stream = Self {
            incoming,
            shared: shared.clone(),
            is_shut_down: false,
            _filling: gone.clone().drop_guard(),
            ended: ended.clone(),
        };
        let filling = async move {
            tokio::select! {
                () = fill(body, into, shared) => {}
                () = gone.cancelled() => {}
            }
            ended.cancel();
        };
        (stream, filling)
    }

    /// Is cancelled once the other end has shut down its side or has broken off, also while what it
    /// sent before is not yet read.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Waits until the other end has broken off, in the task that uses the stream.
    pub(super) fn reset(&self) -> impl Future<Output = ()> + use<> {
        let shared = self.shared.clone();
        poll_fn(move |cx| shared.outgoing.lock().poll_reset(cx).map(drop))
    }
}

async fn fill(
    body: impl Future<Output = Result<RecvStream, h2::Error>>,
    mut into: DuplexStream,
    shared: Arc<Shared>,
) {
    let received = async {
        let mut body = body.await?;
        *shared.credit.lock() = Some(body.flow_control().clone());
        while let Some(frame) = body.data().await {
            // Never waits, for the window has room in the buffer; fails when the reader is gone.
            if into.write_all(&frame?).await.is_err() {
                break;
            }
        }
        Ok::<_, h2::Error>(())
    };
    match received.await {
        Ok(()) => shared.is_broken.store(false, Ordering::Release),
        Err(error) => tracing::trace!(%error, "A carried connection broke"),
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.incoming).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        if read > 0 {
            if let Some(credit) = &mut *self.shared.credit.lock() {
                // An error means that the stream has ended.
                let _ = credit.release_capacity(read);
            }
        } else if buf.remaining() > 0 && self.shared.is_broken.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut outgoing = self.shared.outgoing.lock();
        outgoing.reserve_capacity(buf.len().min(FRAME as usize));
        while outgoing.capacity() == 0 {
            match ready!(outgoing.poll_capacity(cx)) {
                Some(granted) => granted.map_err(broken)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let count = outgoing.capacity().min(buf.len());
        let frame = Bytes::copy_from_slice(&buf[..count]);
        outgoing.send_data(frame, false).map_err(broken)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut_down {
            let ended = self.shared.outgoing.lock().send_data(Bytes::new(), true);
            ended.map_err(broken)?;
            self.is_shut_down = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.is_shut_down {
            self.shared.outgoing.lock().send_reset(Reason::CANCEL);
        }
    }
}
