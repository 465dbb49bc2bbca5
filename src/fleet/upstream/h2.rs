//! HTTP/2 without TLS (prior knowledge) to one port of one replica.
//!
//! Requests share connections. Another connection is opened when each of them carries as many
//! requests as every server should accept, so that no request waits behind the streams of others.

use std::{io, sync::Arc};

use http::{
    Request, Response, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Body, Error, Pool};

/// Concurrent requests on one connection: the minimum that a server should allow (RFC 9113, 6.5.2).
const STREAMS: usize = 100;

/// The HTTP/2 connections of a pool.
pub(super) struct Shared {
    open: Mutex<Vec<Carrier>>,
    /// Lets one request connect at a time; those that waited find its connection.
    connecting: Semaphore,
    /// Owns the connections' tasks; they end with the pool.
    tasks: TaskTracker,
    closed: CancellationToken,
}

/// One connection. Each of its requests holds a copy of `load`, which counts them.
#[derive(Clone)]
struct Carrier {
    sender: http2::SendRequest<Body>,
    load: Arc<()>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            connecting: Semaphore::new(1),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    /// Ends the connections, with the requests on them.
    pub(super) fn end(&self) {
        self.closed.cancel();
    }

    /// Drops the connections; each ends once its requests have ended.
    pub(super) fn clear(&self) {
        self.open.lock().clear();
    }

    /// Stops using a connection that refuses requests; its present requests continue.
    fn retire(&self, carrier: &Carrier) {
        let mut open = self.open.lock();
        open.retain(|c| !Arc::ptr_eq(&c.load, &carrier.load));
    }

    fn free(&self) -> Option<Carrier> {
        let mut open = self.open.lock();
        open.retain(|c| !c.sender.is_closed());
        // One count is that of the list itself.
        let free = open
            .iter()
            .find(|c| Arc::strong_count(&c.load) <= STREAMS)?;
        Some(free.clone())
    }
}

/// Sends a request; the token counts as one on its connection until it is dropped.
pub(super) async fn send(
    pool: &Pool,
    request: Request<Body>,
) -> Result<(Response<Incoming>, Arc<()>), Error> {
    let mut request = prepare(request);
    // A body that breaks off resets the stream, and hyper reports only that reset.
    let cause_of_end = request.body_mut().report_cause();
    let repeatable = super::is_repeatable(&request);
    // Only of a request whose whole body is in memory, unlike that of a gRPC call.
    let mut copy = super::copy(&request);
    loop {
        let (mut carrier, reused) = match pool.shared.free() {
            Some(carrier) => (carrier, true),
            None => match connect(pool).await {
                Ok(carrier) => (carrier, false),
                Err(cause) => return Err(pool.not_connected(cause, request)),
            },
        };
        match carrier.sender.try_send_request(request).await {
            Ok(response) => return Ok((response, carrier.load)),
            Err(mut e) => match e.take_message() {
                Some(unsent) if reused => request = unsent,
                Some(unsent) => {
                    return Err(pool.not_connected(io::Error::other(e.into_error()), unsent));
                }
                None => {
                    let e = e.into_error();
                    let unseen = is_unseen(&e) || reused && repeatable && is_lost(&e);
                    if unseen && let Some(copy) = copy.take() {
                        tracing::debug!(addr = %pool.addr, error = %e, "A request is sent again: the app has not processed it");
                        pool.shared.retire(&carrier);
                        request = copy;
                        continue;
                    }
                    return Err(match cause_of_end.get() {
                        Some(why) => Error::Body(why.clone()),
                        None => Error::Broke(e),
                    });
                }
            },
        }
    }
}

fn cause(e: &hyper::Error) -> Option<&::h2::Error> {
    std::error::Error::source(e).and_then(|cause| cause.downcast_ref())
}

/// Whether the app declared that it has not processed the request (RFC 9113, 8.7): it refused the
/// stream, or sent GOAWAY with an earlier stream as the last.
fn is_unseen(e: &hyper::Error) -> bool {
    cause(e).is_some_and(|e| {
        let refused = e.is_reset() && e.reason() == Some(::h2::Reason::REFUSED_STREAM);
        e.is_remote() && (refused || e.is_go_away())
    })
}

/// Whether the connection ended while the request was on it.
fn is_lost(e: &hyper::Error) -> bool {
    e.is_closed() || e.is_canceled() || cause(e).is_some_and(::h2::Error::is_io)
}

