//! The socket under one HTTP/1.1 connection to a replica, which holds failed writes back from
//! hyper.
//!
//! An app may answer before it has read the request, and close. The rest of the request then fails
//! to be sent, while the answer lies readable in the socket. hyper takes a failed write for the end
//! of the connection; so a write that fails here stays pending instead, and the reads, which hyper
//! continues, show how the connection really ended: with an answer, or without. A connection whose
//! peer is out of reach ends once what has arrived is read.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::send_state::SendState;
use crate::connections::Permit;

/// A stream that keeps reading after a write has failed, and reports the failed write only once
/// reading has ended.
pub(super) struct DeferWriteErrors<T> {
    io: T,
    /// Observes the bytes that pass.
    send_state: Arc<SendState>,
    /// Counts the connection as open, even after it has left HTTP.
    #[allow(dead_code, reason = "it counts by being there")]
    open: Option<Permit>,
    /// The error of the failed write.
    broken: Option<io::ErrorKind>,
    /// Reading has ended, well or not.
    ended: bool,
}

impl<T> DeferWriteErrors<T> {
    pub(super) fn new(io: T, send_state: Arc<SendState>, open: Option<Permit>) -> Self {
        Self {
            io,
            send_state,
            open,
            broken: None,
            ended: false,
        }
    }

    /// Remembers a failed write, which stays pending until the read side ends.
    fn written(&mut self, outcome: io::Result<usize>) -> Poll<io::Result<usize>> {
        match outcome {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                self.broken = Some(e.kind());
                self.poll_broken(e.kind())
            }
            other => Poll::Ready(other),
        }
    }

    /// The outcome of a write after one has failed. Once reading has ended, no further read would
    /// report the error (an upgraded connection does not read past the end), so the write does.
    fn poll_broken(&self, why: io::ErrorKind) -> Poll<io::Result<usize>> {
        if self.ended {
            Poll::Ready(Err(why.into()))
        } else {
            Poll::Pending
        }
    }

    /// Wakes a pending write; the same task reads and writes.
    fn end(&mut self, cx: &Context<'_>) {
        self.ended = true;
        if self.broken.is_some() {
            cx.waker().wake_by_ref();
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for DeferWriteErrors<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, buf) else {
            if !self.send_state.is_severed(cx) {
                return Poll::Pending;
            }
            self.end(cx);
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let more = buf.filled().len() > before || buf.remaining() == 0;
        if read.is_ok() && more {
            self.send_state.received(&buf.filled()[before..]);
            return Poll::Ready(Ok(()));
        }
        self.end(cx);
        read?;
        // The kernel reports a reset once. If the write got it, the end that the read sees is not
        // an orderly one, and an answer that is delimited by the end must not look complete.
        match self.broken {
            Some(reset @ io::ErrorKind::ConnectionReset) => Poll::Ready(Err(reset.into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for DeferWriteErrors<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(why) = self.broken {
            return self.poll_broken(why);
        }
        let outcome = ready!(Pin::new(&mut self.io).poll_write(cx, data));
        if let Ok(n) = outcome {
            self.send_state.written(&data[..n]);
        }
        self.written(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(why) = self.broken {
            return self.poll_broken(why);
        }
        let outcome = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs));
        if let Ok(mut left) = outcome {
            for data in bufs {
                let n = left.min(data.len());
                self.send_state.written(&data[..n]);
                left -= n;
            }
        }
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

    /// A stream under test, and the socket at its other end.
    async fn linked() -> (DeferWriteErrors<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let addr = listener.local_addr().expect("bound");
        let (near, far) = tokio::join!(TcpStream::connect(addr), listener.accept());
        let stream = DeferWriteErrors::new(near.expect("connected"), Arc::default(), None);
        (stream, far.expect("accepted").0)
    }

    #[tokio::test]
    async fn what_the_peer_said_before_it_reset_is_read_and_its_end_is_no_orderly_one() {
        let (mut stream, mut far) = linked().await;
        far.write_all(b"early").await.expect("sent");
        // Unread data makes the close a reset.
        stream.write_all(b"unread").await.expect("sent");
        far.readable().await.expect("it came");
        drop(far);
        let failed = std::future::poll_fn(|cx| {
            loop {
                match Pin::new(&mut stream).poll_write(cx, &[0; 65536]) {
                    Poll::Ready(written) => assert!(written.is_ok(), "{written:?}"),
                    Poll::Pending => match stream.broken {
                        Some(kind) => return Poll::Ready(kind),
                        None => return Poll::Pending,
                    },
                }
            }
        })
        .await;
        let mut seen = Vec::new();
        let end = stream.read_to_end(&mut seen).await;
        assert_eq!(seen, b"early");
        assert_eq!(
            end.is_err(),
            failed == io::ErrorKind::ConnectionReset,
            "{failed:?}: {end:?}"
        );
    }

    #[tokio::test]
    async fn a_write_that_fails_after_the_end_was_read_is_told() {
        let (mut stream, far) = linked().await;
        drop(far);
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).await.expect("an orderly end");
        let writes = async { while stream.write_all(b"more").await.is_ok() {} };
        tokio::time::timeout(std::time::Duration::from_secs(120), writes)
            .await
            .expect("the peer's reset ends the writes");
    }
}
