//! `Invoke`: the envelope becomes a request; the app's response becomes head, chunks, trailer.

use std::{
    collections::BTreeMap,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header, uri::PathAndQuery};
use http_body::Body as _;
use tokio::time::Instant;
use tonic::{Request, Status};

use super::{Compute, Refusal};
use crate::{
    api::{
        convert::{Fields, wire_headers},
        limits::Limits,
        proto::v1::{self, invoke_response::Frame},
        status::to_status,
    },
    fleet::upstream,
    gateway::{body::AppBody, headers, invoke::Client, unpublished},
    model::{AppId, ExecutionId, Failure, Reason, host, settings::check_path},
    trace::TRACEPARENT,
};

/// A response with a Content-Length up to this is sent as one chunk.
const ONE_CHUNK_BYTES: u64 = 1024 * 1024;

impl Compute {
    pub(super) async fn start_invoke(
        &self,
        request: Request<v1::InvokeRequest>,
    ) -> Result<InvokeStream, Refusal> {
        let began = Instant::now();
        let caller = self.caller(&request)?;
        let (app, owner) = self.invocable(
            &caller,
            &request.get_ref().organization_name,
            &request.get_ref().app_name,
        )?;
        let (metadata, _, envelope) = request.into_parts();
        let outbound = self.outbound(envelope)?;
        let trace = metadata.as_ref().get(&TRACEPARENT);
        let sent = self.send(&app, owner, outbound, trace).await;
        let (response, execution) = sent.map_err(|f| Refusal(f, owner))?;
        Ok(InvokeStream::new(response, execution, began, owner))
    }

    /// As [`outbound`], within the limits of this service.
    pub(in crate::api) fn outbound(
        &self,
        envelope: v1::InvokeRequest,
    ) -> Result<http::Request<upstream::Body>, Failure> {
        outbound(envelope, self.limits)
    }

    /// Sends a request to the active version of an app, which is woken for it. The caller's `trace`
    /// goes on in the app unless the request has a trace header.
    ///
    /// # Errors
    /// Why there was no answer. `owner` says that the caller owns the app.
    pub(in crate::api) async fn send(
        &self,
        app: &AppId,
        owner: bool,
        mut outbound: http::Request<upstream::Body>,
        trace: Option<&HeaderValue>,
    ) -> Result<(http::Response<AppBody>, ExecutionId), Failure> {
        let deployment = self
            .gateway
            .fleet
            .get(app)
            .ok_or_else(|| self.not_running(app, owner))?;
        let port = deployment.with_revision(|r| r.ports[0]);
        let label = host::label(app, port);
        if let Ok(host) = HeaderValue::from_str(&format!("{label}.{}", self.urls.base_domain)) {
            outbound.headers_mut().insert(header::HOST, host);
        }
        pass_trace(outbound.headers_mut(), trace);
        let execution = ExecutionId(ulid::Ulid::generate());
        let client = Client {
            trace: self
                .gateway
                .traced(app, execution, &outbound, Instant::now()),
            ..Client::default()
        };
        let response = self
            .gateway
            .invoke(&deployment, None, execution, outbound, client, None)
            .await?;
        Ok((response, execution))
    }

    /// Why an app has no deployment; only its own organization learns that it exists.
    pub(super) fn not_running(&self, app: &AppId, owner: bool) -> Failure {
        if owner && self.apps.get(app).is_ok() {
            Failure::new(
                Reason::NotPublished,
                format!(
                    "app {app} has no published version; save a draft and publish it, or use `ignite app deploy`"
                ),
            )
        } else {
            unpublished(app)
        }
    }
}

/// Has the caller's trace go on in the app, unless the request in the envelope has a trace header.
pub(super) fn pass_trace(headers: &mut HeaderMap, trace: Option<&HeaderValue>) {
    if let Some(trace) = trace
        && !headers.contains_key(&TRACEPARENT)
    {
        headers.insert(TRACEPARENT, trace.clone());
    }
}

/// The request that an envelope describes; the method defaults to POST and the path to `/`.
///
/// # Errors
/// BODY_TOO_LARGE, or INVALID_ARGUMENT with the fields that no request can have.
pub fn outbound(
    envelope: v1::InvokeRequest,
    limits: Limits,
) -> Result<http::Request<upstream::Body>, Failure> {
    limits.check_body(envelope.body.len())?;
    let http = envelope.http.unwrap_or_default();
    let mut fields = Fields::default();
    let method = fields.accept("http.method", method(http.method));
    let uri = fields.accept("http.path", target(&http.path, &http.query));
    let mut map = HeaderMap::with_capacity(http.headers.len() + 4);
    let text = http
        .headers
        .iter()
        .map(|(n, v)| ("headers", n, v.as_bytes()));
    let raw = http.raw_headers.iter();
    let raw = raw.map(|h| ("raw_headers", &h.name, &h.raw[..]));
    for (of, name, value) in text.chain(raw) {
        let field = format!("http.{of}[{name:?}]");
        let name = fields.accept(&field, name.parse::<HeaderName>());
        let value = HeaderValue::from_bytes(value)
            .map_err(|_| "the value has a line break or another control character in it");
        let value = fields.accept(&field, value);
        if let (Some(name), Some(value)) = (name, value) {
            map.append(name, value);
        }
    }
    fields.check()?;
    headers::remove_hop_by_hop(&mut map);
    // The body's length is known here; the envelope's own framing headers could only be wrong.
    for framing in [header::CONTENT_LENGTH, header::TRAILER, header::HOST] {
        map.remove(framing);
    }
    // The envelope can carry trailers back.
    map.insert(header::TE, HeaderValue::from_static("trailers"));
    let mut request = http::Request::new(upstream::Body::from(envelope.body));
    *request.method_mut() = method.unwrap_or(Method::POST);
    *request.uri_mut() = uri.unwrap_or_default().into();
    *request.headers_mut() = map;
    Ok(request)
}