async fn connect(pool: &Pool) -> io::Result<Carrier> {
    let _turn = pool.shared.connecting.acquire().await;
    if let Some(carrier) = pool.shared.free() {
        return Ok(carrier);
    }
    let (tcp, open) = pool.dial().await?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .handshake(TokioIo::new(tcp))
        .await
        .map_err(io::Error::other)?;
    let closed = pool.shared.closed.clone();
    pool.shared.tasks.spawn(async move {
        let _open = open;
        tokio::select! {
            // The requests on it learn of its end, good or bad.
            _ = connection => {}
            () = closed.cancelled() => {}
        }
    });
    let carrier = Carrier {
        sender,
        load: Arc::default(),
    };
    pool.shared.open.lock().push(carrier.clone());
    Ok(carrier)
}

/// The request in the form of HTTP/2: the host in the URI, and no headers about framing.
fn prepare(request: Request<Body>) -> Request<Body> {
    let (mut head, mut body) = request.into_parts();
    let host = head.headers.remove(header::HOST);
    let authority = host.and_then(|h| Authority::try_from(h.as_bytes()).ok());
    if head.uri.authority().is_none() {
        let path = head.uri.path_and_query().cloned();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        // A fallback without effect on routing: the gateway has resolved the host already.
        parts.authority = authority.or_else(|| Some(Authority::from_static("localhost")));
        parts.path_and_query = path.or_else(|| Some(PathAndQuery::from_static("/")));
        head.uri = Uri::from_parts(parts).unwrap_or(head.uri);
    }
    head.version = Version::HTTP_2;
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        // hyper does not report interim answers in HTTP/2, so the body is sent unasked.
        header::EXPECT,
    ] {
        head.headers.remove(name);
    }
    body.do_not_wait();
    Request::from_parts(head, body)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::{server::conn::http1, service::service_fn};
    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpStream},
        sync::mpsc,
    };

    use super::{
        super::{BodyError, Bounds, Connects},
        *,
    };

    /// The error of a request that a client sends like this, over HTTP/2 to an app that reads.
    async fn sent(bounds: Bounds, request: &str, leaves: bool) -> Error {
        let app = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let pool = Pool::new(
            app.local_addr().expect("bound"),
            &Connects::new(1, crate::connections::Connections::new(10, 0)),
            false,
        );
        let app = tokio::spawn(async move {
            let (tcp, _) = app.accept().await.expect("a connection");
            let mut http2 = ::h2::server::handshake(tcp).await.expect("HTTP/2");
            let mut calls = Vec::new();
            while let Some(Ok(call)) = http2.accept().await {
                calls.push(call);
            }
        });
        let front = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let mut client = TcpStream::connect(front.local_addr().expect("bound"))
            .await
            .expect("up");
        client.write_all(request.as_bytes()).await.expect("sent");
        let client = (!leaves).then_some(client);
        let (outcomes, mut outcome) = mpsc::channel(1);
        let front = tokio::spawn(async move {
            let (tcp, _) = front.accept().await.expect("a connection");
            let service = service_fn(|request: Request<Incoming>| {
                let (pool, outcomes) = (pool.clone(), outcomes.clone());
                async move {
                    let request = request.map(|body| Body::streamed(body, bounds, |_| {}));
                    let outcome = send(&pool, request).await.map(drop);
                    let _ = outcomes.send(outcome).await;
                    Err::<Response<String>, _>(io::Error::other("over"))
                }
            });
            let _ = http1::Builder::new()
                .half_close(true)
                .serve_connection(TokioIo::new(tcp), service)
                .await;
        });
        let outcome = outcome.recv().await.expect("an outcome");
        drop(client);
        front.abort();
        app.abort();
        outcome.expect_err("it broke off")
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_says_why() {
        let head = "POST / HTTP/1.1\r\nhost: x\r\n";
        let announced = format!("{head}content-length: 100\r\n\r\nsome");
        let pause = Bounds {
            pause: Duration::from_millis(50),
            ..Bounds::default()
        };
        let why = sent(pause, &announced, false).await;
        assert!(matches!(why, Error::Body(BodyError::Stalled(_))), "{why}");
        let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n4\r\nsome\r\n");
        let why = sent(pause, &chunked, false).await;
        assert!(matches!(why, Error::Body(BodyError::Stalled(_))), "{why}");
        let few = Bounds {
            bytes: 2,
            ..Bounds::default()
        };
        let why = sent(few, &announced, false).await;
        assert!(matches!(why, Error::Body(BodyError::TooLarge(2))), "{why}");
        let why = sent(Bounds::default(), &announced, true).await;
        assert!(matches!(why, Error::Body(BodyError::Client(_))), "{why}");
    }
}
