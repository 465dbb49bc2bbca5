//! Batches of spans, and the collector that gets them.

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use http::{HeaderName, HeaderValue, Uri};
use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{
    SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter as _},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{metadata::MetadataMap, transport};

use super::{Shared, Tracer};
use crate::metrics::Metrics;

/// Spans that wait to be sent. A warm request has three, so this is a second of a thousand requests.
const QUEUE: usize = 4096;
/// Most spans in one message.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const DELAY: Duration = Duration::from_secs(1);
/// Longest time for the collector to take a batch.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two warnings that the collector takes nothing.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The form in which a collector takes spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// OTLP over gRPC, usually port 4317.
    #[default]
    Grpc,
    /// OTLP over HTTP in protobuf, usually port 4318.
    Http,
}

impl FromStr for Protocol {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::Http),
            other => Err(format!(
                "{other:?} is not a protocol of OTLP that is spoken here; give grpc or http/protobuf"
            )),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "grpc",
            Self::Http => "http/protobuf",
        })
    }
}

/// Where a collector is: an `http://` or `https://` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Uri);

impl Endpoint {
    fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }
}

impl FromStr for Endpoint {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let uri: Option<Uri> = s.parse().ok();
        let uri = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
        let uri = uri.filter(|uri| uri.host().is_some_and(|host| !host.is_empty()));
        let uri = uri.ok_or_else(|| {
            format!("{s:?} is not the address of a collector, such as http://127.0.0.1:4317")
        })?;
        Ok(Self(uri))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

/// A fraction, between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio(f64);

impl Ratio {
    /// Everything.
    pub const ALL: Self = Self(1.0);
}

// It is never NaN.
impl Eq for Ratio {}

impl FromStr for Ratio {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let ratio = s.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        let ratio =
            ratio.ok_or_else(|| format!("{s:?} is not a fraction between 0 and 1, such as 0.1"))?;
        Ok(Self(ratio))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where traces go.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The collector, such as `http://127.0.0.1:4317`.
    pub endpoint: Endpoint,
    /// In which form.
    pub protocol: Protocol,
    /// Headers for the collector, such as a key: `name=value`, separated by commas.
    pub headers: String,
    /// Of the traces that begin here, how many are recorded.
    pub ratio: Ratio,
    /// The name of this instance.
    pub instance: String,
}

/// The headers in a list of `name=value`, separated by commas.
///
/// # Errors
/// Which one is not a header.
pub fn headers(list: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let pairs = list
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty());
    let header = |pair: &str| {
        let (name, value) = pair
            .split_once('=')
            // Whatever it is, it may be a key, so it is not repeated.
            .ok_or("one of the headers has no =; give name=value, separated by commas")?;
        let refuse =
            || format!("the header {name:?} has a name or a value that no header can have");
        let name: HeaderName = name.trim().parse().map_err(|_| refuse())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| refuse())?;
        Ok((name, value))
    };
    pairs.map(header).collect()
}

/// The task that sends spans, and the way to end it.
pub struct Exporting {
    exporter: SpanExporter,
    spans: mpsc::Receiver<SpanData>,
    metrics: Arc<Metrics>,
}

impl Tracer {
    /// A tracer, and the task to run for it. The collector need not run yet. Must be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// When the endpoint cannot be used.
    pub fn start(settings: &Settings, metrics: &Arc<Metrics>) -> Result<(Self, Exporting)> {
        let mut exporter = exporter(settings)?;
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", "ignite"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", settings.instance.clone()),
        ]);
        exporter.set_resource(&resource.build());
        let (sender, spans) = mpsc::channel(QUEUE);
        let shared = Shared {
            spans: sender,
            sampled_below: (settings.ratio.0 * u64::MAX as f64) as u64,
            scope: InstrumentationScope::builder("ignite").build(),
            metrics: metrics.clone(),
        };
        let exporting = Exporting {
            exporter,
            spans,
            metrics: metrics.clone(),
        };
        Ok((Self(Some(Arc::new(shared))), exporting))
    }
}

