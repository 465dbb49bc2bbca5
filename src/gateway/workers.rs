//! The threads that carry HTTP connections.
//!
//! Each has its own runtime: a request, its replica's connection and their timers stay on one
//! thread, so none has to wake another. On a shared runtime these wake-ups were a tenth of the cost
//! of a small request. A connection goes to the thread that has the fewest.
//!
//! Tasks that requests leave running (an upgrade, a roll-out) run on these threads too, so the
//! threads last until everything else has stopped.

use std::{
    future::Future,
    io, net,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{net::TcpStream, runtime, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{fleet::upstream, vitals::Vitals};

/// What is done with a connection, on the thread that carries it.
pub(super) type Serve =
    Box<dyn FnOnce(TcpStream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// The threads. Dropping this ends them and what still runs there.
pub struct Workers {
    threads: Vec<Worker>,
    end: CancellationToken,
}

struct Worker {
    accepted: mpsc::UnboundedSender<Accepted>,
    open: Arc<AtomicUsize>,
}

struct Accepted {
    tcp: net::TcpStream,
    serve: Serve,
    /// Counts the connection among its thread's.
    open: OpenConnection,
    tracker: TaskTracker,
}

/// One connection in a thread's count, until dropped.
struct OpenConnection(Arc<AtomicUsize>);

impl OpenConnection {
    fn count(of: &Arc<AtomicUsize>) -> Self {
        of.fetch_add(1, Ordering::Relaxed);
        Self(of.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts so many threads, at least one.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn start(threads: usize, vitals: &Vitals) -> io::Result<Self> {
        let end = CancellationToken::new();
        let threads = (1..=threads.max(1))
            .map(|number| Worker::start(number, end.clone(), vitals))
            .collect::<io::Result<_>>()?;
        Ok(Self { threads, end })
    }

    /// Has a connection served by the thread with the fewest.
    ///
    /// # Errors
    /// When the socket cannot be moved to the other thread's event queue.
    pub(super) fn serve(
        &self,
        tcp: TcpStream,
        serve: Serve,
        tracker: &TaskTracker,
    ) -> io::Result<()> {
        let fewest = self
            .threads
            .iter()
            .min_by_key(|worker| worker.open.load(Ordering::Relaxed));
        let worker = fewest.ok_or_else(|| io::Error::other("there is no thread"))?;
        let accepted = Accepted {
            open: OpenConnection::count(&worker.open),
            tcp: tcp.into_std()?,
            serve,
            tracker: tracker.clone(),
        };
        worker
            .accepted
            .send(accepted)
            .map_err(|_| io::Error::other("the thread has ended"))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Worker {
    fn start(number: usize, end: CancellationToken, vitals: &Vitals) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (tx, rx) = mpsc::unbounded_channel();
        let latch = vitals.latch(format!("HTTP thread {number}"));
        thread::Builder::new()
            .name(format!("http-{number}"))
            .spawn(move || {
                upstream::bind_thread_to_shard(number);
                runtime.block_on(end.run_until_cancelled(accept_connections(rx)));
                runtime.shutdown_background();
                latch.release();
            })?;
        Ok(Self {
            accepted: tx,
            open: Arc::default(),
        })
    }
}

async fn accept_connections(mut accepted: mpsc::UnboundedReceiver<Accepted>) {
    while let Some(Accepted {
        tcp,
        serve,
        open,
        tracker,
    }) = accepted.recv().await
    {
        match TcpStream::from_std(tcp) {
            Ok(tcp) => {
                let connection = serve(tcp);
                tracker.spawn(async move {
                    let _open = open;
                    connection.await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "A connection could not be registered with its thread")
            }
        }
    }
    // No more connections come; the tasks on this thread continue.
    std::future::pending::<()>().await;
}
