//! A `ComputeService` that shows the tests what reached it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status};

use crate::{
    api::{
        proto::v1::{self, compute_service_server::ComputeService, invoke_response::Frame},
        status::to_status,
    },
    model::{Failure, Reason},
};

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Echoes each request; the path of an `Invoke` chooses its response.
#[derive(Clone, Default)]
pub(super) struct Probe {
    /// Chunks made for the endless response; its stream holds a clone.
    endless: Arc<AtomicUsize>,
}

impl Probe {
    /// Chunks made for the endless response.
    pub(super) fn pulled(&self) -> usize {
        self.endless.load(Ordering::SeqCst)
    }

    /// Whether the stream of an endless response still exists.
    pub(super) fn streaming(&self) -> bool {
        // The test's probe is one holder; the gateway dropped its clone with the router.
        Arc::strong_count(&self.endless) > 1
    }

    fn endless(&self) -> Messages<v1::InvokeResponse> {
        let made = self.endless.clone();
        let chunks = stream::repeat_with(move || {
            made.fetch_add(1, Ordering::SeqCst);
            frame(Frame::Chunk(Bytes::from(vec![0; ENDLESS_CHUNK])))
        });
        let head = stream::iter([frame(Frame::Head(head(200)))]);
        head.chain(chunks).boxed()
    }
}

/// Bytes of one chunk of the endless response.
pub(super) const ENDLESS_CHUNK: usize = 64 * 1024;

fn frame(frame: Frame) -> Result<v1::InvokeResponse, Status> {
    Ok(v1::InvokeResponse { frame: Some(frame) })
}

