//! Connections for simulations: pipes to the apps of the scripted engine, without sockets.
//!
//! A paused clock jumps ahead whenever only the outside world could make progress, so a probe over
//! a real socket would time out before its answer. In unit tests `upstream/` takes this
//! [`TcpStream`] instead of tokio's; everything above the socket is the production code. Tests that
//! simulate nothing get real sockets from it.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    net,
};

use crate::engine::fake::Fake;

thread_local! {
    /// The engine whose containers are reached from this thread; a simulation has a thread of
    /// its own.
    static ENGINE: RefCell<Option<Fake>> = const { RefCell::new(None) };
}

/// From now on connections of this thread lead to the containers of `engine`.
pub(super) fn lead_to(engine: &Fake) {
    ENGINE.set(Some(engine.clone()));
}

/// A connection, through a socket or a pipe.
pub(in crate::fleet) enum TcpStream {
    Socket(net::TcpStream),
    Pipe(DuplexStream),
}

impl TcpStream {
    pub(in crate::fleet) async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let Some(engine) = ENGINE.with_borrow(Clone::clone) else {
            return net::TcpStream::connect(addr).await.map(Self::Socket);
        };
        let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
        engine.answer(addr).map_err(refused)?;
        let (near, far) = tokio::io::duplex(4096);
        // Ends with the near end, which the pool under test owns.
        tokio::spawn(answer(engine, addr, far));
        Ok(Self::Pipe(near))
    }

    pub(in crate::fleet) fn set_nodelay(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Socket(s) => s.set_nodelay(on),
            Self::Pipe(_) => Ok(()),
        }
    }
}

/// The app at `addr`: answers each request as the engine's script says.
async fn answer(engine: Fake, addr: SocketAddr, mut pipe: DuplexStream) {
    let mut seen = Vec::new();
    while pipe.read_buf(&mut seen).await.is_ok_and(|n| n > 0) {
        if !seen.ends_with(b"\r\n\r\n") {
            continue;
        }
        let health = String::from_utf8_lossy(&seen).contains("ignite-health/");
        seen.clear();
        // A frozen app has received the request and answers when it resumes.
        while engine.frozen(addr) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let answer = engine.answer(addr);
        if answer.is_ok() && !health {
            engine.note_request();
        }
        let head = match answer {
            Ok(Some(status)) => format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n"),
            Ok(None) => continue,
            Err(_) => return,
        };
        if pipe.write_all(head.as_bytes()).await.is_err() {
            return;
        }
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(s) => Pin::new(s).poll_read(cx, buf),
            Self::Pipe(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(s) => Pin::new(s).poll_write(cx, data),
            Self::Pipe(s) => Pin::new(s).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(s) => Pin::new(s).poll_flush(cx),
            Self::Pipe(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(s) => Pin::new(s).poll_shutdown(cx),
            Self::Pipe(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
