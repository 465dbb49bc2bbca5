//! Response messages → JSON: one object, or one per message of a stream.

use axum::{
    body::{Body, HttpBody as _},
    http::{HeaderMap, HeaderValue, Response, header},
};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::json;
use tonic::Status;

use super::{call::Messages, offload::Offload};
use crate::api::status::{http_response, json_body};

/// How a stream is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// One object per line.
    Lines,
    /// Server-sent events, for browsers.
    Events,
}

impl Style {
    /// Events if the caller accepts them by name, else lines.
    pub(super) fn asked_by(headers: &HeaderMap) -> Self {
        let accepts = headers.get_all(header::ACCEPT).iter();
        let events = accepts
            .filter_map(|v| v.to_str().ok())
            .any(|v| v.contains("text/event-stream"));
        if events { Self::Events } else { Self::Lines }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Lines => "application/json",
            Self::Events => "text/event-stream",
        }
    }

    fn message(self, json: String) -> Bytes {
        match self {
            Self::Lines => Bytes::from(json + "\n"),
            Self::Events => Bytes::from(format!("data: {json}\n\n")),
        }
    }

    /// The last item of a stream that failed.
    fn error(self, status: &Status) -> Bytes {
        let json = json!({"error": json_body(status)});
        match self {
            Self::Lines => Bytes::from(format!("{json}\n")),
            Self::Events => Bytes::from(format!("event: error\ndata: {json}\n\n")),
        }
    }
}

/// Renders the response of a unary call.
pub(super) async fn unary(
    mut messages: Messages,
    descriptor: MessageDescriptor,
    offload: Offload,
) -> Response<Body> {
    let json = match messages.message().await {
        Ok(Some(message)) => match messages.message().await {
            Ok(_) => to_json(&descriptor, message, &offload).await,
            Err(status) => Err(status),
        },
        Ok(None) => Err(Status::internal("the service sent no answer")),
        Err(status) => Err(status),
    };
    match json {
        Ok(json) => with_type(Body::from(json), "application/json"),
        Err(status) => http_response(&status),
    }
}

/// Renders the response of a server-streaming call. An error that is known at once becomes an HTTP
/// error; a later one becomes the last line, because the status has been sent by then.
pub(super) async fn stream(
    mut messages: Messages,
    descriptor: MessageDescriptor,
    style: Style,
    offload: Offload,
) -> Response<Body> {
    // The first frame is polled, not awaited: a log stream may be silent for hours, and its reader
    // should see the headers at once.
    let first = match messages.message().now_or_never() {
        Some(Err(status)) => return http_response(&status),
        Some(Ok(first)) => Some(first),
        None => None,
    };
    let rest = stream::unfold(Some((messages, first)), move |state| {
        let (descriptor, offload) = (descriptor.clone(), offload.clone());
        async move {
            let (mut messages, first) = state?;
            let next = match first {
                Some(first) => Ok(first),
                None => messages.message().await,
            };
            let json = match next {
                Ok(Some(message)) => to_json(&descriptor, message, &offload).await.map(Some),
                Ok(None) => Ok(None),
                Err(status) => Err(status),
            };
            match json {
                Ok(None) => None,
                Ok(Some(json)) => Some((style.message(json), Some((messages, None)))),
                Err(status) => Some((style.error(&status), None)),
            }
        }
    });
    let body = Body::from_stream(rest.map(Ok::<_, std::convert::Infallible>));
    let mut response = with_type(body, style.content_type());
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Turns the response to GET into the one to HEAD: its headers, and its length where that is known.
pub(super) fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if let Some(len) = body.size_hint().exact() {
        parts.headers.insert(header::CONTENT_LENGTH, len.into());
    }
    Response::from_parts(parts, Body::empty())
}

async fn to_json(
    descriptor: &MessageDescriptor,
    message: Bytes,
    offload: &Offload,
) -> Result<String, Status> {
    let descriptor = descriptor.clone();
    let bytes = message.len();
    offload
        .run(bytes, move || render(descriptor, message))
        .await
}

fn render(descriptor: MessageDescriptor, message: Bytes) -> Result<String, Status> {
    let broken = |e: &dyn std::fmt::Display| Status::internal(format!("cannot render: {e}"));
    let message = DynamicMessage::decode(descriptor, message).map_err(|e| broken(&e))?;
    let mut out = Vec::with_capacity(256);
    message
        .serialize_with_options(
            &mut serde_json::Serializer::new(&mut out),
            &SerializeOptions::new(),
        )
        .map_err(|e| broken(&e))?;
    String::from_utf8(out).map_err(|e| broken(&e))
}

fn with_type(body: Body, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
