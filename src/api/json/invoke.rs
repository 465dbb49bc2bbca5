//! `Invoke` over HTTP: the app's own status, headers, body and trailers.
//!
//! Frames are pulled as the client reads, so a slow client slows the app down. When the stream of
//! frames fails after the head, the body fails too and the transfer breaks off: a client can never
//! mistake half a response for a whole one.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header},
};
use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message as _;
use tonic::Status;

use super::call::Messages;
use crate::api::{
    proto::v1::{self, invoke_response::Frame as Part},
    status::{ERROR_HEADER, http_response},
};

const EXECUTION_ID: HeaderName = HeaderName::from_static("x-ignite-execution-id");
const TOTAL_BODY_BYTES: HeaderName = HeaderName::from_static("total_body_bytes");
const DURATION_MS: HeaderName = HeaderName::from_static("duration_ms");

/// Renders the frames; an error before the head becomes an HTTP error.
pub(super) async fn render(mut frames: Messages) -> Response<Body> {
    let head = match next(&mut frames).await {
        Ok(Some(Part::Head(head))) => head,
        Ok(_) => return http_response(&Status::internal("Invoke did not begin with a head")),
        Err(status) => return http_response(&status),
    };
    let code = u16::try_from(head.status_code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|code| !code.is_informational());
    let Some(code) = code else {
        let message = format!("the app answered with status {}", head.status_code);
        return http_response(&Status::internal(message));
    };

    let bodiless = matches!(code, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    *response.headers_mut() = headers(head, bodiless);
    if bodiless {
        // This response has no body to end with trailers; the call is still read to its end.
        return match drain(frames).await {
            Ok(()) => response,
            Err(status) => http_response(&status),
        };
    }
    *response.body_mut() = Body::new(StreamBody::new(stream::try_unfold(Some(frames), step)));
    response
}

/// One step of the body: a chunk, or the trailers at its end.
async fn step(state: Option<Messages>) -> Result<Option<(Frame<Bytes>, Option<Messages>)>, Status> {
    let Some(mut frames) = state else {
        return Ok(None);
    };
    let step = match next(&mut frames).await {
        Ok(Some(Part::Chunk(chunk))) => return Ok(Some((Frame::data(chunk), Some(frames)))),
        Ok(Some(Part::Trailer(trailer))) => {
            // The body is whole only when the call also ends well.
            drain(frames)
                .await
                .map(|()| Frame::trailers(trailers(trailer)))
        }
        Ok(Some(Part::Head(_))) => Err(Status::internal("Invoke sent a second head")),
        Ok(None) => Err(Status::internal("Invoke ended without a trailer")),
        Err(status) => Err(status),
    };
    match step {
        Ok(frame) => Ok(Some((frame, None))),
        Err(status) => {
            tracing::warn!(code = ?status.code(), error = status.message(), "Cut off a response");
            // hyper drops what it has not written yet when a body fails. One pending poll lets it
            // write the head and the chunks that arrived just before.
            tokio::task::yield_now().await;
            Err(status)
        }
    }
}

async fn next(frames: &mut Messages) -> Result<Option<Part>, Status> {
    let Some(message) = frames.message().await? else {
        return Ok(None);
    };
    let response = v1::InvokeResponse::decode(message)
        .map_err(|e| Status::internal(format!("cannot decode a frame: {e}")))?;
    match response.frame {
        Some(part) => Ok(Some(part)),
        None => Err(Status::internal("Invoke sent an empty frame")),
    }
}

/// Reads to the end and discards the frames.
async fn drain(mut frames: Messages) -> Result<(), Status> {
    while frames.message().await?.is_some() {}
    Ok(())
}

/// The response headers: the app's, without those of its own connection and those that only the
/// platform sets.
fn headers(head: v1::InvokeHead, bodiless: bool) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(head.response_headers.len() + 4);
    let mut announced = vec![TOTAL_BODY_BYTES.to_string(), DURATION_MS.to_string()];
    let more = head.repeated_headers.into_iter().map(|h| (h.name, h.value));
    let raw = |name: &str| head.raw_headers.iter().any(|h| h.name == name);
    for (name, value) in head.response_headers.into_iter().chain(more) {
        if name.eq_ignore_ascii_case("trailer") {
            announced.push(value);
        } else if !withheld(&name) && !raw(&name) {
            append(&mut out, &name, value.as_bytes());
        }
    }
    for header in head.raw_headers.iter().filter(|h| !withheld(&h.name)) {
        append(&mut out, &header.name, &header.raw);
    }
    if !head.execution_id.is_empty() {
        out.remove(EXECUTION_ID);
        append(
            &mut out,
            EXECUTION_ID.as_str(),
            head.execution_id.as_bytes(),
        );
    }
    if !bodiless {
        append(
            &mut out,
            header::TRAILER.as_str(),
            announced.join(", ").as_bytes(),
        );
    }
    out
}

/// Hop-by-hop headers, the length (the body is chunked, so that trailers can follow), the header by
/// which the platform marks its own errors, and headers that make a browser remember something for
/// the whole host: the host here is the API's, and an app speaks only for its own.
fn withheld(name: &str) -> bool {
    const NAMES: [&str; 14] = [
        "alt-svc",
        "clear-site-data",
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "set-cookie",
        "set-cookie2",
        "strict-transport-security",
        "te",
        "transfer-encoding",
        "upgrade",
        ERROR_HEADER,
    ];
    NAMES.iter().any(|n| name.eq_ignore_ascii_case(n))
}

fn trailers(trailer: v1::InvokeTrailer) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(trailer.trailers.len() + 2);
    let theirs = trailer.trailers.iter();
    for (name, value) in theirs.filter(|(name, _)| !withheld(name)) {
        append(&mut out, name, value.as_bytes());
    }
    out.insert(TOTAL_BODY_BYTES, trailer.total_body_bytes.into());
    out.insert(DURATION_MS, trailer.duration_ms.into());
    out
}

/// Appends one header; a header that HTTP cannot carry is left out.
fn append(headers: &mut HeaderMap, name: &str, value: &[u8]) {
    if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value)) {
        headers.append(name, value);
    }
}
