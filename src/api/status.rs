//! Failures on the wire: [`Failure`] → gRPC status → HTTP answer.
//!
//! A failure becomes a `tonic::Status` with google.rpc details once, and the JSON side renders that
//! status, so both transports have the same reason, message and fields. Statuses that tonic itself
//! makes have no details and are rendered by the usual mapping of their code, except for messages
//! that it refuses (`explain_refusal`).

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::{Value, json};
use tonic::{Code, Status, metadata::MetadataMap};

use super::{
    limits::Limits,
    proto::{pool, rpc},
};
use crate::model::{Failure, FieldViolation, Reason};

/// The header that names the reason, on every error of the platform and on no response of an app.
pub const ERROR_HEADER: &str = "x-ignite-error";
/// The domain of the reasons, `ErrorInfo.domain`.
pub const ERROR_DOMAIN: &str = "ignite.dodil.io";

/// The challenge to a caller without a valid token.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"ignite\"");

/// Longest message in bytes. gRPC trailers carry the message twice, alone and in the details, and
/// some clients refuse header lists over 8 KiB.
const MAX_MESSAGE_BYTES: usize = 2048;
/// Most bytes of field violations in the details, for the same reason.
const MAX_VIOLATION_BYTES: usize = 2048;
/// Bytes kept of the beginning of a long message; the rest is its end, where log lines are newest.
const MESSAGE_HEAD_BYTES: usize = 512;

const TYPE_PREFIX: &str = "type.googleapis.com/";

/// The status of a failure. `owner` is true when the caller belongs to the app's organization and
/// may read [`Failure::detail`].
pub fn to_status(f: &Failure, owner: bool) -> Status {
    let message = shorten(f.text(owner));
    let mut details = vec![any(
        "google.rpc.ErrorInfo",
        &rpc::ErrorInfo {
            reason: f.reason.as_str().to_owned(),
            domain: ERROR_DOMAIN.to_owned(),
            ..Default::default()
        },
    )];
    if !f.fields.is_empty() {
        details.push(any(
            "google.rpc.BadRequest",
            &rpc::BadRequest {
                field_violations: violations(&f.fields),
            },
        ));
    }
    if let Some(after) = f.retry_after {
        let retry_delay = prost_types::Duration::try_from(after).ok();
        details.push(any("google.rpc.RetryInfo", &rpc::RetryInfo { retry_delay }));
    }

    let mut headers = HeaderMap::new();
    headers.insert(ERROR_HEADER, HeaderValue::from_static(f.reason.as_str()));
    let code = Code::from_i32(f.reason.code() as i32);
    if code == Code::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, CHALLENGE);
    }
    let wire = rpc::Status {
        code: code as i32,
        message: message.clone(),
        details,
    };
    Status::with_details_and_metadata(
        code,
        message,
        Bytes::from(wire.encode_to_vec()),
        MetadataMap::from_headers(headers),
    )
}

/// Replaces the status with which tonic refuses a message before any method sees it with one that
/// has a reason: tonic blames the server for bytes that are not protobuf, and names no setting for
/// the size.
pub fn explain_refusal(
    response: Response<tonic::body::Body>,
    limits: Limits,
) -> Response<tonic::body::Body> {
    let Some(status) = Status::from_header_map(response.headers()) else {
        return response;
    };
    let failure = match (status.code(), status.message()) {
        (Code::OutOfRange, text) if text.contains("message length too large") => {
            limits.message_too_large()
        }
        (Code::Internal, text) if text.starts_with("failed to decode Protobuf message") => {
            Failure::new(Reason::MalformedRequest, text)
        }
        _ => return response,
    };
    to_status(&failure, false).into_http()
}

/// The HTTP response of a failure; see [`to_status`] for `owner`.
pub fn to_response(f: &Failure, owner: bool) -> Response<Body> {
    http_response(&to_status(f, owner))
}

/// The trailers that end a gRPC call with a failure; see [`to_status`] for `owner`.
pub fn to_trailers(f: &Failure, owner: bool) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if to_status(f, owner).add_header(&mut trailers).is_err() {
        // Fails only for a message that no header can carry, and these are encoded.
        let code = HeaderValue::from(f.reason.code() as u16);
        trailers.insert("grpc-status", code);
    }
    trailers
}

