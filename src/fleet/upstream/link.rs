//! The socket under one HTTP/1.1 connection to a replica, and what hyper cannot be told about it.
//!
//! An app may answer before it has read the request, and close. What is still being sent then
//! fails, while the answer lies readable in the socket. hyper takes the failed write for the end
//! of everything; so a write that fails here waits instead, and the reads, which hyper goes on
//! with, say how the connection really ended: with an answer, or without.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whether a client's body is being sent on a connection.
#[derive(Debug, Default)]
pub(super) struct Wire(AtomicBool);

impl Wire {
    /// A streamed body begins, or has left hyper's hands.
    pub(super) fn set_sending(&self, sending: bool) {
        self.0.store(sending, Ordering::Release);
    }

    /// Whether a streamed body is still being sent.
    pub(super) fn is_sending(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A socket that goes on reading when it can no longer write.
pub(super) struct Link<T> {
    io: T,
    /// Why writing failed.
    broken: Option<io::ErrorKind>,
}

impl<T> Link<T> {
    pub(super) fn new(io: T) -> Self {
        Self { io, broken: None }
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
}

impl<T: AsyncRead + Unpin> AsyncRead for Link<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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
        if self.broken.is_some() {
            return Poll::Pending;
        }
        let outcome = ready!(Pin::new(&mut self.io).poll_write(cx, data));
        self.written(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.broken.is_some() {
            return Poll::Pending;
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
    async fn linked() -> (Link<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let addr = listener.local_addr().expect("bound");
        let (near, far) = tokio::join!(TcpStream::connect(addr), listener.accept());
        let link = Link::new(near.expect("connected"));
        (link, far.expect("accepted").0)
    }

    #[tokio::test]
    async fn what_the_peer_said_before_it_reset_is_read_and_its_end_is_no_orderly_one() {
        let (mut link, mut far) = linked().await;
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
}
