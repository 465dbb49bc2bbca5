//! Joins two connections that have left HTTP.
//!
//! Thousands of WebSockets lie idle for hours, so none has a buffer of its own: bytes are read into
//! one that all connections of a thread share, and only those that the other side does not take at
//! once are kept. While bytes are pending nothing is read, so a slow side slows the other down.

use std::{
    cell::RefCell,
    future::{Future as _, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// Size of a thread's buffer, and so most bytes that are pending in a direction.
const BUFFER_BYTES: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into());
}

/// Carries bytes both ways until both sides have ended, or one fails. A side that has ended only
/// its sending still receives, until the other has sent nothing for `silence`: a side that ignores
/// the end must not keep the connection, and with it a replica, for good. 0 sets no bound.
///
/// # Errors
/// What failed.
pub(super) async fn join<A, B>(mut a: A, mut b: B, silence: Duration) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut to_replica, mut to_client) = (Direction::default(), Direction::default());
    let mut rest = None;
    poll_fn(|cx| {
        let ends = (
            to_replica.poll(cx, &mut a, &mut b)?,
            to_client.poll(cx, &mut b, &mut a)?,
        );
        let open = match ends {
            (Poll::Ready(()), Poll::Ready(())) => return Poll::Ready(Ok(())),
            (Poll::Pending, Poll::Pending) => return Poll::Pending,
            (Poll::Ready(()), Poll::Pending) => &mut to_client,
            (Poll::Pending, Poll::Ready(())) => &mut to_replica,
        };
        if silence.is_zero() {
            return Poll::Pending;
        }
        let rest = rest.get_or_insert_with(|| Box::pin(tokio::time::sleep(silence)));
        if std::mem::take(&mut open.is_active) {
            rest.as_mut().reset(Instant::now() + silence);
        }
        rest.as_mut().poll(cx).map(Ok)
    })
    .await
}

/// One of the two ways.
#[derive(Default)]
struct Direction {
    /// Bytes that were read and not yet taken by the other side.
    pending: Vec<u8>,
    /// How many of them have been written since.
    written: usize,
    /// Whether the reading side has ended.
    read_ended: bool,
    /// Whether the writing side was shut down after that.
    is_shut_down: bool,
    /// Whether anything was read since the flag was cleared.
    is_active: bool,
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while !self.is_shut_down {
            ready!(self.poll_pending(cx, to))?;
            if self.read_ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.is_shut_down = true;
            } else if self.poll_read(cx, from, to)?.is_pending() {
                // Written bytes must not lie in a buffer while nothing more comes.
                let _ = Pin::new(to).poll_flush(cx)?;
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is pending, and frees its memory.
    fn poll_pending(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while self.written < self.pending.len() {
            let rest = &self.pending[self.written..];
            self.written += match ready!(Pin::new(&mut *to).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => n,
            };
        }
        (self.pending, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes as much as the other side takes; the rest is pending.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        BUFFER.with_borrow_mut(|piece| {
            let mut piece = ReadBuf::new(piece);
            ready!(Pin::new(from).poll_read(cx, &mut piece))?;
            let piece = piece.filled();
            self.read_ended = piece.is_empty();
            self.is_active = true;
            if !self.read_ended {
                let taken = match Pin::new(to).poll_write(cx, piece) {
                    Poll::Ready(taken) => taken?,
                    Poll::Pending => 0,
                };
                self.pending.extend_from_slice(&piece[taken..]);
            }
            Poll::Ready(Ok(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn all_bytes_go_both_ways_through_slow_sides_and_each_end_is_told() {
        let (mut client, near) = duplex(7);
        let (far, mut replica) = duplex(1000);
        let up: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let down: Vec<u8> = up.iter().rev().copied().collect();
        let ends = async {
            let (mut heard, mut answer) = (Vec::new(), Vec::new());
            let client = async {
                client.write_all(&up).await.expect("sent");
                // It sends no more, but still receives.
                client.shutdown().await.expect("closed");
                client.read_to_end(&mut answer).await.expect("an end");
            };
            let replica = async {
                replica.read_to_end(&mut heard).await.expect("an end");
                replica.write_all(&down).await.expect("sent");
                replica.shutdown().await.expect("closed");
            };
            tokio::join!(client, replica);
            assert!(heard == up && answer == down);
        };
        let (joined, ()) = tokio::join!(join(near, far, MINUTE), ends);
        joined.expect("both ended well");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stays_does_not_keep_an_app_that_has_ended() {
        let (client, near) = duplex(10);
        let (far, mut replica) = duplex(10);
        let began = Instant::now();
        replica.shutdown().await.expect("closed");
        join(near, far, MINUTE).await.expect("ended in order");
        assert_eq!(began.elapsed(), MINUTE);
        drop(client);
    }

    /// The same the other way round: an app that never reads its end used to keep the lease.
    #[tokio::test(start_paused = true)]
    async fn an_app_that_does_not_heed_the_end_of_its_client_is_cut_off_once_it_is_silent() {
        let (mut client, near) = duplex(10);
        let (far, mut replica) = duplex(10);
        let began = Instant::now();
        client.shutdown().await.expect("closed");
        let app = async {
            // It keeps sending for longer than the bound on silence.
            for _ in 0..4 {
                tokio::time::sleep(MINUTE / 2).await;
                replica.write_all(b"x").await.expect("sent");
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            joined = join(near, far, MINUTE) => joined.expect("ended in order"),
            () = app => {}
        }
        assert_eq!(began.elapsed(), 3 * MINUTE);
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.expect("an end");
        assert_eq!(heard, b"xxxx");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_bound_a_half_closed_connection_stays() {
        let (mut client, near) = duplex(10);
        let (far, _replica) = duplex(10);
        client.shutdown().await.expect("closed");
        let joined = tokio::time::timeout(1000 * MINUTE, join(near, far, Duration::ZERO));
        joined.await.expect_err("it goes on");
    }

    #[tokio::test]
    async fn a_side_that_is_gone_ends_it() {
        let (mut client, near) = duplex(10);
        let (far, replica) = duplex(10);
        drop(replica);
        client.write_all(b"hi").await.expect("sent");
        assert!(join(near, far, MINUTE).await.is_err());
    }
}