/// The HTTP response of a status: the reason's HTTP status if it names one, else the usual mapping
/// of its code. The body is [`json_body`]; headers carry reason, challenge and delay.
pub fn http_response(status: &Status) -> Response<Body> {
    let details = Details::of(status);
    let reason = details.reason();
    let mut response = Response::new(Body::from(body_of(status, &details).to_string()));
    *response.status_mut() = reason
        .and_then(|r| StatusCode::from_u16(r.http_status()).ok())
        .unwrap_or_else(|| http_status(status.code()));

    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    let name = reason.map_or_else(|| code_name(status.code()), Reason::as_str);
    headers.insert(ERROR_HEADER, HeaderValue::from_static(name));
    if status.code() == Code::Unauthenticated {
        let asked = status.metadata().get("www-authenticate");
        let asked = asked.and_then(|v| HeaderValue::from_bytes(v.as_encoded_bytes()).ok());
        headers.insert(header::WWW_AUTHENTICATE, asked.unwrap_or(CHALLENGE));
    }
    if let Some(seconds) = details.retry_after_secs() {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The JSON form of a status: `{"code", "message", "details"}` with `@type` in each detail.
pub fn json_body(status: &Status) -> Value {
    body_of(status, &Details::of(status))
}

fn body_of(status: &Status, details: &Details) -> Value {
    json!({
        "code": status.code() as i32,
        "message": status.message(),
        "details": details.0.iter().filter_map(any_json).collect::<Vec<_>>(),
    })
}

/// The usual google.rpc mapping of a code to an HTTP status.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        // 499, "client closed request", has no name in the registry.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The code's name as in google.rpc.Code.
fn code_name(code: Code) -> &'static str {
    rpc::Code::try_from(code as i32)
        .unwrap_or(rpc::Code::Unknown)
        .as_str_name()
}

/// The details that a status carries, undecoded.
struct Details(Vec<prost_types::Any>);

impl Details {
    fn of(status: &Status) -> Self {
        // Details that do not decode are not ours; the code and the message remain.
        let decoded = rpc::Status::decode(status.details()).unwrap_or_default();
        Details(decoded.details)
    }

    fn find<M: prost::Message + Default>(&self, name: &str) -> Option<M> {
        let any = self
            .0
            .iter()
            .find(|a| a.type_url.strip_prefix(TYPE_PREFIX) == Some(name))?;
        M::decode(&any.value[..]).ok()
    }

    fn reason(&self) -> Option<Reason> {
        let info: rpc::ErrorInfo = self.find("google.rpc.ErrorInfo")?;
        (info.domain == ERROR_DOMAIN).then(|| Reason::parse(&info.reason))?
    }

    /// Whole seconds, rounded up: an early retry would fail again.
    fn retry_after_secs(&self) -> Option<u64> {
        let info: rpc::RetryInfo = self.find("google.rpc.RetryInfo")?;
        let delay = info.retry_delay?;
        let seconds = u64::try_from(delay.seconds).ok()?;
        Some(seconds + u64::from(delay.nanos > 0))
    }
}

fn any(name: &str, message: &impl prost::Message) -> prost_types::Any {
    prost_types::Any {
        type_url: format!("{TYPE_PREFIX}{name}"),
        value: message.encode_to_vec(),
    }
}

/// The JSON form of one detail; `None` for a type that the contract does not have.
fn any_json(any: &prost_types::Any) -> Option<Value> {
    let descriptor = pool().get_message_by_name("google.protobuf.Any")?;
    let message = DynamicMessage::decode(descriptor, &any.encode_to_vec()[..]).ok()?;
    message
        .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
        .ok()
}

fn violations(fields: &[FieldViolation]) -> Vec<rpc::bad_request::FieldViolation> {
    let mut left = MAX_VIOLATION_BYTES;
    fields
        .iter()
        .map_while(|v| {
            left = left.checked_sub(v.field.len() + v.description.len())?;
            Some(rpc::bad_request::FieldViolation {
                field: v.field.clone(),
                description: v.description.clone(),
            })
        })
        .collect()
}

/// Cuts a long message in the middle.
fn shorten(message: String) -> String {
    if message.len() <= MAX_MESSAGE_BYTES {
        return message;
    }
    const CUT: &str = " […] ";
    let head = message.floor_char_boundary(MESSAGE_HEAD_BYTES);
    let tail = message.len() - (MAX_MESSAGE_BYTES - MESSAGE_HEAD_BYTES - CUT.len());
    let tail = message.ceil_char_boundary(tail);
    format!("{}{CUT}{}", &message[..head], &message[tail..])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;

    use super::*;

    async fn body(response: Response<Body>) -> Value {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn every_reason_survives_grpc_and_gets_its_http_status() {
        for reason in Reason::ALL {
            let status = to_status(&Failure::new(*reason, "why"), false);
            let mut headers = HeaderMap::new();
            status.add_header(&mut headers).unwrap();
            let received = Status::from_header_map(&headers).unwrap();
            let response = http_response(&received);
            assert_eq!(response.status().as_u16(), reason.http_status());
            assert_eq!(response.headers()[ERROR_HEADER], reason.as_str());
            assert_eq!(
                response.headers().contains_key(header::WWW_AUTHENTICATE),
                *reason == Reason::Unauthenticated
            );
            let body = body(response).await;
            assert_eq!(body["code"], reason.code() as i32);
            assert_eq!(body["message"], "why");
            assert_eq!(body["details"][0]["reason"], reason.as_str());
        }
    }

    #[tokio::test]
    async fn fields_and_retry_are_rendered_with_their_types() {
        let failure = Failure::field("scaling.max_replicas", "5000 is over 1000")
            .with_retry_after(Duration::from_millis(1500));
        let response = to_response(&failure, false);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let body = body(response).await;
        assert_eq!(
            body["details"],
            json!([
                {"@type": "type.googleapis.com/google.rpc.ErrorInfo",
                 "reason": "INVALID_ARGUMENT", "domain": ERROR_DOMAIN},
                {"@type": "type.googleapis.com/google.rpc.BadRequest",
                 "fieldViolations": [{"field": "scaling.max_replicas",
                                      "description": "5000 is over 1000"}]},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.500s"},
            ])
        );
    }

    #[tokio::test]
    async fn a_status_without_details_follows_the_usual_mapping() {
        let response = http_response(&Status::out_of_range("too large"));
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()[ERROR_HEADER], "OUT_OF_RANGE");
        assert_eq!(body(response).await["details"], json!([]));
    }

    #[test]
    fn long_messages_keep_beginning_and_end_and_fit_in_trailers() {
        let failure = Failure::new(Reason::ContainerExited, "exited with 3")
            .with_detail(format!("{}last line ä", "lög ".repeat(4000)));
        let status = to_status(&failure, true);
        assert!(status.message().starts_with("exited with 3: lög"));
        assert!(status.message().ends_with("last line ä"));
        assert!(status.message().len() <= MAX_MESSAGE_BYTES);
        assert_eq!(to_status(&failure, false).message(), "exited with 3");
    }
}
