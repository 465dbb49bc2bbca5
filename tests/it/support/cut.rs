//! A proxy to a server that a test can cut while the server keeps running.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// An address that passes every connection on to a server.
pub(crate) struct Cut {
    addr: SocketAddr,
    connections: Arc<Mutex<JoinSet<()>>>,
    accepting: AbortHandle,
}

impl Cut {
    /// Starts passing connections on.
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let addr = listener.local_addr().expect("bound");
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let open = connections.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                open.spawn(async move {
                    if let Ok(mut upstream) = TcpStream::connect(server).await {
                        // Either side may close; the drop closes the other.
                        let _ = copy_bidirectional(&mut client, &mut upstream).await;
                    }
                });
            }
        });
        Self {
            addr,
            connections,
            accepting: accepting.abort_handle(),
        }
    }

    /// Where to connect to.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Breaks every connection; new ones are passed on.
    pub(crate) fn all(&self) {
        let mut open = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        open.abort_all();
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.accepting.abort();
        self.all();
    }
}
