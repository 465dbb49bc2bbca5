//! Settings of traces, by the variables that OpenTelemetry gives every program.

use crate::trace::{self, Endpoint, Protocol, Ratio};

/// Settings of traces. In the file they stand beside all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Otlp {
    /// `otlp_endpoint`, `OTEL_EXPORTER_OTLP_ENDPOINT`: the collector that gets traces, such as
    /// `http://127.0.0.1:4317`. Default: none, and nothing is traced.
    pub endpoint: Option<Endpoint>,
    /// `otlp_protocol`, `OTEL_EXPORTER_OTLP_PROTOCOL`: `grpc` or `http/protobuf`. Default `grpc`.
    pub protocol: Protocol,
    /// `otlp_headers`, `OTEL_EXPORTER_OTLP_HEADERS`: headers for the collector, such as its key:
    /// `name=value`, separated by commas. Default: none.
    pub headers: Option<String>,
    /// `trace_ratio`, `OTEL_TRACES_SAMPLER_ARG`: of the traces that begin here, the fraction that is
    /// recorded; those that come with a request go on as their first program decided. Default 1.
    pub ratio: Ratio,
}

impl Default for Otlp {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: Protocol::default(),
            headers: None,
            // A sandbox wants to see everything, and without a collector nothing is recorded.
            ratio: Ratio::ALL,
        }
    }
}

impl Otlp {
    /// What is wrong with the settings together.
    pub(super) fn problems(&self) -> Vec<String> {
        let headers = self.headers.as_deref().map(trace::headers);
        let wrong = headers.and_then(Result::err);
        wrong
            .map(|why| format!("otlp_headers: {why}"))
            .into_iter()
            .collect()
    }
}
