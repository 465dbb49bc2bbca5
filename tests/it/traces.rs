//! Traces: a collector gets the whole trace of a cold request, and of an execution with two attempts
//! over a restart.

use std::{net::SocketAddr, sync::Arc};

use hyper::{Method, StatusCode};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::Span,
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::support::{
    app::{App, ENGINE_LIMIT},
    contract::Via,
    eventually_ok,
    ignite::Ignite,
};

/// A stand-in for a collector: keeps the spans that it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let scopes = resources.into_iter().flat_map(|r| r.scope_spans);
        self.0.lock().extend(scopes.flat_map(|s| s.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let addr = listener.local_addr().expect("bound");
        let collector = Self::default();
        let service = TraceServiceServer::new(collector.clone());
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        (collector, addr)
    }

    /// Waits for a trace that has spans of all these names; returns it.
    async fn trace(&self, names: &[&str]) -> Vec<Span> {
        eventually_ok(ENGINE_LIMIT, || async {
            let all = self.0.lock().clone();
            let has = |trace: &[u8], name: &str| {
                all.iter().any(|s| s.trace_id == trace && s.name == name)
            };
            let complete = all
                .iter()
                .find(|s| names.iter().all(|name| has(&s.trace_id, name)));
            let Some(id) = complete.map(|s| s.trace_id.clone()) else {
                let got: Vec<_> = all.iter().map(|s| &*s.name).collect();
                return Err(format!("no trace with {names:?} in {got:?}"));
            };
            Ok(all
                .into_iter()
                .filter(|s| s.trace_id == id)
                .collect::<Vec<_>>())
        })
        .await
    }
}

fn named<'a>(trace: &'a [Span], name: &str) -> &'a Span {
    let found = trace.iter().find(|s| s.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {trace:#?}"))
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|a| a.key == key);
    format!(
        "{:?}",
        found
            .unwrap_or_else(|| panic!("no {key} in {span:#?}"))
            .value
    )
}

fn is_child(child: &Span, parent: &Span) -> bool {
    child.parent_span_id == parent.span_id
}

#[tokio::test]
async fn a_cold_request_is_one_trace_from_its_arrival_to_the_app() {
    let (collector, addr) = Collector::start().await;
    let ignite = Ignite::builder()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{addr}"))
        .env("IGNITE_METRICS_ADDR", "127.0.0.1:0")
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/web", json!({})).await;
    let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = app
        .request(&ignite, Method::GET, "/headers")
        .header("traceparent", given);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK);
    let echo = answer.text().await;
    let trace = collector
        .trace(&["GET acme/web", "authenticate", "hold", "forward"])
        .await;
    let root = named(&trace, "GET acme/web");
    assert_eq!(hex(&root.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&root.parent_span_id), "b7ad6b7169203331");
    assert!(attribute(root, "http.response.status_code").contains("200"));
    let (hold, forward) = (named(&trace, "hold"), named(&trace, "forward"));
    for child in [named(&trace, "authenticate"), hold, forward] {
        assert!(is_child(child, root), "{child:#?}");
        assert!(child.end_time_unix_nano >= child.start_time_unix_nano);
    }
    for part in [
        "engine: create the container",
        "engine: start the container",
        "app: get ready",
    ] {
        assert!(is_child(named(&trace, part), hold), "{part}");
    }
    assert!(hold.start_time_unix_nano >= root.start_time_unix_nano);
    assert!(root.end_time_unix_nano >= forward.end_time_unix_nano);
    // The app got the exchange as its parent.
    let wanted = format!("00-{}-{}-01", hex(&root.trace_id), hex(&forward.span_id));
    assert!(echo.contains(&wanted), "no {wanted} in {echo}");

    // A trace that its first program does not record goes through as it came.
    let unsampled = given.replace("-01", "-00");
    let request = app
        .request(&ignite, Method::GET, "/headers")
        .header("traceparent", &unsampled);
    let echo = request.send().await.expect("an answer").text().await;
    assert!(echo.contains(&unsampled), "{echo}");

    // An exemplar leads from the metric to the trace.
    let metrics = ignite.ready().metrics.expect("a listener");
    let scrape = crate::support::http::request(metrics, Method::GET, "/metrics")
        .header("accept", "application/openmetrics-text");
    let text = scrape.send().await.expect("an answer").text().await;
    let exemplar = r#"# {trace_id="0af7651916cd43dd8448eb211c80319c"}"#;
    assert!(text.contains(exemplar), "{text}");
}

#[tokio::test]
async fn an_execution_stays_in_its_trace_over_attempts_and_a_restart() {
    let (collector, addr) = Collector::start().await;
    let mut ignite = Ignite::builder()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{addr}"))
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/web", json!({})).await;
    // It is not answered before its second attempt.
    let called = json!({
        "organization_name": "acme", "app_name": "web", "http": {"path": "/attempt/2"},
    });
    let submitted = ignite
        .ok(Via::Json, "InvokeAsync", &app.token, called)
        .await;
    let id = submitted["executionId"].as_str().expect("an id").to_owned();
    collector.trace(&["InvokeAsync acme/web"]).await;
    let by_id = json!({ "execution_id": id });
    let running = || async {
        let execution = ignite
            .ok(Via::Json, "GetExecution", &app.token, by_id.clone())
            .await;
        let status = execution["execution"]["status"].to_string();
        if status.contains("RUNNING") {
            Ok(())
        } else {
            Err(execution.to_string())
        }
    };
    eventually_ok(ENGINE_LIMIT, running).await;
    ignite.kill9();
    ignite.start().await;
    let trace = collector
        .trace(&["InvokeAsync acme/web", "attempt 2 of acme/web"])
        .await;
    let accepted = named(&trace, "InvokeAsync acme/web");
    let second = named(&trace, "attempt 2 of acme/web");
    assert!(is_child(second, accepted), "{trace:#?}");
    assert!(attribute(second, "ignite.execution.id").contains(&id));
}

#[tokio::test]
async fn a_collector_that_is_away_delays_nothing_and_is_reported_once() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let addr = taken.local_addr().expect("bound");
    drop(taken);
    for protocol in ["grpc", "http/protobuf"] {
        let ignite = Ignite::builder()
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{addr}"))
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .start()
            .await;
        let app = App::deploy(&ignite, "acme/web", json!({})).await;
        app.get_ok(&ignite, "/").await;
        eventually_ok(ENGINE_LIMIT, || async {
            let log = ignite.log();
            let warnings = log.matches("takes no traces").count();
            if warnings == 1 {
                Ok(())
            } else {
                Err(format!("{warnings} warnings"))
            }
        })
        .await;
        app.get_ok(&ignite, "/").await;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
