//! A client's connection, shared between hyper and a handle that notices when the client leaves.
//!
//! hyper notices the end of a connection when it reads it. While the body of a request waits unread
//! for a replica, hyper does not read, and a client that left would stay in the hold queue. So the
//! handle asks the kernel, on the same socket. It misses an end that is stuck behind more unread
//! data than the socket's buffer takes.
//!
//! The handle also writes interim answers (`103 Early Hints`), which hyper's server does not
//! support: between two messages, when hyper has nothing of its own under way.

use std::{
    io,
    net::SocketAddr,
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

/// A client's socket. One task uses both the connection and the handle.
#[derive(Debug)]
struct Socket {
    tcp: TcpStream,
    /// Whether hyper has written everything it had to write.
    flushed: AtomicBool,
    /// Whether `pending` is not empty: spares the lock on every write.
    has_pending: AtomicBool,
    /// The rest of an interim answer that the socket did not take whole; it goes out before hyper's
    /// next bytes.
    pending: Mutex<Vec<u8>>,
    /// Whether TLS lies between hyper and the socket. An interim answer is then pending whole, for
    /// `secure.rs` to encrypt.
    is_encrypted: bool,
}

impl Socket {
    fn new(tcp: TcpStream, is_encrypted: bool) -> Arc<Self> {
        Arc::new(Self {
            tcp,
            is_encrypted,
            flushed: AtomicBool::new(true),
            has_pending: AtomicBool::new(false),
            pending: Mutex::default(),
        })
    }

    /// Writes `pending` to its end.
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

/// The connection, for hyper to read and write. Holds the permit for as long as hyper, or what the
/// connection was upgraded to, has it.
pub(super) struct Connection(
    Arc<Socket>,
    #[allow(dead_code, reason = "held until dropped")] Arc<ConnectionPermit>,
);

/// A handle to the same connection, which notices its end and writes interim answers.
#[derive(Debug, Clone)]
pub(super) struct ClientHandle(Arc<Socket>);

/// Splits a connection into what hyper gets and the handle that stays here.
pub(super) fn split(tcp: TcpStream, permit: Arc<ConnectionPermit>) -> (Connection, ClientHandle) {
    let socket = Socket::new(tcp, false);
    (Connection(socket.clone(), permit), ClientHandle(socket))
}

/// As [`split`], for TLS: it gets the socket instead of hyper.
pub(super) fn split_encrypted(tcp: TcpStream) -> (Raw, ClientHandle) {
    let socket = Socket::new(tcp, true);
    (Raw(socket.clone()), ClientHandle(socket))
}

impl ClientHandle {
    /// The handle to a connection that hyper never gets.
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self(Socket::new(tcp, false))
    }

    /// Writes an interim HTTP/1.1 message before the answer to the current request. Leaves it out
    /// when the client has not yet taken what came before: interim answers are optional.
    pub(super) fn write_interim(&self, message: &[u8]) {
        let socket = &*self.0;
        if !socket.flushed.load(Ordering::Acquire) {
            return;
        }
        if socket.is_encrypted {
            // This runs within hyper's own poll of the connection, which flushes it afterwards.
            socket.pending.lock().extend_from_slice(message);
            socket.has_pending.store(true, Ordering::Release);
            return;
        }
        if socket.has_pending.load(Ordering::Acquire) {
            return;
        }
        // A message of which nothing was written is left out, too.
        if let Ok(n @ 1..) = socket.tcp.try_write(message)
            && n < message.len()
        {
            socket.pending.lock().extend_from_slice(&message[n..]);
            socket.has_pending.store(true, Ordering::Release);
        }
    }

    /// The interim answer that is to be encrypted, if there is one.
    pub(super) fn take_interim(&self) -> Option<Vec<u8>> {
        let socket = &*self.0;
        if !socket.has_pending.load(Ordering::Acquire) {
            return None;
        }
        let message = std::mem::take(&mut *socket.pending.lock());
        socket.has_pending.store(false, Ordering::Release);
        Some(message)
    }

    /// Notes whether hyper has written everything it had to write.
    pub(super) fn set_flushed(&self, flushed: bool) {
        self.0.flushed.store(flushed, Ordering::Release);
    }

    /// Waits for the client's first byte, and leaves it where it is.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) async fn first_byte(&self) -> io::Result<u8> {
        let mut first = [0];
        match self.0.tcp.peek(&mut first).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(first[0]),
        }
    }

    /// Writes a short last message past TLS, if the socket takes it at once.
    pub(super) fn write_bare(&self, message: &[u8]) {
        // The client may be gone.
        let _ = self.0.tcp.try_write(message);
    }

    /// The address of this machine that the client connected to.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.tcp.local_addr()
    }

    /// Closes the server's side, and lingers.
    pub(super) async fn close_and_linger(self, limit: Duration) {
        if rustix::net::shutdown(&self.0.tcp, Shutdown::Write).is_ok() {
            self.linger(limit).await;
        }
    }

    /// Closes the server's side, which hyper leaves open when an answer breaks off, so that the
    /// client does not wait for the rest. Then reads what the client still sends, until it closes
    /// too, for `limit` at most. Unread data would make the kernel reset the connection, and the
    /// client could lose an answer that it has not read yet. A connection that was upgraded belongs
    /// to its relay and is left alone.
    pub(super) async fn linger(self, limit: Duration) {
        if Arc::strong_count(&self.0) > 1
            || rustix::net::shutdown(&self.0.tcp, Shutdown::Write).is_err()
        {
            return;
        }
        let drain = async {
            // On the heap: in the future it would be most of every connection's memory.
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
        // A client that sends for longer may lose the answer.
        let _ = tokio::time::timeout(limit, drain).await;
    }

    /// Returns when the client has closed its side or the connection is broken. A client that
    /// closes only its sending side counts as gone, as it does for hyper.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) async fn closed(&self) {
        // PRIORITY is the interest that wakes for a closed side but not for data.
        while let Ok(ready) = self.0.tcp.ready(Interest::PRIORITY).await {
            if ready.is_read_closed() {
                return;
            }
            // Urgent data, which HTTP has no use for: clear the readiness until there is more.
            let _ = self.0.tcp.try_io(Interest::PRIORITY, || -> io::Result<()> {
                Err(io::ErrorKind::WouldBlock.into())
            });
        }
    }

    /// Other systems lack the interest; there hyper notices the end when it reads.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) async fn closed(&self) {
        std::future::pending().await
    }
}

impl Socket {
    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            let room = buf.remaining();
            match self.tcp.try_read_buf(buf) {
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

    /// Marks the socket as drained, after a read that did not fill its buffer, which spares a read
    /// that would find nothing. No event is lost: this thread polls the events of its connections
    /// itself, and not now.
    fn clear_readiness(&self) {
        let nothing = || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) };
        let _ = self.tcp.try_io(Interest::READABLE, nothing);
    }

    fn poll_write(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            match write(&self.tcp) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn shut_down(&self) -> io::Result<()> {
        match rustix::net::shutdown(&self.tcp, Shutdown::Write) {
            // The peer was faster.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buf)
    }
}

impl Connection {
    fn poll_try_write(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.0.flushed.store(false, Ordering::Release);
        ready!(self.0.poll_pending(cx))?;
        self.0.poll_write(cx, write)
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
        Poll::Ready(self.0.shut_down())
    }
}

/// The socket alone, for TLS to read and write.
pub(super) struct Raw(Arc<Socket>);

impl AsyncRead for Raw {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buf)
    }
}

impl AsyncWrite for Raw {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, |tcp| tcp.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, |tcp| tcp.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shut_down())
    }
}
