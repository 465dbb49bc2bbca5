//! The trace of one request to an app: authentication, the wait for a replica with the start behind
//! it, and the exchange with the app.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderValue;
use opentelemetry::{
    KeyValue,
    trace::{SpanId, SpanKind, TraceId},
};
use tokio::time::Instant;

use super::{Id, Shared, Span, context, context::Parent, new_span};

/// The start of a replica that a request waited for.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Creating its container; zero for one that was prepared.
    pub create: Duration,
    /// Starting it.
    pub start: Duration,
    /// From started to ready.
    pub ready: Duration,
    /// When it was ready.
    pub ready_at: Instant,
}

/// The trace of a request; recorded when it is dropped at the latest.
pub struct RequestTrace {
    shared: Arc<Shared>,
    trace: TraceId,
    span: SpanId,
    parent: Option<Parent>,
    name: String,
    kind: SpanKind,
    /// The same moment by both clocks, by which others are converted.
    began: (Instant, SystemTime),
    attributes: Vec<KeyValue>,
    /// The exchange with the app, once it has begun.
    forward: Option<Forward>,
    failed: bool,
    is_over: bool,
}

struct Forward {
    span: SpanId,
    began: Instant,
    replica: String,
}

impl std::fmt::Debug for RequestTrace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RequestTrace({})", self.trace)
    }
}

impl RequestTrace {
    pub(super) fn new(shared: Arc<Shared>, trace: TraceId, parent: Option<Parent>) -> Self {
        Self {
            shared,
            trace,
            span: new_span(),
            parent,
            name: "request".to_owned(),
            kind: SpanKind::Server,
            began: (Instant::now(), SystemTime::now()),
            attributes: Vec::new(),
            forward: None,
            failed: false,
            is_over: false,
        }
    }

    /// Its id, for logs and exemplars.
    pub fn id(&self) -> Id {
        u128::from_be_bytes(self.trace.to_bytes())
    }

    /// Says what it is about, and when it began.
    pub fn describe(&mut self, name: String, began: Instant, attributes: Vec<KeyValue>) {
        let earlier = self.began.0.saturating_duration_since(began);
        let at = self.began.1.checked_sub(earlier).unwrap_or(self.began.1);
        self.began = (began, at);
        self.name = name;
        self.attributes.extend(attributes);
    }

    /// Makes it an attempt of an execution, which was accepted earlier.
    pub fn is_attempt(&mut self, number: u32) {
        self.kind = SpanKind::Consumer;
        self.attributes
            .push(KeyValue::new("ignite.attempt", i64::from(number)));
    }

    /// A part of it is over.
    pub fn part(&self, name: &'static str, from: Instant, to: Instant) {
        self.child(self.span, name, from, to);
    }

    /// It waited for a replica until now, perhaps for the start of one.
    pub fn held(&self, from: Instant, start: Option<Start>) {
        let now = Instant::now();
        let held = self.child(self.span, "hold", from, now);
        let Some(start) = start else { return };
        let started = start.ready_at.checked_sub(start.ready);
        let created = started.and_then(|at| at.checked_sub(start.start));
        let asked = created.and_then(|at| at.checked_sub(start.create));
        let (Some(started), Some(created), Some(asked)) = (started, created, asked) else {
            return;
        };
        if !start.create.is_zero() {
            self.child(held, "engine: create the container", asked, created);
        }
        self.child(held, "engine: start the container", created, started);
        self.child(held, "app: get ready", started, start.ready_at);
    }

    /// The exchange with a replica begins, for the last time or once more. Returns the header for
    /// the app.
    pub fn forward(&mut self, replica: String) -> HeaderValue {
        self.end_forward(Some("the replica did not take the request"));
        let span = new_span();
        self.forward = Some(Forward {
            span,
            began: Instant::now(),
            replica,
        });
        context::header(self.trace, span)
    }

    /// The client got the head of an answer with this status.
    pub fn answered(&mut self, status: u16) {
        let code = KeyValue::new("http.response.status_code", i64::from(status));
        self.attributes.push(code);
        self.failed = status >= 500;
    }

    /// It is over, with what went wrong on the platform.
    pub fn end(mut self: Box<Self>, error: Option<&str>) {
        let fault = self
            .failed
            .then(|| "the answer has a status of 500 or above".to_owned());
        self.record(error.map(str::to_owned).or(fault));
    }

    fn end_forward(&mut self, error: Option<&str>) {
        let Some(forward) = self.forward.take() else {
            return;
        };
        let (from, to) = (self.at(forward.began), self.at(Instant::now()));
        let replica = KeyValue::new("ignite.replica", forward.replica);
        let span = Span {
            attributes: vec![replica],
            error: error.map(str::to_owned),
            ..Span::new("forward".to_owned(), SpanKind::Client, from, to)
        };
        self.shared
            .record(self.trace, forward.span, Some((self.span, false)), span);
    }

    fn record(&mut self, error: Option<String>) {
        self.is_over = true;
        self.end_forward(error.as_deref());
        let (from, to) = (self.began.1, self.at(Instant::now()));
        let span = Span {
            attributes: std::mem::take(&mut self.attributes),
            error,
            ..Span::new(std::mem::take(&mut self.name), self.kind.clone(), from, to)
        };
        let parent = self.parent.as_ref().map(|parent| (parent.span, true));
        self.shared.record(self.trace, self.span, parent, span);
    }

    fn child(&self, parent: SpanId, name: &'static str, from: Instant, to: Instant) -> SpanId {
        let (id, kind) = (new_span(), SpanKind::Internal);
        let span = Span::new(name.to_owned(), kind, self.at(from), self.at(to));
        self.shared
            .record(self.trace, id, Some((parent, false)), span);
        id
    }

    /// A moment by the wall clock, which may be before the request's beginning.
    fn at(&self, moment: Instant) -> SystemTime {
        let (instant, time) = self.began;
        match moment.checked_duration_since(instant) {
            Some(later) => time + later,
            None => time.checked_sub(instant - moment).unwrap_or(time),
        }
    }
}

impl Drop for RequestTrace {
    fn drop(&mut self) {
        if !self.is_over {
            self.record(Some("the client left, or the platform stopped".to_owned()));
        }
    }
}
