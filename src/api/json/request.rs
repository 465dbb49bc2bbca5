//! HTTP request → request message: body, then query, then path variables; the later one wins.
//!
//! The message leaves this module encoded and framed, so that all the work on a large one is a
//! single piece (`offload`).

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequestParts as _, RawPathParams},
    http::{header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use http_body_util::BodyExt as _;
use percent_encoding::percent_decode_str;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor};

use super::{
    call, diagnose,
    fields::{self, STRICT},
    offload::Offload,
    route::Binding,
};
use crate::{
    api::{
        buffers::{Reserved, stalled},
        limits::{Bound, Limits},
    },
    model::{Failure, Reason},
};

/// Longest time to drain a refused body, so that its sender sees the response.
const LINGER: Duration = Duration::from_secs(10);
/// Most bytes of a refused body to drain.
const LINGER_BYTES: usize = 256 << 20;

/// How a request is read, and where its memory is accounted.
pub(super) struct Reading<'a> {
    pub(super) limits: Limits,
    pub(super) reserved: &'a Reserved,
    pub(super) offload: &'a Offload,
}

impl Reading<'_> {
    /// Builds the message of a request, framed as in gRPC.
    ///
    /// # Errors
    /// MALFORMED_REQUEST for a body that is not JSON, INVALID_ARGUMENT with the wrong fields,
    /// BODY_TOO_LARGE, TOO_MANY_REQUESTS, CLIENT_TOO_SLOW.
    pub(super) async fn message(
        &self,
        binding: &Binding,
        parts: &mut Parts,
        body: Body,
    ) -> Result<Bytes, Failure> {
        let (limits, offload) = (self.limits, self.offload);
        let descriptor = binding.rpc.input();
        let json = if binding.body {
            self.collect(parts, body, limits.bound(&descriptor)).await?
        } else {
            Bytes::new()
        };
        let variables = RawPathParams::from_request_parts(parts, &()).await;
        let variables = variables.map_err(|e| {
            Failure::new(
                Reason::MalformedRequest,
                format!("the path does not decode: {e}; percent-encode it as UTF-8"),
            )
        });
        // Errors in the body are reported before those in the path.
        let variables = variables.map(|all| {
            let all = all.iter().map(|(n, v)| (n.to_owned(), v.to_owned()));
            all.collect::<Vec<_>>()
        });
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let bytes = json.len();
        let work = move || build(descriptor, &json, &query, variables, limits);
        offload.run(bytes, work).await
    }

    /// Reads the whole body, up to its limit.
    async fn collect(&self, parts: &Parts, mut body: Body, bound: Bound) -> Result<Bytes, Failure> {
        let most = bound.json_bytes();
        let announced = parts.headers.get(header::CONTENT_LENGTH);
        let announced = announced
            .and_then(|v| v.to_str().ok()?.parse::<usize>().ok())
            .unwrap_or_default();
        let gathered = if announced <= most {
            self.gather(&mut body, announced, bound).await
        } else {
            Err(Refused::Unread(bound.too_large()))
        };
        let why = match gathered {
            Ok(whole) => return Ok(whole),
            Err(Refused::Broken(why)) => return Err(why),
            Err(Refused::Unread(why)) => why,
        };
        // A client that waits for `100 Continue` gets the refusal instead, with no body to drain.
        let waits = announced > most && parts.headers.contains_key(header::EXPECT);
        if !waits {
            linger(body).await;
        }
        Err(why)
    }

    /// Joins a body's frames.
    async fn gather(
        &self,
        body: &mut Body,
        announced: usize,
        bound: Bound,
    ) -> Result<Bytes, Refused> {
        self.reserved.grow(announced).map_err(Refused::Unread)?;
        let mut whole = BytesMut::with_capacity(announced);
        while let Some(frame) = self.next(body).await? {
            let data = frame.into_data().unwrap_or_default();
            let len = whole.len() + data.len();
            if len > bound.json_bytes() {
                return Err(Refused::Unread(bound.too_large()));
            }
            let more = len.saturating_sub(announced.max(whole.len()));
            self.reserved.grow(more).map_err(Refused::Unread)?;
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    async fn next(&self, body: &mut Body) -> Result<Option<Frame<Bytes>>, Refused> {
        let frame = match self.reserved.stall() {
            None => body.frame().await,
            Some(stall) => tokio::time::timeout(stall, body.frame())
                .await
                .map_err(|_| Refused::Broken(stalled(stall)))?,
        };
        frame.transpose().map_err(|e| {
            let why = format!("the body broke off: {e}");
            Refused::Broken(Failure::new(Reason::MalformedRequest, why))
        })
    }
}

/// Why a body was not read to its end.
enum Refused {
    /// More of it may arrive.
    Unread(Failure),
    /// Nothing more will arrive.
    Broken(Failure),
}

/// Builds the message of a request from all of its parts.
fn build(
    descriptor: MessageDescriptor,
    json: &[u8],
    query: &str,
    variables: Result<Vec<(String, String)>, Failure>,
    limits: Limits,
) -> Result<Bytes, Failure> {
    let bound = limits.bound(&descriptor);
    let mut message = parse(descriptor, json)?;
    if let Some(payload) = message.get_field_by_name("body")
        && let Some(payload) = payload.as_bytes()
    {
        limits.check_body(payload.len())?;
    }

    let mut wrong = Vec::new();
    for pair in query.split('&') {
        if pair.is_empty() {
            continue;
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (form_decode(name)?, form_decode(value)?);
        if let Err(why) = fields::set(&mut message, &name, &value) {
            wrong.push((name, why));
        }
    }
    for (name, value) in variables? {
        if let Err(why) = fields::set(&mut message, &name, &value) {
            wrong.push((name, why));
        }
    }
    if !wrong.is_empty() {
        return Err(diagnose::failure(wrong));
    }
    // Base64 shrinks when decoded, text does not: a body within the JSON limit may be too large
    // here.
    if message.encoded_len() > bound.message_bytes() {
        return Err(bound.too_large());
    }
    call::frame(&message)
}

/// Drains a body: closing while a client still sends makes its kernel discard the answer. Bounded,
/// for clients that never finish.
async fn linger(mut body: Body) {
    let rest = async {
        let mut left = LINGER_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.checked_sub(frame.into_data().map_or(0, |d| d.len()))?;
        }
        Some(())
    };
    if !matches!(tokio::time::timeout(LINGER, rest).await, Ok(Some(()))) {
        tracing::debug!("Stopped draining a body that is too large");
    }
}

/// Parses a JSON body; an empty one is `{}`.
fn parse(descriptor: MessageDescriptor, json: &[u8]) -> Result<DynamicMessage, Failure> {
    if json.trim_ascii().is_empty() {
        return Ok(DynamicMessage::new(descriptor));
    }
    let mut reader = serde_json::Deserializer::from_slice(json);
    DynamicMessage::deserialize_with_options(descriptor.clone(), &mut reader, &STRICT)
        .and_then(|message| reader.end().map(|()| message))
        // The parser stops at the first error and does not name the field; the slow path finds them
        // all.
        .map_err(|e| diagnose::body(&descriptor, json, &e))
}

/// Decodes `+` and percent escapes of a query.
fn form_decode(text: &str) -> Result<String, Failure> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(|s| s.into_owned()).map_err(|_| {
        Failure::new(
            Reason::MalformedRequest,
            format!("{text:?} in the query does not decode to UTF-8"),
        )
    })
}
