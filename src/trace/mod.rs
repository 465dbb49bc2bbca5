//! Traces: how a request, an execution or a build spent its time, sent by OTLP to a collector.
//!
//! Off unless a collector is configured; then a request that is not traced costs one look at its
//! headers. A trace that arrives with a request (`traceparent`, W3C Trace Context) goes on here and
//! in the app. A request without one begins its own, whose trace id is its execution id. The parts
//! of a request are recorded when they are over, so that nothing on the way of the request waits for
//! the collector, and the spans that it does not take in time are dropped and counted.
//!
//! | file | what |
//! |---|---|
//! | `context.rs` | `traceparent`, read and written |
//! | `request.rs` | the trace of one request |
//! | `export.rs` | batches, the collector |

mod context;
mod export;
mod request;

use std::{sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderValue};
use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tokio::sync::mpsc;

use self::context::Parent;
pub use self::{
    context::TRACEPARENT,
    export::{Endpoint, Exporting, Protocol, Ratio, Settings, headers},
    request::{RequestTrace, Start},
};
use crate::{metrics::Metrics, model::ExecutionId};

/// A trace's id, for logs and exemplars.
pub type Id = u128;

/// Where spans go, or nowhere; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    spans: mpsc::Sender<SpanData>,
    /// Traces that begin here are recorded if the lower half of their id is below this.
    sampled_below: u64,
    scope: InstrumentationScope,
    /// Where dropped spans are counted.
    metrics: Arc<Metrics>,
}

/// One recorded span, before it has a context.
struct Span {
    name: String,
    kind: SpanKind,
    began: SystemTime,
    ended: SystemTime,
    attributes: Vec<KeyValue>,
    /// What went wrong.
    error: Option<String>,
}

impl Tracer {
    /// Whether anything is traced.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The trace that a request continues or begins; `None` where it is not recorded.
    pub fn begin(&self, headers: &HeaderMap, execution: ExecutionId) -> Option<Box<RequestTrace>> {
        let shared = self.0.as_ref()?;
        let parent = match Parent::of(headers) {
            Some(parent) if parent.is_sampled => Some(parent),
            // Its first program decided for everybody.
            Some(_) => return None,
            None => None,
        };
        let trace = match &parent {
            Some(parent) => parent.trace,
            None => TraceId::from(execution.0.0),
        };
        (parent.is_some() || shared.samples(trace))
            .then(|| Box::new(RequestTrace::new(shared.clone(), trace, parent)))
    }

    /// As [`Self::begin`], for a request whose trace has begun when it was accepted.
    pub fn resume(&self, headers: &HeaderMap) -> Option<Box<RequestTrace>> {
        let shared = self.0.as_ref()?;
        let parent = Parent::of(headers).filter(|parent| parent.is_sampled)?;
        let trace = parent.trace;
        Some(Box::new(RequestTrace::new(
            shared.clone(),
            trace,
            Some(parent),
        )))
    }

    /// Records that an execution was accepted, and returns the header with which its attempts go
    /// on; `None` where it is not recorded.
    pub fn accepted(
        &self,
        headers: &HeaderMap,
        name: String,
        attributes: Vec<KeyValue>,
    ) -> Option<Accepted> {
        let shared = self.0.as_ref()?;
        let fresh = ExecutionId(ulid::Ulid::generate());
        let parent = Parent::of(headers);
        if parent.as_ref().is_some_and(|parent| !parent.is_sampled) {
            return None;
        }
        let trace = match &parent {
            Some(parent) => parent.trace,
            None => TraceId::from(fresh.0.0),
        };
        if parent.is_none() && !shared.samples(trace) {
            return None;
        }
        Some(Accepted {
            shared: shared.clone(),
            trace,
            span: new_span(),
            parent,
            name,
            attributes,
            began: SystemTime::now(),
        })
    }

    /// Records a build with its two parts, the wait and the work: `times` are when it was asked for,
    /// began and ended.
    pub fn build(
        &self,
        name: String,
        times: [SystemTime; 3],
        attributes: Vec<KeyValue>,
        error: Option<String>,
    ) {
        let Some(shared) = &self.0 else { return };
        let trace = TraceId::from(ulid::Ulid::generate().0);
        if !shared.samples(trace) {
            return;
        }
        let root = new_span();
        let [asked, began, ended] = times;
        for (part, from, to) in [("wait", asked, began), ("build", began, ended)] {
            let span = Span::new(part.to_owned(), SpanKind::Internal, from, to);
            shared.record(trace, new_span(), Some((root, false)), span);
        }
        let span = Span {
            attributes,
            error,
            ..Span::new(name, SpanKind::Internal, asked, ended)
        };
        shared.record(trace, root, None, span);
    }
}

impl Span {
    fn new(name: String, kind: SpanKind, began: SystemTime, ended: SystemTime) -> Self {
        Self {
            name,
            kind,
            began,
            ended,
            attributes: Vec::new(),
            error: None,
        }
    }
}

impl Shared {
    fn samples(&self, trace: TraceId) -> bool {
        let mut low = [0; 8];
        low.copy_from_slice(&trace.to_bytes()[8..]);
        u64::from_be_bytes(low) <= self.sampled_below
    }

    /// Hands a span to the exporter. `parent` is its parent's id, and whether another program
    /// recorded that.
    fn record(&self, trace: TraceId, id: SpanId, parent: Option<(SpanId, bool)>, span: Span) {
        let flags = TraceFlags::SAMPLED;
        let context = SpanContext::new(trace, id, flags, false, TraceState::default());
        let (parent, is_remote) = parent.unwrap_or((SpanId::INVALID, false));
        let data = SpanData {
            span_context: context,
            parent_span_id: parent,
            parent_span_is_remote: is_remote,
            span_kind: span.kind,
            name: span.name.into(),
            start_time: span.began,
            end_time: span.ended.max(span.began),
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: match span.error {
                Some(error) => Status::error(error),
                None => Status::Unset,
            },
            instrumentation_scope: self.scope.clone(),
        };
        if self.spans.try_send(data).is_err() {
            self.metrics.traces.dropped(1);
        }
    }
}

/// The acceptance of an execution, recorded once it is on disk.
pub struct Accepted {
    shared: Arc<Shared>,
    trace: TraceId,
    span: SpanId,
    parent: Option<Parent>,
    name: String,
    attributes: Vec<KeyValue>,
    began: SystemTime,
}

impl Accepted {
    /// The header that is kept with the execution.
    pub fn header(&self) -> HeaderValue {
        context::header(self.trace, self.span)
    }

    /// It is on disk.
    pub fn done(self, execution: ExecutionId) {
        let mut attributes = self.attributes;
        attributes.push(KeyValue::new("ignite.execution.id", execution.to_string()));
        let span = Span {
            attributes,
            ..Span::new(self.name, SpanKind::Producer, self.began, SystemTime::now())
        };
        let parent = self.parent.map(|parent| (parent.span, true));
        self.shared.record(self.trace, self.span, parent, span);
    }
}

/// A new span's id: the random half of a ULID.
fn new_span() -> SpanId {
    let bytes = ulid::Ulid::generate().0.to_be_bytes();
    let mut id = [0; 8];
    id.copy_from_slice(&bytes[8..]);
    SpanId::from_bytes(id)
}