fn exporter(settings: &Settings) -> Result<SpanExporter> {
    let endpoint = settings.endpoint.to_string();
    let headers = headers(&settings.headers).map_err(anyhow::Error::msg)?;
    let built = match settings.protocol {
        Protocol::Grpc => {
            let mut to = transport::Endpoint::from_shared(endpoint)?.timeout(TIMEOUT);
            if settings.endpoint.is_https() {
                to = to.tls_config(transport::ClientTlsConfig::new().with_native_roots())?;
            }
            let metadata = MetadataMap::from_headers(headers.into_iter().collect());
            let builder = SpanExporter::builder().with_tonic();
            let builder = builder
                .with_channel(to.connect_lazy())
                .with_metadata(metadata);
            builder.with_timeout(TIMEOUT).build()
        }
        Protocol::Http => {
            let connector = HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
                .context("the machine has no certificate authorities")?
                .https_or_http()
                .enable_http1()
                .build();
            let text = |value: HeaderValue| value.to_str().unwrap_or_default().to_owned();
            let headers: HashMap<_, _> = headers
                .into_iter()
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect();
            let builder = SpanExporter::builder().with_http();
            let builder = builder
                .with_http_client(HyperClient::new(connector, TIMEOUT, None))
                .with_headers(headers);
            builder
                .with_endpoint(format!("{endpoint}/v1/traces"))
                .with_timeout(TIMEOUT)
                .build()
        }
    };
    built.context("otlp_endpoint")
}

impl Exporting {
    /// Sends spans until every tracer is dropped, or `stop` is cancelled and the last are sent.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut warned: Option<Instant> = None;
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let is_last = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.spans.close();
                    true
                }
                got = self.spans.recv_many(&mut batch, BATCH) => got == 0,
            };
            if !is_last {
                let more = async {
                    while batch.len() < BATCH {
                        let room = BATCH - batch.len();
                        if self.spans.recv_many(&mut batch, room).await == 0 {
                            break;
                        }
                    }
                };
                // At a stop the loop's next round sends the rest.
                tokio::select! {
                    () = stop.cancelled() => {}
                    _ = tokio::time::timeout(DELAY, more) => {}
                }
                self.send(&mut batch, &mut warned).await;
                continue;
            }
            while self.spans.recv_many(&mut batch, BATCH).await > 0 {
                self.send(&mut batch, &mut warned).await;
            }
            return;
        }
    }

    async fn send(&self, batch: &mut Vec<SpanData>, warned: &mut Option<Instant>) {
        let spans = std::mem::replace(batch, Vec::with_capacity(BATCH));
        let count = spans.len() as u64;
        let sent = tokio::time::timeout(TIMEOUT, self.exporter.export(spans)).await;
        let why = match sent {
            Ok(Ok(())) => return self.metrics.traces.sent(count),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {TIMEOUT:?}"),
        };
        self.metrics.traces.dropped(count);
        let is_due = warned.is_none_or(|at| at.elapsed() >= WARN_EVERY);
        if is_due {
            *warned = Some(Instant::now());
            tracing::warn!(
                spans = count,
                "The collector of otlp_endpoint takes no traces: {why}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_a_list_and_a_bad_one_is_named_without_its_value() {
        let all = headers("api-key=s3cr=t, x-team = web,").expect("valid");
        let text = |(name, value): &(HeaderName, HeaderValue)| {
            format!("{name}: {}", value.to_str().expect("text"))
        };
        let all: Vec<_> = all.iter().map(text).collect();
        assert_eq!(all, ["api-key: s3cr=t", "x-team: web"]);
        assert_eq!(headers("").expect("none").len(), 0);
        let why = headers("s3cret").expect_err("bad");
        assert!(
            why.contains("name=value") && !why.contains("s3cret"),
            "{why}"
        );
        let why = headers("bad name=s3cret").expect_err("bad");
        assert!(why.contains("bad name") && !why.contains("s3cret"), "{why}");
    }
}
