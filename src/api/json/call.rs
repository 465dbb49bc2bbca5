//! Calls a gRPC service in process: frames the request, takes the answer's frames apart.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::http::{HeaderName, HeaderValue, Method, Request, Version, header, request::Parts};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use prost::Message;
use tonic::{Code, Status, service::Routes};
use tower::ServiceExt as _;

use super::route::Binding;
use crate::model::{Failure, Reason};

/// Before each message: one byte that says whether it is compressed, four with its length.
const PREFIX_BYTES: usize = 5;

/// Headers of the HTTP request that the services read. Others belong to this hop, or are the
/// platform's own and not the caller's to set.
const FORWARDED: [HeaderName; 5] = [
    header::AUTHORIZATION,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-request-id"),
];

/// Calls a method with a message that [`frame`] has made, and returns when it has answered with
/// headers.
///
/// The request's extensions are passed on, so the services see what the listener put there.
///
/// # Errors
/// The status of a call that failed before its first message.
pub(super) async fn start(
    grpc: &Routes,
    binding: &Binding,
    parts: Parts,
    message: Bytes,
) -> Result<Frames, Status> {
    let mut request = Request::new(Pieces::new(message));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = binding.uri.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.extensions_mut() = parts.extensions;
    let headers = request.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    for name in FORWARDED {
        for value in parts.headers.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }

    let response = match grpc.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    // A call that fails at once has its status in the headers and no body.
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(Frames {
            body: response.into_body(),
            data: Bytes::new(),
            ended: false,
        }),
    }
}

/// One message with its prefix.
///
/// # Errors
/// BODY_TOO_LARGE for what gRPC cannot carry.
pub(super) fn frame(message: &impl Message) -> Result<Bytes, Failure> {
    let len = message.encoded_len();
    let wire_len = u32::try_from(len).map_err(|_| {
        let why = "the request is over 4 GiB, more than gRPC can carry";
        Failure::new(Reason::BodyTooLarge, why)
    })?;
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + len);
    out.put_u8(0);
    out.put_u32(wire_len);
    message
        .encode(&mut out)
        .map_err(|e| Failure::new(Reason::Internal, format!("cannot encode the request: {e}")))?;
    Ok(out.freeze())
}

/// A request's body, in pieces: the service copies them together again, and after each piece the
/// task yields to others on its thread.
struct Pieces {
    rest: Bytes,
    /// A piece was sent since the task yielded last.
    in_turn: bool,
}

impl Pieces {
    /// Some dozen microseconds to copy.
    const PIECE_BYTES: usize = 256 * 1024;

    fn new(whole: Bytes) -> Self {
        Self {
            rest: whole,
            in_turn: false,
        }
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if std::mem::take(&mut self.in_turn) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let len = self.rest.len().min(Self::PIECE_BYTES);
        self.in_turn = true;
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// The messages of an answer. Dropping it cancels the call.
pub(super) struct Frames {
    body: tonic::body::Body,
    /// Bytes that were received and not returned yet.
    data: Bytes,
    ended: bool,
}

impl Frames {
    /// The next message, still encoded; `None` after the last.
    ///
    /// # Errors
    /// The status that the call ended with.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            let Some(frame) = self.body.frame().await else {
                self.ended = true;
                return Err(Status::internal("the service ended without a status"));
            };
            match frame?.into_data() {
                Ok(data) => self.append(data),
                Err(frame) => {
                    self.ended = true;
                    let trailers = frame.into_trailers().unwrap_or_default();
                    match Status::from_header_map(&trailers) {
                        Some(status) if status.code() == Code::Ok => {}
                        Some(status) => return Err(status),
                        None => return Err(Status::internal("the service sent no status")),
                    }
                }
            }
        }
    }

    /// Cuts one message off what was received. A message shares the received buffer.
    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((compressed, len)) =
            self.data.split_first_chunk::<1>().and_then(|(flag, rest)| {
                let len = rest.first_chunk::<4>()?;
                Some((flag[0] != 0, u32::from_be_bytes(*len) as usize))
            })
        else {
            return Ok(None);
        };
        if compressed {
            return Err(Status::internal("the service compressed an answer unasked"));
        }
        if self.data.len() - PREFIX_BYTES < len {
            return Ok(None);
        }
        self.data.advance(PREFIX_BYTES);
        Ok(Some(self.data.split_to(len)))
    }

    fn append(&mut self, data: Bytes) {
        if self.data.is_empty() {
            self.data = data;
        } else {
            // Rare: the encoder sends whole messages.
            let mut joined = BytesMut::with_capacity(self.data.len() + data.len());
            joined.extend_from_slice(&self.data);
            joined.extend_from_slice(&data);
            self.data = joined.freeze();
        }
    }
}