fn method(wire: i32) -> Result<Method, String> {
    use v1::HttpMethod as M;
    Ok(match M::try_from(wire) {
        Ok(M::Unspecified | M::Post) => Method::POST,
        Ok(M::Get) => Method::GET,
        Ok(M::Put) => Method::PUT,
        Ok(M::Delete) => Method::DELETE,
        Ok(M::Patch) => Method::PATCH,
        Ok(M::Head) => Method::HEAD,
        Ok(M::Options) => Method::OPTIONS,
        Err(_) => {
            return Err(format!(
                "{wire} is no HttpMethod; use HTTP_METHOD_GET, POST, PUT, DELETE, PATCH, HEAD or OPTIONS"
            ));
        }
    })
}

fn target(path: &str, query: &str) -> Result<TargetUri, String> {
    let path = if path.is_empty() { "/" } else { path };
    check_path(path)?;
    if query.is_empty() {
        return path.parse().map(TargetUri).map_err(|e| e.to_string());
    }
    if path.contains('?') {
        return Err(format!(
            "{path:?} has a query in it and `http.query` is set too; use one of them"
        ));
    }
    let query = query.strip_prefix('?').unwrap_or(query);
    format!("{path}?{query}")
        .parse()
        .map(TargetUri)
        .map_err(|e| format!("the query {query:?} cannot be sent: {e}"))
}

struct TargetUri(PathAndQuery);

impl Default for TargetUri {
    fn default() -> Self {
        Self(PathAndQuery::from_static("/"))
    }
}

impl From<TargetUri> for http::Uri {
    fn from(target: TargetUri) -> Self {
        target.0.into()
    }
}

/// The frames of one response. Dropping it disconnects the app.
pub struct InvokeStream {
    head: Option<v1::InvokeHead>,
    /// `None` once the trailer or an error is sent.
    body: Option<AppBody>,
    /// Collects a response that is sent as one chunk.
    whole: Option<BytesMut>,
    trailers: BTreeMap<String, String>,
    bytes: u64,
    /// Why the response broke off; sent after the bytes collected before it.
    broke: Option<Failure>,
    began: Instant,
    owner: bool,
}

impl InvokeStream {
    fn new(
        response: http::Response<AppBody>,
        execution: ExecutionId,
        began: Instant,
        owner: bool,
    ) -> Self {
        let (head, body) = response.into_parts();
        let pairs = head.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes()));
        let headers = wire_headers(&pairs.collect::<Vec<_>>());
        let known = body.size_hint().exact().filter(|n| *n <= ONE_CHUNK_BYTES);
        Self {
            head: Some(v1::InvokeHead {
                status_code: head.status.as_u16().into(),
                response_headers: headers.first,
                execution_id: execution.to_string(),
                repeated_headers: headers.repeated,
                raw_headers: headers.raw,
            }),
            body: Some(body),
            whole: known.map(|n| BytesMut::with_capacity(n as usize)),
            trailers: BTreeMap::new(),
            bytes: 0,
            broke: None,
            began,
            owner,
        }
    }

    fn trailer(&mut self) -> v1::InvokeResponse {
        self.body = None;
        frame(Frame::Trailer(v1::InvokeTrailer {
            total_body_bytes: self.bytes as i64,
            duration_ms: millis(self.began.elapsed()),
            trailers: std::mem::take(&mut self.trailers),
        }))
    }

    fn chunk(&mut self, data: Bytes) -> v1::InvokeResponse {
        self.bytes += data.len() as u64;
        frame(Frame::Chunk(data))
    }
}

impl Stream for InvokeStream {
    type Item = Result<v1::InvokeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(head) = this.head.take() {
            return Poll::Ready(Some(Ok(frame(Frame::Head(head)))));
        }
        if let Some(failure) = this.broke.take() {
            return Poll::Ready(Some(Err(to_status(&failure, this.owner))));
        }
        loop {
            let Some(body) = &mut this.body else {
                return Poll::Ready(None);
            };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(piece)) => match piece.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => match &mut this.whole {
                        Some(whole) => whole.extend_from_slice(&data),
                        None => return Poll::Ready(Some(Ok(this.chunk(data)))),
                    },
                    Err(piece) => {
                        for (name, value) in piece.into_trailers().iter().flatten() {
                            let value = headers::header_text(value.as_bytes());
                            this.trailers.insert(name.as_str().to_owned(), value);
                        }
                    }
                },
                Some(Err(failure)) => {
                    this.body = None;
                    tracing::warn!(
                        reason = failure.reason.as_str(),
                        "A response broke off: {}",
                        failure.text(true)
                    );
                    return Poll::Ready(Some(match this.whole.take().filter(|w| !w.is_empty()) {
                        Some(partial) => {
                            this.broke = Some(failure);
                            Ok(this.chunk(partial.freeze()))
                        }
                        None => Err(to_status(&failure, this.owner)),
                    }));
                }
                None => {
                    return Poll::Ready(Some(Ok(
                        match this.whole.take().filter(|w| !w.is_empty()) {
                            Some(whole) => this.chunk(whole.freeze()),
                            None => this.trailer(),
                        },
                    )));
                }
            }
        }
    }
}

fn frame(frame: Frame) -> v1::InvokeResponse {
    v1::InvokeResponse { frame: Some(frame) }
}

fn millis(d: Duration) -> i64 {
    d.as_millis() as i64
}
