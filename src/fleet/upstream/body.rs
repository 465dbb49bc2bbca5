//! A request's body on its way to a replica; never buffered here.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

/// What a request brings.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    Empty,
    /// Bytes in memory (an invocation envelope's body).
    Full(Option<Bytes>),
    /// A client's body, streamed.
    Stream(Stream),
}

/// A client's body, and whether all of it has been taken.
#[derive(Debug)]
pub struct Stream {
    incoming: Incoming,
    taken: Arc<AtomicBool>,
}

impl Body {
    /// Tells later, when the body is somewhere else, whether all of it has been taken.
    pub(super) fn taken(&self) -> Taken {
        Taken(match self {
            Self::Stream(stream) => Some(stream.taken.clone()),
            _ => None,
        })
    }
}

/// See [`Body::taken`].
pub(super) struct Taken(Option<Arc<AtomicBool>>);

impl Taken {
    /// A body in memory goes out with the head, or waits in the connection's buffer.
    pub(super) fn wholly(&self) -> bool {
        let taken = self.0.as_ref();
        taken.is_none_or(|taken| taken.load(Ordering::Relaxed))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Stream(stream) => {
                let frame = ready!(Pin::new(&mut stream.incoming).poll_frame(cx));
                if frame.is_none() || stream.incoming.is_end_stream() {
                    stream.taken.store(true, Ordering::Relaxed);
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.is_none(),
            Body::Stream(stream) => stream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Stream(stream) => stream.incoming.size_hint(),
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

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        if incoming.is_end_stream() {
            return Body::Empty;
        }
        Body::Stream(Stream {
            incoming,
            taken: Arc::default(),
        })
    }
}
