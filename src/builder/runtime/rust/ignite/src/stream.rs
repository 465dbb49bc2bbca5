//! An answer that is sent piece by piece.

use std::{
    pin::Pin,
    task::{ready, Context, Poll},
};

use axum_core::{body::Body, BoxError};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body::{Body as HttpBody, Frame};
use serde_json::Value;
use tokio::sync::mpsc::{Receiver, Sender};

use crate::{server::Running, Error, IntoResponse, Response, Result};

const BYTES: &str = "application/octet-stream";
const TEXT: &str = "text/plain; charset=utf-8";
const LINES: &str = "application/x-ndjson";

/// The answer of a call, to be sent piece by piece.
///
/// The first piece begins the answer, with status 200 and the piece's content type. It ends when the
/// handler has returned and every handle is dropped, so a handle may go on in a task that the
/// handler leaves behind. The body of what the handler returns, if it has one, is the last piece;
/// `Ok(())` has none. An error or a panic after the first piece breaks the answer off. Without a
/// piece the answer is what the handler returns, as ever.
#[derive(Debug, Clone)]
pub struct Stream(Option<Sender<Sent>>);

/// A piece on its way to the caller.
#[derive(Debug)]
pub struct Sent {
    bytes: Bytes,
    kind: &'static str,
}

impl Stream {
    pub(crate) fn new(answer: Option<Sender<Sent>>) -> Self {
        Self(answer)
    }

    /// Sends a piece, once there is room for it.
    ///
    /// # Errors
    /// When the caller has disconnected, or the call has ended.
    pub async fn send(&self, piece: impl Piece) -> Result<()> {
        let piece = piece.into_sent();
        match &self.0 {
            Some(answer) => answer.send(piece).await.map_err(|_| ended()),
            None => Err(ended()),
        }
    }

    /// Sends a piece from a handler that is not async.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Panics
    /// In async code, which it would block.
    pub fn send_blocking(&self, piece: impl Piece) -> Result<()> {
        match &self.0 {
            Some(answer) => answer.blocking_send(piece.into_sent()).map_err(|_| ended()),
            None => Err(ended()),
        }
    }
}

fn ended() -> Error {
    Error::msg("the stream is closed: the caller has disconnected, or the call has ended")
}

/// What can be a piece of an answer: bytes as they are, text as UTF-8, a JSON value as a line.
pub trait Piece: Send {
    #[doc(hidden)]
    fn into_sent(self) -> Sent;
}

macro_rules! pieces {
    ($kind:expr, $($type:ty => $bytes:expr),*) => {$(
        impl Piece for $type {
            fn into_sent(self) -> Sent {
                let bytes: fn($type) -> Bytes = $bytes;
                Sent { bytes: bytes(self), kind: $kind }
            }
        }
    )*};
}

pieces!(BYTES, Bytes => |b| b, Vec<u8> => Bytes::from, &[u8] => Bytes::copy_from_slice);
pieces!(TEXT, String => Bytes::from, &str => |s| Bytes::copy_from_slice(s.as_bytes()));
pieces!(LINES, Value => |v| Bytes::from(format!("{v}\n")));

impl<const N: usize> Piece for &[u8; N] {
    fn into_sent(self) -> Sent {
        self[..].into_sent()
    }
}

/// The answer to a call: piece by piece if there is one, else what the handler returns.
pub(crate) async fn answer(call: Running, mut pieces: Receiver<Sent>) -> Response {
    // The call has a sender until the handler returns.
    let Some(first) = pieces.recv().await else {
        return call.whole().await;
    };
    let body = Pieces {
        first: Some(first.bytes),
        rest: pieces,
        end: End::Call(call),
    };
    ([(CONTENT_TYPE, first.kind)], Body::new(body)).into_response()
}

/// The body of an answer in pieces.
struct Pieces {
    first: Option<Bytes>,
    rest: Receiver<Sent>,
    end: End,
}

/// What comes after the pieces.
enum End {
    /// What the handler returns.
    Call(Running),
    /// The body of what it returned.
    Body(Body),
    /// Nothing: it failed.
    Broken,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        loop {
            match &mut this.end {
                End::Call(call) => {
                    if let Some(piece) = ready!(this.rest.poll_recv(cx)) {
                        return Poll::Ready(Some(Ok(Frame::data(piece.bytes))));
                    }
                    match ready!(call.poll_outcome(cx)) {
                        Ok(last) => this.end = End::Body(last.into_body()),
                        Err(why) => {
                            this.end = End::Broken;
                            return Poll::Ready(Some(Err(why.into())));
                        }
                    }
                }
                End::Body(body) => {
                    let frame = ready!(Pin::new(body).poll_frame(cx));
                    return Poll::Ready(frame.map(|f| f.map_err(Into::into)));
                }
                End::Broken => return Poll::Ready(None),
            }
        }
    }
}
