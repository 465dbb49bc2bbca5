//! A request's body on its way to a replica; never buffered here.

use std::{
    error::Error as _,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, Request, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::send_state::SendState;

/// How long an app may take to say whether it wants the body of a request with `Expect:
/// 100-continue`. Many servers never say so and wait for the body, and clients send it unasked
/// after about as long.
const EXPECT_PATIENCE: Duration = Duration::from_secs(1);

/// A request's body.
#[derive(Debug, Default)]
pub enum Body {
    /// No body.
    #[default]
    Empty,
    /// Bytes in memory (an invocation envelope's body).
    Full(Option<Bytes>),
    /// A client's body, streamed.
    Streamed(Streamed),
}

/// Why a body cannot be sent to its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BodyError {
    /// The client broke it off, or sent malformed HTTP.
    #[error(transparent)]
    Client(Arc<hyper::Error>),
    /// The client sent nothing more of it in time.
    #[error("nothing more of the body came for {}", humantime::format_duration(*.0))]
    Stalled(Duration),
    /// It is longer than it may be.
    #[error("the body is over {0} bytes")]
    TooLarge(u64),
}

/// Why a body could not be sent to its end, if that is what broke an exchange in HTTP/1.1.
pub(super) fn why_unsent(e: &hyper::Error) -> Option<&BodyError> {
    e.source()?.downcast_ref()
}

/// Bounds on a client's body.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bounds {
    /// Most bytes; 0 for no bound.
    pub bytes: u64,
    /// Longest time without a piece of the body; 0 for no bound. A body of unknown length is a
    /// stream, which may pause once the app has begun its answer.
    pub pause: Duration,
}

/// A client's body. It is first polled when the replica takes it, so a client that waits for `100
/// Continue` gets it only then.
#[derive(Debug)]
pub struct Streamed {
    incoming: Incoming,
    bounds: Bounds,
    /// Bytes that may still come.
    left: u64,
    /// The timer of the present pause.
    pause: Option<Pin<Box<Sleep>>>,
    pausing: bool,
    /// Removes from the trailers what clients may not send.
    withhold: fn(&mut HeaderMap),
    /// The wait for the app to ask for the body; `None` if the client does not wait either.
    gate: Option<Waiting>,
    /// The connection on which it is sent.
    send_state: Option<Arc<SendState>>,
    /// Receives why the body broke off; `None` where hyper's error says so.
    cause: Option<Arc<OnceLock<BodyError>>>,
    /// Whether the app has begun its answer; only for a body of unknown length.
    answered: Option<Arc<AtomicBool>>,
}

impl Body {
    /// A client's body.
    pub fn streamed(incoming: Incoming, bounds: Bounds, withhold: fn(&mut HeaderMap)) -> Self {
        Body::Streamed(Streamed {
            left: match bounds.bytes {
                0 => u64::MAX,
                most => most,
            },
            bounds,
            pause: None,
            pausing: false,
            incoming,
            withhold,
            gate: None,
            send_state: None,
            cause: None,
            answered: None,
        })
    }

    /// Marks the connection as sending this body until it is dropped.
    pub(super) fn attach(&mut self, send_state: &Arc<SendState>) {
        if let Body::Streamed(body) = self {
            send_state.set_sending(true);
            body.send_state = Some(send_state.clone());
        }
    }

    /// Detaches it from a connection that has not sent any of it.
    pub(super) fn detach(&mut self) {
        if let Body::Streamed(body) = self {
            body.let_go();
        }
    }

    /// The cell that receives why the body breaks off, if it does.
    pub(super) fn report_cause(&mut self) -> Arc<OnceLock<BodyError>> {
        let cause = Arc::<OnceLock<_>>::default();
        if let Body::Streamed(body) = self {
            body.cause = Some(cause.clone());
        }
        cause
    }

    /// The flag to set once the app has begun its answer; `None` if that changes nothing.
    pub(super) fn until_answered(&mut self) -> Option<Arc<AtomicBool>> {
        let Body::Streamed(body) = self else {
            return None;
        };
        if body.bounds.pause.is_zero() || body.incoming.size_hint().exact().is_some() {
            return None;
        }
        Some(body.answered.insert(Arc::default()).clone())
    }

    /// Sends it without waiting for the app to ask for it.
    pub(super) fn do_not_wait(&mut self) {
        if let Body::Streamed(body) = self {
            body.gate = None;
        }
    }
}

impl Streamed {
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Poll::Ready(mut frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
                return self.poll_pause(cx);
            };
            self.pausing = false;
            if let Some(Ok(piece)) = &mut frame {
                if let Some(trailers) = piece.trailers_mut() {
                    (self.withhold)(trailers);
                }
                let len = piece.data_ref().map(Bytes::len);
                // Peers tolerate few empty pieces on a connection, since they are a way to flood,
                // and this connection may be shared with other clients' requests.
                if len == Some(0) && !self.incoming.is_end_stream() {
                    continue;
                }
                match self.left.checked_sub(len.unwrap_or_default() as u64) {
                    Some(left) => self.left = left,
                    None => return Poll::Ready(Some(Err(BodyError::TooLarge(self.bounds.bytes)))),
                }
            }
            return Poll::Ready(frame.map(|f| f.map_err(|e| BodyError::Client(Arc::new(e)))));
        }
    }

    /// Waits for more within the bound on pauses.
    fn poll_pause<T>(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, BodyError>>> {
        let most = self.bounds.pause;
        let answered = self.answered.as_ref();
        if most.is_zero() || answered.is_some_and(|a| a.load(Ordering::Relaxed)) {
            return Poll::Pending;
        }
        let pause = self
            .pause
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(most)));
        if !std::mem::replace(&mut self.pausing, true) {
            pause.as_mut().reset(Instant::now() + most);
        }
        ready!(pause.as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyError::Stalled(most))))
    }

    fn let_go(&mut self) {
        if let Some(send_state) = self.send_state.take() {
            send_state.set_sending(false);
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
                let piece = ready!(body.poll_piece(cx));
                if let (Some(Err(e)), Some(cause)) = (&piece, &body.cause) {
                    // The first reason counts.
                    let _ = cause.set(e.clone());
                }
                Poll::Ready(piece)
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
