//! Ends the connections to a replica whose network is gone. No packet says so: the socket of this
//! side would wait for its peer until the request's timeout.

use std::{
    future::Future,
    io,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::send_state::SendState;

/// Whether the replica is out of reach, and the connections that have to learn it.
#[derive(Default)]
pub(super) struct Severed {
    token: CancellationToken,
    open: Mutex<Vec<Weak<SendState>>>,
}

impl Severed {
    /// From now on the connection ends with the others.
    pub(super) fn watch(&self, connection: &Arc<SendState>) {
        {
            let mut open = self.open.lock();
            // Before it grows, so that it stays about as long as there are connections.
            if open.len() == open.capacity() {
                open.retain(|connection| connection.strong_count() > 0);
            }
            open.push(Arc::downgrade(connection));
        }
        if self.token.is_cancelled() {
            connection.sever();
        }
    }

    /// The replica is out of reach for good.
    pub(super) fn sever(&self) {
        self.token.cancel();
        let open = std::mem::take(&mut *self.open.lock());
        for connection in open.iter().filter_map(Weak::upgrade) {
            connection.sever();
        }
    }

    /// The outcome of `connect`, unless the replica is out of reach.
    pub(super) async fn or<T>(
        &self,
        connect: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        tokio::select! {
            biased;
            () = self.token.cancelled() => Err(io::Error::new(
                io::ErrorKind::NetworkUnreachable,
                "the replica's network is gone",
            )),
            connected = connect => connected,
        }
    }
}
