//! The socket under one HTTP/1.1 connection to a replica, and what hyper cannot be told about it.
//!
//! An app may answer before it has read the request, and close. What is still being sent then
//! fails, while the answer lies readable in the socket. hyper takes the failed write for the end
//! of everything; so a write that fails here waits instead, and the reads, which hyper goes on
//! with, say how the connection really ended: with an answer, or without.
//!
//! The other way round, an app may answer in full, keep the connection and never read the rest.
//! Then [`Wire::cut`] ends the connection from outside; the client's body goes with it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the sender of requests and the socket of one connection know of each other.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// A client's body is being sent.
    sending: AtomicBool,
    /// The connection is to end.
    cut: AtomicBool,
    /// The connection's task, while a body is being sent.
    task: AtomicWaker,
}

impl Wire {
    /// A streamed body begins, or has left hyper's hands.
    pub(super) fn set_sending(&self, sending: bool) {
        self.sending.store(sending, Ordering::Release);
    }

    /// Whether a streamed body is still being sent.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Acquire)
    }

    /// Ends the connection.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.task.wake();
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }
}

/// A socket that goes on reading when it can no longer write.
pub(super) struct Link<T> {
    io: T,
    wire: Arc<Wire>,
    /// Why writing failed.
    broken: Option<io::ErrorKind>,
}

impl<T> Link<T> {
    pub(super) fn new(io: T, wire: Arc<Wire>) -> Self {
        Self {
            io,
            wire,
            broken: None,
        }
    }

    /// Remembers a failed write, which from then on waits: the read side ends the connection.
    fn written(&mut self, outcome: io::Result<usize>) -> Poll<io::Result<usize>> {
        match outcome {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                self.broken = Some(e.kind());
                Poll::Pending
            }
            other => Poll::Ready(other),
        }
    }

    fn refused(&self) -> Option<Poll<io::Result<usize>>> {
        if self.wire.is_cut() {
            return Some(Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())));
        }
        self.broken.is_some().then_some(Poll::Pending)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Link<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.wire.is_sending() {
            self.wire.task.register(cx.waker());
        }
        // After the registration, so that no cut is missed.
        if self.wire.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        // The kernel tells of a reset once. When the write was told, the end that the read sees is
        // no orderly one, and an answer that goes on until the end must not look whole.
        if buf.filled().len() == before
            && buf.remaining() > 0
            && self.broken == Some(io::ErrorKind::ConnectionReset)
        {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Link<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(refused) = self.refused() {
            return refused;
        }
        let outcome = ready!(Pin::new(&mut self.io).poll_write(cx, data));
        self.written(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(refused) = self.refused() {
            return refused;
        }
        let outcome = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs));
        self.written(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// A link, and the socket at its other end.
    async fn linked() -> (Link<TcpStream>, Arc<Wire>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let addr = listener.local_addr().expect("bound");
        let (near, far) = tokio::join!(TcpStream::connect(addr), listener.accept());
        let wire = Arc::new(Wire::default());
        let link = Link::new(near.expect("connected"), wire.clone());
        (link, wire, far.expect("accepted").0)
    }

    #[tokio::test]
    async fn what_the_peer_said_before_it_reset_is_read_and_its_end_is_no_orderly_one() {
        let (mut link, _, mut far) = linked().await;
        far.write_all(b"early").await.expect("sent");
        // Unread data makes the close a reset.
        link.write_all(b"unread").await.expect("sent");
        far.readable().await.expect("it came");
        drop(far);
        let failed = std::future::poll_fn(|cx| {
            loop {
                match Pin::new(&mut link).poll_write(cx, &[0; 65536]) {
                    Poll::Ready(written) => assert!(written.is_ok(), "{written:?}"),
                    Poll::Pending => match link.broken {
                        Some(kind) => return Poll::Ready(kind),
                        None => return Poll::Pending,
                    },
                }
            }
        })
        .await;
        let mut seen = Vec::new();
        let end = link.read_to_end(&mut seen).await;
        assert_eq!(seen, b"early");
        assert_eq!(
            end.is_err(),
            failed == io::ErrorKind::ConnectionReset,
            "{failed:?}: {end:?}"
        );
    }

    #[tokio::test]
    async fn a_cut_wakes_the_reader_of_a_connection_that_is_sending() {
        let (mut link, wire, _far) = linked().await;
        wire.set_sending(true);
        let reader = tokio::spawn(async move { link.read_u8().await.map_err(|e| e.kind()) });
        tokio::task::yield_now().await;
        wire.cut();
        let end = reader.await.expect("joined");
        assert_eq!(end, Err(io::ErrorKind::ConnectionAborted));
    }
}
