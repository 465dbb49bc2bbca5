//! `/healthz` and `/readyz`, and the answer for unknown paths.

use std::future;

use axum::{
    Json, Router,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

use crate::{
    api::status::to_response,
    fleet::{EngineState, Fleet},
    model::{Failure, Reason},
    store::{Store, executions::Executions},
    tls::Tls,
    vitals::Vitals,
};

/// `/healthz` says that the process answers, `/readyz` whether everything that requests need works.
pub(super) fn router(
    fleet: Fleet,
    store: Store,
    executions: Executions,
    vitals: Vitals,
    tls: Option<Tls>,
) -> Router {
    let ready = move || {
        let warnings = tls.as_ref().map(Tls::warnings).unwrap_or_default();
        future::ready(readiness(&fleet, &store, &executions, &vitals, &warnings))
    };
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .method_not_allowed_fallback(no_method)
}

/// 200 when all checks pass, else 503; the body has the outcome of each. Warnings are of what works
/// and needs the operator all the same.
fn readiness(
    fleet: &Fleet,
    store: &Store,
    executions: &Executions,
    vitals: &Vitals,
    warnings: &[String],
) -> Response {
    let engine = match &*fleet.engine().borrow() {
        EngineState::Up(_) => Ok(()),
        EngineState::Unknown => Err("the container engine has not answered yet".to_owned()),
        EngineState::Down(why) => Err(why.message.clone()),
    };
    let network = fleet.no_network().map_or(Ok(()), |why| Err(why.message));
    let adopted = if fleet.settled() {
        Ok(())
    } else {
        Err("containers of an earlier run are not adopted yet".to_owned())
    };
    let store = if store.healthy() {
        Ok(())
    } else {
        Err("the last write failed; see the log".to_owned())
    };
    let executions = executions.refusal().map_or(Ok(()), Err);
    let parts = match vitals.failed() {
        None => Ok(()),
        Some(part) => Err(format!(
            "{part} failed; the process ends and has to be started again"
        )),
    };
    let checks = [
        ("parts", parts),
        ("engine", engine),
        ("network", network),
        ("adoption", adopted),
        ("store", store),
        ("executions", executions),
    ];
    let ready = checks.iter().all(|(_, outcome)| outcome.is_ok());
    let of = |(name, outcome): (&str, Result<(), String>)| {
        (
            name.to_owned(),
            json!(outcome.err().unwrap_or_else(|| "ok".to_owned())),
        )
    };
    let checks: serde_json::Map<_, _> = checks.map(of).into_iter().collect();
    let mut body = json!({"ready": ready, "checks": checks});
    if !warnings.is_empty() {
        body["warnings"] = json!(warnings);
    }
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(body)).into_response()
}

pub(super) async fn no_route(uri: Uri) -> Response {
    to_response(
        &Failure::new(
            Reason::NotFound,
            format!(
                "nothing is at {}; the API is under /v1/ignite, apps answer at their host or under /_app/{{org}}/{{app}}/",
                uri.path()
            ),
        ),
        false,
    )
}

async fn no_method(method: Method, uri: Uri) -> Response {
    let allowed = "GET, HEAD";
    let failure = Failure::new(
        Reason::MethodNotAllowed,
        format!(
            "{method} is not allowed on {}; allowed: {allowed}",
            uri.path()
        ),
    );
    let mut response = to_response(&failure, false);
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn another_method_is_refused_as_everything_is() {
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .method_not_allowed_fallback(no_method);
        let app = Router::new().merge(router).fallback(no_route);
        let post = Request::post("/healthz").body(Body::empty());
        let answer = app.oneshot(post.expect("valid")).await.expect("answers");
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers()["x-ignite-error"], "METHOD_NOT_ALLOWED");
        assert_eq!(answer.headers()["allow"], "GET, HEAD");
    }
}
