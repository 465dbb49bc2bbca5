//! One question on a replica's health path, as starts and liveness probes ask it: the request, the
//! version of HTTP, and what came of it. `probe.rs` judges the answer.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, Version, header};
use http_body_util::BodyExt;

use super::{
    probe::{self, Answer, ProbeOutcome},
    upstream::{Body, Pool},
};
use crate::model::{HealthCheck, Revision, reach::Protocol};

/// Probes the health path once: in the app's protocol, or where none is set in HTTP/1.1, and in
/// HTTP/2 if the app does not understand that. The pool keeps which one it understood.
///
/// # Errors
/// Why the answer does not count as ready.
pub(super) async fn ask(
    pool: &Arc<Pool>,
    revision: &Revision,
    limit: Duration,
) -> Result<Answer, ProbeOutcome> {
    let over_http2 = match revision.protocol {
        Protocol::Auto => pool.is_http2_only(),
        Protocol::Http1 => false,
        Protocol::H2c => true,
    };
    let outcome = ask_over(pool, revision, limit, over_http2).await;
    match outcome {
        // What gRPC servers do with a request in HTTP/1.1: answer in frames, or hang up.
        Err(ProbeOutcome::NotHttp | ProbeOutcome::Closed | ProbeOutcome::Reset)
            if revision.protocol == Protocol::Auto && !over_http2 =>
        {
            let Ok(over_http2) = ask_over(pool, revision, limit, true).await else {
                return outcome;
            };
            // It may just have begun to listen, and understand both.
            let again = ask_over(pool, revision, limit, false).await;
            if again.is_err() {
                pool.set_http2_only();
            }
            again.or(Ok(over_http2))
        }
        outcome => outcome,
    }
}

/// Probes it once in one version of HTTP.
async fn ask_over(
    pool: &Arc<Pool>,
    revision: &Revision,
    limit: Duration,
    over_http2: bool,
) -> Result<Answer, ProbeOutcome> {
    let request = question(pool, revision, over_http2);
    let mut head = None;
    let exchange = async {
        let response = pool
            .send(request)
            .await
            .map_err(|e| ProbeOutcome::of_error(&e))?;
        head = Some(response.status());
        // An answer that breaks off does not count.
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame.map_err(|e| ProbeOutcome::of_hyper(&e))?;
        }
        Ok(())
    };
    let whole = tokio::time::timeout(limit, exchange).await;
    let came = match (whole, head) {
        (Ok(Err(outcome)), _) => Err(outcome),
        // The default path may well lead to a stream, which never ends.
        (Err(_), Some(status)) if revision.health == HealthCheck::Default => Ok(status),
        (Ok(Ok(())), Some(status)) => Ok(status),
        _ => Err(ProbeOutcome::Timeout(limit)),
    };
    probe::judge(revision, came, over_http2)
}

fn question(pool: &Pool, revision: &Revision, over_http2: bool) -> Request<Body> {
    let mut request = Request::new(Body::Empty);
    // Cannot fail: paths are checked when they are set.
    *request.uri_mut() = revision.health_path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    if let Ok(host) = HeaderValue::from_str(&pool.addr().to_string()) {
        headers.insert(header::HOST, host);
    }
    let agent = concat!("ignite-health/", env!("CARGO_PKG_VERSION"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
    if over_http2 {
        *request.version_mut() = Version::HTTP_2;
    } else {
        // A server that serves one connection at a time would wait for ever for this one to end.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    request
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::fleet::{tests::revision, upstream::Connects};

    /// A gRPC server is such an app: it has no HTTP/1.1, and nothing says so before it is probed.
    #[tokio::test]
    async fn an_app_without_a_protocol_setting_that_speaks_http2_alone_is_found_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let pool = Pool::new(
            listener.local_addr().expect("bound"),
            &Connects::new(1, crate::connections::Connections::new(10, 0)),
            false,
        );
        let server = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.expect("a connection");
                tokio::spawn(async move {
                    // A request in HTTP/1.1 is no preface, and ends the connection.
                    let mut http2 = h2::server::handshake(tcp).await?;
                    while let Some(Ok((_, mut respond))) = http2.accept().await {
                        respond.send_response(http::Response::new(()), true)?;
                    }
                    Ok::<_, h2::Error>(())
                });
            }
        });
        let mut revision = revision(1);
        let limit = Duration::from_secs(120);
        revision.protocol = Protocol::Http1;
        assert!(ask(&pool, &revision, limit).await.is_err());
        revision.protocol = Protocol::Auto;
        assert!(ask(&pool, &revision, limit).await.is_ok() && pool.is_http2_only());
        assert!(ask(&pool, &revision, limit).await.is_ok(), "asked again");
        server.abort();
    }

    /// gRPC's C core resets requests that are no calls, so an app in Python never became ready.
    #[tokio::test]
    async fn a_grpc_server_that_resets_what_is_no_call_is_there_unless_a_path_was_chosen() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let pool = Pool::new(
            listener.local_addr().expect("bound"),
            &Connects::new(1, crate::connections::Connections::new(10, 0)),
            false,
        );
        let server = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.expect("a connection");
            let mut http2 = h2::server::handshake(tcp).await.expect("HTTP/2");
            while let Some(Ok((_, mut respond))) = http2.accept().await {
                respond.send_reset(h2::Reason::INTERNAL_ERROR);
            }
        });
        let mut revision = revision(1);
        revision.protocol = Protocol::H2c;
        revision.health = HealthCheck::Default;
        let limit = Duration::from_secs(120);
        assert!(ask(&pool, &revision, limit).await.is_ok());
        revision.health = HealthCheck::Chosen;
        assert!(ask(&pool, &revision, limit).await.is_err());
        server.abort();
    }
}
