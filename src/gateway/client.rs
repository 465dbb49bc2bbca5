//! A client's connection that tells when the client is gone, whatever nobody has read yet.
//!
//! hyper notices the end of a connection when it reads it. While the body of a request waits
//! unread for a replica, it does not read, and a client that left would keep its place in the
//! hold. The kernel knows: this asks it, beside hyper, on the same socket. What it cannot know is
//! an end that is stuck behind more unread data than the socket takes.
//!
//! On the same way goes what comes before an answer (`103 Early Hints`), of which hyper's server
//! knows nothing: between two messages, when hyper has nothing of its own under way.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::net::Shutdown;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use super::limiter::ConnectionPermit;

/// A client's socket. One task uses both of its sides.
#[derive(Debug)]
struct Socket {
    tcp: TcpStream,
    /// hyper has written whatever it had to write.
    flushed: AtomicBool,
    /// `pending` has something in it.
    has_pending: AtomicBool,
    /// What was begun between two messages of hyper's and goes out before its next.
    pending: Mutex<Vec<u8>>,
}

impl Socket {
    fn new(tcp: TcpStream) -> Arc<Self> {
        Arc::new(Self {
            tcp,
            flushed: AtomicBool::new(true),
            has_pending: AtomicBool::new(false),
            pending: Mutex::default(),
        })
    }

    /// Writes what was begun to its end.
    fn poll_pending(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_pending.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let mut pending = self.pending.lock();
        while !pending.is_empty() {
            ready!(self.tcp.poll_write_ready(cx))?;
            match self.tcp.try_write(&pending) {
                Ok(n) => drop(pending.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        self.has_pending.store(false, Ordering::Release);
        Poll::Ready(Ok(()))
    }
}

/// The connection, for hyper to read and write.
pub(super) struct Connection(
    Arc<Socket>,
    #[allow(dead_code, reason = "it counts by being there")] Arc<ConnectionPermit>,
);

/// The same connection, to ask whether its client is there, and to say what hyper cannot.
#[derive(Debug, Clone)]
pub(super) struct ClientHandle(Arc<Socket>);

/// The two sides of one connection. Its place is taken for as long as hyper, or what it was
/// upgraded to, has it.
pub(super) fn split(tcp: TcpStream, permit: Arc<ConnectionPermit>) -> (Connection, ClientHandle) {
    let socket = Socket::new(tcp);
    (Connection(socket.clone(), permit), ClientHandle(socket))
}

impl ClientHandle {
    /// A connection that hyper never gets.
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self(Socket::new(tcp))
    }

    /// Writes a whole message of HTTP/1.1 before the answer to the request that is under way; not
    /// at all when the client has not taken yet what came before.
    pub(super) fn write_interim(&self, message: &[u8]) {
        let socket = &*self.0;
        if !socket.flushed.load(Ordering::Acquire) || socket.has_pending.load(Ordering::Acquire) {
            return;
        }
        // Not even begun, it may be left out.
        if let Ok(n @ 1..) = socket.tcp.try_write(message)
            && n < message.len()
        {
            socket.pending.lock().extend_from_slice(&message[n..]);
            socket.has_pending.store(true, Ordering::Release);
        }
    }

    /// Closes the server's side, and lingers.
    pub(super) async fn close_and_linger(self, limit: Duration) {
        if rustix::net::shutdown(&self.0.tcp, Shutdown::Write).is_ok() {
            self.linger(limit).await;
        }
    }

    /// Takes in what the client still sends after the server has closed its side, until it closes
    /// too, for `limit` at most. Unread data would make the kernel reset the connection, and
    /// the client could lose the answer that it has not read yet. A connection that has left HTTP
    /// is not ours any more and left alone.
    pub(super) async fn linger(self, limit: Duration) {
        if Arc::strong_count(&self.0) > 1 {
            return;
        }
        let drain = async {
            // Not in the connection's own memory, of which it would be the most.
            let mut scrap = vec![0; 4096];
            while self.0.tcp.readable().await.is_ok() {
                match self.0.tcp.try_read(&mut scrap) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        };
        // A client that goes on for longer has had its chance.
        let _ = tokio::time::timeout(limit, drain).await;
    }

    /// Returns when the client has closed its side or the connection is broken. A client that
    /// closes only its sending side counts as gone, as it does for hyper.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) async fn closed(&self) {
        // Of the interests this is the one that wakes for a closed side and not for data.
        while let Ok(ready) = self.0.tcp.ready(Interest::PRIORITY).await {
            if ready.is_read_closed() {
                return;
            }
            // Urgent data, which HTTP has no use for: forgotten until there is more.
            let _ = self.0.tcp.try_io(Interest::PRIORITY, || -> io::Result<()> {
                Err(io::ErrorKind::WouldBlock.into())
            });
        }
    }

    /// Elsewhere the kernel is not asked; hyper notices when it reads.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) async fn closed(&self) {
        std::future::pending().await
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.0.tcp.poll_read_ready(cx))?;
            let room = buf.remaining();
            match self.0.tcp.try_read_buf(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    if read.as_ref().is_ok_and(|n| (1..room).contains(n)) {
                        self.clear_readiness();
                    }
                    return Poll::Ready(read.map(drop));
                }
            }
        }
    }
}

impl Connection {
    /// Waits for the kernel to report more instead of asking it in vain. Nothing is missed: this
    /// thread alone takes in the events of its connections, and not now.
    fn clear_readiness(&self) {
        let nothing = || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) };
        let _ = self.0.tcp.try_io(Interest::READABLE, nothing);
    }

    fn poll_try_write(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.0.flushed.store(false, Ordering::Release);
        ready!(self.0.poll_pending(cx))?;
        loop {
            ready!(self.0.tcp.poll_write_ready(cx))?;
            match write(&self.0.tcp) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_try_write(cx, |tcp| tcp.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try_write(cx, |tcp| tcp.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has nothing left to write.
        ready!(self.0.poll_pending(cx))?;
        self.0.flushed.store(true, Ordering::Release);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(&self.0.tcp, Shutdown::Write) {
            // The peer was faster.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(e) => Poll::Ready(Err(e.into())),
        }
    }
}
