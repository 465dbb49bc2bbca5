//! A request's body on its way to a replica; never buffered here.

use std::{
    error::Error as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, Request, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::link::Wire;

/// How long an app is given to say whether it wants the body of a request with
/// `Expect: 100-continue`. Many servers never say it and wait for the body, and clients send it
/// unasked after about as long.
const EXPECT_PATIENCE: Duration = Duration::from_secs(1);

/// A request's body.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    Empty,
    /// Bytes in memory (an invocation envelope's body).
    Full(Option<Bytes>),
    /// A client's body, streamed.
    Streamed(Streamed),
}

/// Why a body cannot be sent to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client broke it off, or what came is no HTTP.
    #[error(transparent)]
    Client(#[from] hyper::Error),
    /// It is longer than it may be.
    #[error("the body is over {0} bytes")]
    TooLarge(u64),
}

/// The bound that a body was over, when that is why it could not be sent.
pub fn too_large(e: &hyper::Error) -> Option<u64> {
    match e.source()?.downcast_ref()? {
        BodyError::TooLarge(most) => Some(*most),
        BodyError::Client(_) => None,
    }
}

/// A client's body. It is asked for when the replica takes it, so a client that waits for
/// `100 Continue` gets it only then.
#[derive(Debug)]
pub struct Streamed {
    incoming: Incoming,
    /// Most bytes of it, and those that may still come; `None` for no bound.
    bound: Option<(u64, u64)>,
    /// Takes out of the trailers what no client may say.
    withhold: fn(&mut HeaderMap),
    /// Where the app says that it wants the body; `None` when nobody asked.
    gate: Option<Waiting>,
    /// The connection that it is sent on.
    wire: Option<Arc<Wire>>,
}

impl Body {
    /// A client's body of at most `most` bytes; 0 for no bound.
    pub fn streamed(incoming: Incoming, most: u64, withhold: fn(&mut HeaderMap)) -> Self {
        Body::Streamed(Streamed {
            incoming,
            bound: (most > 0).then_some((most, most)),
            withhold,
            gate: None,
            wire: None,
        })
    }

    /// Says on which connection it goes out, until it is dropped.
    pub(super) fn attach(&mut self, wire: &Arc<Wire>) {
        if let Body::Streamed(body) = self {
            wire.set_sending(true);
            body.wire = Some(wire.clone());
        }
    }

    /// Takes it back from a connection that has not sent any of it.
    pub(super) fn detach(&mut self) {
        if let Body::Streamed(body) = self {
            body.let_go();
        }
    }

    /// Sends it without asking first.
    pub(super) fn do_not_wait(&mut self) {
        if let Body::Streamed(body) = self {
            body.gate = None;
        }
    }
}

impl Streamed {
    fn let_go(&mut self) {
        if let Some(wire) = self.wire.take() {
            wire.set_sending(false);
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Leaves it to the app whether the body of a request with `Expect: 100-continue` is sent.
pub fn let_the_app_ask(request: &mut Request<Body>) {
    let gate = Arc::new(Gate::default());
    let opens = gate.clone();
    if let Body::Streamed(body) = request.body_mut() {
        body.gate = Some(Waiting {
            gate,
            patience: None,
        });
        hyper::ext::on_informational(request, move |answer| {
            if answer.status() == StatusCode::CONTINUE {
                opens.open();
            }
        });
    }
}

/// Whether the app has asked for the body.
#[derive(Debug, Default)]
struct Gate {
    open: AtomicBool,
    body: AtomicWaker,
}

impl Gate {
    fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.body.wake();
    }
}

#[derive(Debug)]
struct Waiting {
    gate: Arc<Gate>,
    patience: Option<Pin<Box<Sleep>>>,
}

impl Waiting {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.gate.body.register(cx.waker());
        if self.gate.open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(EXPECT_PATIENCE)));
        patience.as_mut().poll(cx)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Streamed(body) => {
                if let Some(waiting) = &mut body.gate {
                    ready!(waiting.poll(cx));
                    body.gate = None;
                }
                let mut frame = ready!(Pin::new(&mut body.incoming).poll_frame(cx));
                // Peers allow a connection few empty pieces (they are a way to flood), and this one
                // may be shared with other clients' requests.
                while let Some(Ok(piece)) = &frame
                    && piece.data_ref().is_some_and(Bytes::is_empty)
                    && !body.incoming.is_end_stream()
                {
                    frame = ready!(Pin::new(&mut body.incoming).poll_frame(cx));
                }
                if let Some(Ok(frame)) = &mut frame
                    && let Some(trailers) = frame.trailers_mut()
                {
                    (body.withhold)(trailers);
                }
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                    && let Some((most, left)) = &mut body.bound
                {
                    match left.checked_sub(data.len() as u64) {
                        Some(rest) => *left = rest,
                        None => return Poll::Ready(Some(Err(BodyError::TooLarge(*most)))),
                    }
                }
                Poll::Ready(frame.map(|f| f.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.is_none(),
            Body::Streamed(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Streamed(body) => body.incoming.size_hint(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Body::Empty
        } else {
            Body::Full(Some(bytes))
        }
    }
}
