//! Calls a gRPC service in process with a message that is encoded already.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::http::{HeaderName, HeaderValue, Method, Request, Version, header, request::Parts};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use prost::Message;
use tonic::{
    Code, Status, Streaming,
    codec::{DecodeBuf, Decoder},
    service::Routes,
};
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
) -> Result<Messages, Status> {
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
        _ => {
            let code = response.status();
            let body = response.into_body();
            // The services bound what they answer.
            let any_size = Some(usize::MAX);
            Ok(Streaming::new_response(
                Undecoded, body, code, None, any_size,
            ))
        }
    }
}

/// One message with its prefix.
///
/// Not left to a client of `tonic`: its encoder would copy a message of 64 MiB at once on the
/// connection's thread, where [`Pieces`] let others have their turn.
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

/// The messages of an answer, still encoded: `message` gives the next, `None` after the last, or the
/// status that the call ended with. Dropping it cancels the call.
pub(super) type Messages = Streaming<Bytes>;

/// Leaves messages as they were received: the descriptors that they are decoded by are the
/// binding's.
struct Undecoded;

impl Decoder for Undecoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }
}