fn head(status_code: i32) -> v1::InvokeHead {
    v1::InvokeHead {
        status_code,
        response_headers: [
            ("content-type", "text/plain"),
            ("content-length", "7"),
            ("connection", "close"),
            ("trailer", "x-sum"),
            ("x-ignite-error", "FORGED"),
            ("set-cookie", "a=1; Domain=localhost"),
            ("strict-transport-security", "max-age=9"),
            ("x-twice", "a"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into(),
        execution_id: "exec_1".to_owned(),
        raw_headers: vec![],
        repeated_headers: [("set-cookie", "b=2"), ("x-twice", "b")]
            .map(|(name, value)| v1::HeaderField {
                name: name.to_owned(),
                value: value.to_owned(),
                ..Default::default()
            })
            .into(),
    }
}

fn broken() -> Status {
    to_status(&Failure::new(Reason::ReplicaBroke, "the app died"), false)
}

/// Writes the methods that only answer UNIMPLEMENTED.
macro_rules! service {
    ({ $($own:tt)* } $($name:ident($input:ident) -> $output:ident,)*) => {
        #[tonic::async_trait]
        impl ComputeService for Probe {
            $($own)*
            $(async fn $name(
                &self,
                _: Request<v1::$input>,
            ) -> Result<Response<v1::$output>, Status> {
                Err(Status::unimplemented(stringify!($name)))
            })*
        }
    };
}

service! {
    {
        type InvokeStream = Messages<v1::InvokeResponse>;
        type WatchExecutionStream = Messages<v1::WatchExecutionResponse>;
        type StreamAppLogsStream = Messages<v1::LogLine>;
        type StreamAppEventsStream = Messages<v1::AppEvent>;
        type StreamCompileLogsStream = Messages<v1::CompileLogLine>;

        /// Fails without a token, else echoes the settings.
        async fn create_app(
            &self,
            request: Request<v1::CreateAppRequest>,
        ) -> Result<Response<v1::CreateAppResponse>, Status> {
            if request.metadata().get("authorization").is_none() {
                let failure = Failure::new(Reason::Unauthenticated, "no token");
                return Err(to_status(&failure, false));
            }
            let r = request.into_inner();
            Ok(Response::new(v1::CreateAppResponse {
                app_id: format!("{}/{}", r.organization_name, r.name),
                deployment_state: v1::DeploymentState::Created as i32,
                applied_tier: r.resource_tier,
                applied_limits: r.limits,
                draft: None,
            }))
        }

        async fn get_app(
            &self,
            request: Request<v1::GetAppRequest>,
        ) -> Result<Response<v1::GetAppResponse>, Status> {
            let r = request.into_inner();
            Ok(Response::new(v1::GetAppResponse {
                app: Some(v1::AppMeta {
                    id: format!("{}/{}", r.organization_name, r.app_name),
                    created_at_ms: 7,
                    ..Default::default()
                }),
            }))
        }

        /// Echoes page and cursor as an app.
        async fn list_apps(
            &self,
            request: Request<v1::ListAppsRequest>,
        ) -> Result<Response<v1::ListAppsResponse>, Status> {
            let r = request.into_inner();
            Ok(Response::new(v1::ListAppsResponse {
                apps: vec![],
                next_cursor: format!("{}|{}", r.limit, r.cursor),
            }))
        }

        async fn update_app_config(
            &self,
            request: Request<v1::UpdateAppConfigRequest>,
        ) -> Result<Response<v1::UpdateAppConfigResponse>, Status> {
            let r = request.into_inner();
            Ok(Response::new(v1::UpdateAppConfigResponse {
                app: Some(v1::AppMeta {
                    description: format!("{:?} {:?} {:?}", r.health_path, r.scaling, r.env),
                    ..Default::default()
                }),
                ..Default::default()
            }))
        }

        async fn get_app_code(
            &self,
            request: Request<v1::GetAppCodeRequest>,
        ) -> Result<Response<v1::GetAppCodeResponse>, Status> {
            let version = request.into_inner().version;
            Ok(Response::new(v1::GetAppCodeResponse { version, ..Default::default() }))
        }

        async fn invoke(
            &self,
            request: Request<v1::InvokeRequest>,
        ) -> Result<Response<Self::InvokeStream>, Status> {
            let r = request.into_inner();
            let path = r.http.unwrap_or_default().path;
            let trailer = Frame::Trailer(v1::InvokeTrailer {
                total_body_bytes: r.body.len() as i64,
                duration_ms: 12,
                trailers: [("x-sum", "9"), ("set-cookie", "c=3")]
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .into(),
            });
            let frames = match path.as_str() {
                "/endless" => return Ok(Response::new(self.endless())),
                "/refused" => return Err(broken()),
                "/fails-first" => vec![Err(broken())],
                "/dies" => vec![
                    frame(Frame::Head(head(200))),
                    frame(Frame::Chunk(Bytes::from_static(b"half"))),
                    Err(broken()),
                ],
                "/no-trailer" => vec![frame(Frame::Head(head(200)))],
                "/204" => vec![frame(Frame::Head(head(204))), frame(trailer)],
                "/204-dies" => vec![frame(Frame::Head(head(204))), Err(broken())],
                "/teapot" | "/" | "" => {
                    let status = if path == "/teapot" { 418 } else { 200 };
                    let middle = r.body.len() / 2;
                    vec![
                        frame(Frame::Head(head(status))),
                        frame(Frame::Chunk(r.body.slice(..middle))),
                        frame(Frame::Chunk(r.body.slice(middle..))),
                        frame(trailer),
                    ]
                }
                other => return Err(Status::not_found(other)),
            };
            Ok(Response::new(stream::iter(frames).boxed()))
        }

        async fn invoke_async(
            &self,
            request: Request<v1::InvokeRequest>,
        ) -> Result<Response<v1::InvokeAsyncResponse>, Status> {
            let body = request.into_inner().body;
            let execution_id = String::from_utf8_lossy(&body).into_owned();
            Ok(Response::new(v1::InvokeAsyncResponse { execution_id }))
        }

        /// Two updates, then an error for the execution "broken".
        async fn watch_execution(
            &self,
            request: Request<v1::WatchExecutionRequest>,
        ) -> Result<Response<Self::WatchExecutionStream>, Status> {
            let id = request.into_inner().execution_id;
            if id == "unknown" {
                let failure = Failure::new(Reason::NotFound, "no such execution");
                return Ok(Response::new(stream::iter([Err(to_status(&failure, false))]).boxed()));
            }
            let update = |status: v1::ExecutionStatus| {
                Ok(v1::WatchExecutionResponse {
                    execution: Some(v1::Execution {
                        status: status as i32,
                        ..Default::default()
                    }),
                    output_chunk: Bytes::new(),
                })
            };
            let mut all = vec![
                update(v1::ExecutionStatus::Running),
                update(v1::ExecutionStatus::Completed),
            ];
            if id == "broken" {
                all[1] = Err(broken());
            }
            Ok(Response::new(stream::iter(all).boxed()))
        }

        /// Silent forever.
        async fn stream_app_logs(
            &self,
            _: Request<v1::StreamAppLogsRequest>,
        ) -> Result<Response<Self::StreamAppLogsStream>, Status> {
            Ok(Response::new(stream::pending().boxed()))
        }

        async fn stream_app_events(
            &self,
            _: Request<v1::StreamAppEventsRequest>,
        ) -> Result<Response<Self::StreamAppEventsStream>, Status> {
            Err(Status::unimplemented("stream_app_events"))
        }

        async fn stream_compile_logs(
            &self,
            _: Request<v1::StreamCompileLogsRequest>,
        ) -> Result<Response<Self::StreamCompileLogsStream>, Status> {
            Err(Status::unimplemented("stream_compile_logs"))
        }
    }
    delete_app(DeleteAppRequest) -> DeleteAppResponse,
    get_app_state(GetAppStateRequest) -> GetAppStateResponse,
    save_draft(SaveDraftRequest) -> SaveDraftResponse,
    get_draft_info(GetDraftInfoRequest) -> GetDraftInfoResponse,
    compile_draft(CompileDraftRequest) -> CompileDraftResponse,
    test_draft(TestDraftRequest) -> TestDraftResponse,
    publish_draft(PublishDraftRequest) -> PublishDraftResponse,
    list_app_versions(ListAppVersionsRequest) -> ListAppVersionsResponse,
    get_app_version(GetAppVersionRequest) -> GetAppVersionResponse,
    test_app_version(TestAppVersionRequest) -> TestAppVersionResponse,
    rollback_app(RollbackAppRequest) -> RollbackAppResponse,
    get_execution(GetExecutionRequest) -> GetExecutionResponse,
    get_execution_stats(GetExecutionStatsRequest) -> GetExecutionStatsResponse,
    get_app_logs(GetAppLogsRequest) -> GetAppLogsResponse,
    get_app_events(GetAppEventsRequest) -> GetAppEventsResponse,
    list_app_replicas(ListAppReplicasRequest) -> ListAppReplicasResponse,
    get_build_log(GetBuildLogRequest) -> GetBuildLogResponse,
    health_check(HealthCheckRequest) -> HealthCheckResponse,
    list_catalog(ListCatalogRequest) -> ListCatalogResponse,
    list_public_catalog(ListPublicCatalogRequest) -> ListPublicCatalogResponse,
    get_public_catalog_detail(GetPublicCatalogDetailRequest) -> GetPublicCatalogDetailResponse,
    get_mcp_tool_definition(GetMcpToolDefinitionRequest) -> GetMcpToolDefinitionResponse,
    list_mcp_tools(ListMcpToolsRequest) -> ListMcpToolsResponse,
}
