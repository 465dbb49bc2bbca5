//! A server that answers a few methods from a script and records its requests.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures_util::{StreamExt as _, stream};
use ignite::api::proto::{local::v1::execution_service_server::ExecutionServiceServer, rpc, v1};
use prost::Message;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, body::Body, server::Grpc};
use tonic_prost::ProstCodec;
use v1::invoke_response::Frame;

pub(crate) mod executions;

/// The scripted server; it stops when this is dropped.
pub(crate) struct Fake {
    address: std::net::SocketAddr,
    calls: Arc<Mutex<Vec<String>>>,
    tokens: Arc<Mutex<Vec<String>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Fake {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let calls = Arc::new(Mutex::new(Vec::new()));
        let tokens = Arc::new(Mutex::new(Vec::new()));
        let service = Script(Arc::clone(&calls), Arc::clone(&tokens));
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(service.clone())
                .add_service(ExecutionServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self {
            address,
            calls,
            tokens,
            _runtime: runtime,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests since the last call.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().expect("not poisoned"))
    }

    /// The tokens that came since the last look, without what says that they are some.
    pub(crate) fn tokens(&self) -> Vec<String> {
        std::mem::take(&mut *self.tokens.lock().expect("not poisoned"))
    }
}

/// What was asked, and with which tokens.
#[derive(Clone)]
struct Script(Arc<Mutex<Vec<String>>>, Arc<Mutex<Vec<String>>>);

impl tonic::server::NamedService for Script {
    const NAME: &'static str = "dodil.ignite.v1.ComputeService";
}

impl Script {
    fn note(&self, method: &str, org: &str, app: &str) {
        self.0
            .lock()
            .expect("not poisoned")
            .push(format!("{method} {org}/{app}"));
    }
}

fn refuse(code: Code, reason: &str, message: &str) -> Status {
    let info = rpc::ErrorInfo {
        reason: reason.to_owned(),
        ..Default::default()
    };
    let any = prost_types::Any {
        type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
        value: info.encode_to_vec(),
    };
    let status = rpc::Status {
        code: code as i32,
        message: message.to_owned(),
        details: vec![any],
    };
    Status::with_details(code, message, status.encode_to_vec().into())
}

async fn get_app(request: v1::GetAppRequest) -> Result<v1::GetAppResponse, Status> {
    let id = format!("{}/{}", request.organization_name, request.app_name);
    match (
        request.organization_name.as_str(),
        request.app_name.as_str(),
    ) {
        ("other", _) => Err(refuse(
            Code::PermissionDenied,
            "PERMISSION_DENIED",
            "other is not yours",
        )),
        (_, "slow") => std::future::pending().await,
        (_, "there") => Ok(v1::GetAppResponse {
            app: Some(v1::AppMeta {
                id,
                deployment_state: v1::DeploymentState::Running.into(),
                active_version: 3,
                updated_at_ms: 1_700_000_000_000,
                ..Default::default()
            }),
        }),
        _ => Err(refuse(
            Code::NotFound,
            "NOT_FOUND",
            &format!("there is no app {id}"),
        )),
    }
}

/// Three apps, two per page.
fn list_apps(request: &v1::ListAppsRequest) -> v1::ListAppsResponse {
    let app = |name: &str| v1::AppMeta {
        id: format!("{}/{name}", request.organization_name),
        ..Default::default()
    };
    match request.cursor.as_str() {
        "" => v1::ListAppsResponse {
            apps: vec![app("a"), app("b")],
            next_cursor: "2".to_owned(),
        },
        _ => v1::ListAppsResponse {
            apps: vec![app("c")],
            next_cursor: String::new(),
        },
    }
}

fn frames(path: &str) -> Vec<Result<v1::InvokeResponse, Status>> {
    let frame = |frame| Ok(v1::InvokeResponse { frame: Some(frame) });
    let head = |status_code| {
        let response_headers = [("content-type".to_owned(), "text/plain".to_owned())].into();
        frame(Frame::Head(v1::InvokeHead {
            status_code,
            response_headers,
            execution_id: "exec_1".to_owned(),
            ..Default::default()
        }))
    };
    let trailer = || {
        frame(Frame::Trailer(v1::InvokeTrailer {
            total_body_bytes: 6,
            duration_ms: 1,
            ..Default::default()
        }))
    };
    let chunk =
        |text: &'static str| frame(Frame::Chunk(bytes::Bytes::from_static(text.as_bytes())));
    match path {
        "/cut" => vec![
            head(200),
            chunk("one"),
            Err(refuse(
                Code::Unavailable,
                "REPLICA_BROKE",
                "the app broke off",
            )),
        ],
        "/500" => vec![head(500), chunk("one"), chunk("two"), trailer()],
        _ => vec![head(200), chunk("one"), chunk("two"), trailer()],
    }
}

type Reply = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl tower::Service<http::Request<Body>> for Script {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Reply;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Reply {
        let this = self.clone();
        let Some(token) = request.headers().get("authorization") else {
            let refused = refuse(Code::Unauthenticated, "UNAUTHENTICATED", "no token").into_http();
            return Box::pin(std::future::ready(Ok(refused)));
        };
        let token = token.to_str().unwrap_or_default();
        let token = token.trim_start_matches("Bearer ").to_owned();
        self.1.lock().expect("not poisoned").push(token);
        let method = request
            .uri()
            .path()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        macro_rules! unary {
            ($request:ty, $name:ident => $answer:expr) => {
                Box::pin(async move {
                    let answer = tower::service_fn(move |request: Request<$request>| {
                        let (this, method) = (this.clone(), method.clone());
                        async move {
                            let $name = request.into_inner();
                            this.note(&method, &$name.organization_name, app_name(&$name));
                            Result::<_, Status>::Ok(Response::new($answer))
                        }
                    });
                    Ok(Grpc::new(ProstCodec::default())
                        .unary(answer, request)
                        .await)
                })
            };
        }
        macro_rules! plain {
            ($request:ty, $name:ident => $answer:expr) => {
                Box::pin(async move {
                    let answer = tower::service_fn(move |request: Request<$request>| {
                        let $name = request.into_inner();
                        let answer: Result<_, Status> = $answer;
                        std::future::ready(answer.map(Response::new))
                    });
                    Ok(Grpc::new(ProstCodec::default())
                        .unary(answer, request)
                        .await)
                })
            };
        }
        match method.as_str() {
            "GetApp" => unary!(v1::GetAppRequest, r => get_app(r).await?),
            "CreateApp" => {
                unary!(v1::CreateAppRequest, r => v1::CreateAppResponse { app_id: r.name, ..Default::default() })
            }
            "UpdateAppConfig" => {
                unary!(v1::UpdateAppConfigRequest, _r => v1::UpdateAppConfigResponse::default())
            }
            "SaveDraft" => unary!(v1::SaveDraftRequest, _r => v1::SaveDraftResponse::default()),
            "PublishDraft" => unary!(v1::PublishDraftRequest, r => v1::PublishDraftResponse {
                version: Some(v1::AppVersion { version: 1, ..Default::default() }),
                public_urls: vec![format!("http://{}-{}.ignite.localhost:8080", r.app_name, r.organization_name)],
                ..Default::default()
            }),
            "DeleteApp" => {
                unary!(v1::DeleteAppRequest, r => v1::DeleteAppResponse { app_id: r.app_name })
            }
            "ListApps" => unary!(v1::ListAppsRequest, r => list_apps(&r)),
            "GetExecution" => plain!(v1::GetExecutionRequest, r => executions::get(&r)),
            "GetExecutionStats" => {
                let noted = self.clone();
                plain!(v1::GetExecutionStatsRequest, r => {
                    let range = if r.start_ms > 0 { "given" } else { "usual" };
                    let what = format!("{} {range} {}", r.app_name, r.bucket_secs);
                    noted.note("GetExecutionStats", &r.organization_name, &what);
                    Ok(executions::stats(&r))
                })
            }
            "InvokeAsync" => {
                let noted = self.clone();
                let key = request
                    .headers()
                    .get("idempotency-key")
                    .map_or_else(String::new, |key| format!(" key={key:?}"));
                plain!(v1::InvokeRequest, r => {
                    let body = String::from_utf8_lossy(&r.body).into_owned();
                    let what = format!("{} {body}{key}", r.app_name);
                    noted.note("InvokeAsync", &r.organization_name, &what);
                    Ok(executions::accept(&r))
                })
            }
            "WatchExecution" => Box::pin(async move {
                let answer = tower::service_fn(|request: Request<v1::WatchExecutionRequest>| {
                    let watched = executions::watch(request.get_ref());
                    async move {
                        let (updates, ends) = watched?;
                        let rest = if ends {
                            stream::empty().boxed()
                        } else {
                            stream::pending().boxed()
                        };
                        let updates = stream::iter(updates.into_iter().map(Ok)).chain(rest);
                        Result::<_, Status>::Ok(Response::new(updates))
                    }
                });
                Ok(Grpc::new(ProstCodec::default())
                    .server_streaming(answer, request)
                    .await)
            }),
            "Invoke" => Box::pin(async move {
                let answer = tower::service_fn(move |request: Request<v1::InvokeRequest>| {
                    let this = this.clone();
                    async move {
                        let r = request.into_inner();
                        let http = r.http.unwrap_or_default();
                        let name = http
                            .method()
                            .as_str_name()
                            .trim_start_matches("HTTP_METHOD_")
                            .to_owned();
                        let query = if http.query.is_empty() {
                            String::new()
                        } else {
                            format!("?{}", http.query)
                        };
                        let body = String::from_utf8_lossy(&r.body).into_owned();
                        this.note(
                            "Invoke",
                            &r.organization_name,
                            &format!(
                                "{} {name} {}{query} {:?} {body}",
                                r.app_name, http.path, http.headers
                            ),
                        );
                        Result::<_, Status>::Ok(Response::new(tokio_stream::iter(frames(
                            &http.path,
                        ))))
                    }
                });
                Ok(Grpc::new(ProstCodec::default())
                    .server_streaming(answer, request)
                    .await)
            }),
            other => panic!("the script has no {other}"),
        }
    }
}

/// The app that a request names; each message has a field of its own for it.
fn app_name(request: &dyn std::any::Any) -> &str {
    macro_rules! of {
        ($($message:ident . $field:ident),*) => {
            $(if let Some(r) = request.downcast_ref::<v1::$message>() { return &r.$field; })*
        };
    }
    of!(
        GetAppRequest.app_name,
        CreateAppRequest.name,
        UpdateAppConfigRequest.app_name,
        SaveDraftRequest.app_name,
        PublishDraftRequest.app_name,
        DeleteAppRequest.app_name
    );
    ""
}
