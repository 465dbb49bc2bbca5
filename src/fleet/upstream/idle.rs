//! The idle connections of a pool.
//!
//! Each thread reuses its own connections last in, first out, so unneeded ones collect at the
//! bottom. A sweep keeps as many as were in use at the same time since the last one, and a few
//! more.

use std::task::{Context, Waker};

use super::h1::H1Connection;

/// Connections that a thread keeps however few it needs: opening one takes longer than a small
/// request, and a descriptor costs next to nothing.
const KEPT: usize = 8;

/// The idle connections.
#[derive(Default)]
pub(super) struct Idle {
    /// By shard: the connections that one thread's event queue moves.
    stacks: Vec<Stack>,
    /// How often all connections were dropped.
    emptied: u64,
}

#[derive(Default)]
struct Stack {
    connections: Vec<H1Connection>,
    /// How many, from the bottom, were not taken since the last sweep.
    unneeded: usize,
}

impl Idle {
    /// Takes the connection of this shard that was used last.
    pub(super) fn pop(&mut self, shard: usize) -> Option<H1Connection> {
        let stack = self.stacks.get_mut(shard)?;
        let connection = stack.connections.pop()?;
        stack.unneeded = stack.unneeded.min(stack.connections.len());
        Some(connection)
    }

    pub(super) fn push(&mut self, connection: H1Connection) {
        self.stack(connection.shard).connections.push(connection);
    }

    /// Takes all out, to be checked and put back.
    pub(super) fn take(&mut self) -> Self {
        Self {
            stacks: std::mem::take(&mut self.stacks),
            emptied: self.emptied,
        }
    }

    /// Takes all out, to be dropped; those that a sweep has taken out before do not return.
    pub(super) fn empty(&mut self) -> Self {
        self.emptied += 1;
        self.take()
    }

    /// Closes connections that are not needed or that the app has closed; if connections are
    /// scarce, also the few that are kept otherwise.
    pub(super) fn close_unneeded(&mut self, scarce: bool) {
        let kept = if scarce { 0 } else { KEPT };
        let mut cx = Context::from_waker(Waker::noop());
        for stack in &mut self.stacks {
            let spare = stack.connections.len().saturating_sub(kept);
            stack.connections.drain(..stack.unneeded.min(spare));
            stack
                .connections
                .retain_mut(|connection| connection.is_ready(&mut cx));
        }
    }

    /// Puts connections that were taken out under those that were returned since, and counts anew
    /// which are needed. Returns what is to be dropped instead.
    pub(super) fn put_under(&mut self, others: Self) -> Option<Self> {
        if others.emptied != self.emptied {
            return Some(others);
        }
        for (shard, mut older) in others.stacks.into_iter().enumerate() {
            let stack = self.stack(shard);
            older.connections.append(&mut stack.connections);
            stack.connections = older.connections;
        }
        for stack in &mut self.stacks {
            stack.unneeded = stack.connections.len();
        }
        None
    }

    fn stack(&mut self, shard: usize) -> &mut Stack {
        if self.stacks.len() <= shard {
            self.stacks.resize_with(shard + 1, Stack::default);
        }
        &mut self.stacks[shard]
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        time::Duration,
    };

    use futures_util::future::join_all;
    use http::Request;
    use http_body_util::BodyExt as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::Barrier,
    };

    use super::{
        super::{Body, Connects, Pool},
        KEPT,
    };

    /// An app that answers `/burst` once all of it is there, and counts its connections.
    async fn serve(mut tcp: TcpStream, burst: Arc<Barrier>, open: Arc<AtomicUsize>) {
        open.fetch_add(1, SeqCst);
        let mut seen = Vec::new();
        while tcp.read_buf(&mut seen).await.is_ok_and(|n| n > 0) {
            if seen.ends_with(b"\r\n\r\n") {
                if seen.starts_with(b"GET /burst ") {
                    burst.wait().await;
                }
                seen.clear();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                tcp.write_all(answer).await.expect("a client");
            }
        }
        open.fetch_sub(1, SeqCst);
    }

    async fn ask(pool: &Arc<Pool>, path: &str) {
        let request = Request::get(path).header("host", "app");
        let answer = pool.send(request.body(Body::Empty).expect("valid")).await;
        let body = answer.expect("an answer").into_body();
        body.collect().await.expect("its end");
    }

    #[tokio::test]
    async fn as_many_stay_open_as_were_needed_at_a_time_of_late() {
        const BURST: usize = 20;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let pool = Pool::new(
            listener.local_addr().expect("bound"),
            &Connects::new(BURST, crate::connections::Connections::new(1000, 0)),
            false,
        );
        let (open, burst) = (Arc::<AtomicUsize>::default(), Arc::new(Barrier::new(BURST)));
        let counted = open.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(serve(tcp, burst.clone(), counted.clone()));
            }
        });
        for _ in 0..2 {
            join_all((0..BURST).map(|_| ask(&pool, "/burst"))).await;
            pool.sweep();
            assert_eq!(open.load(SeqCst), BURST);
        }
        pool.sweep();
        let closed = async {
            while open.load(SeqCst) > KEPT {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), closed)
            .await
            .expect("those that nobody needs are closed");
        for _ in 0..2 {
            ask(&pool, "/").await;
            pool.sweep();
            assert_eq!(open.load(SeqCst), KEPT);
        }
    }
}
