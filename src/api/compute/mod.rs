//! `ComputeService`: checks who may call, converts wire to model, makes one call, and converts
//! back.
//!
//! JSON calls arrive here too, through the same generated service.

mod apps;
mod builds;
mod catalog;
mod executions;
mod invoke;
mod logs;
mod refusal;
mod replicas;
mod test_runs;
mod tools;
mod versions;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    authorization::{Admitted, unguarded},
    convert,
    limits::Limits,
    proto::v1::{self, compute_service_server::ComputeService},
};
use crate::{
    apps::Apps,
    clock::now_ms,
    fleet::EngineState,
    gateway::{Gateway, may_not_invoke},
    identity::Caller,
    logs::Logs,
    model::{AppId, Failure, OrgName, Reason},
    store::executions::Executions,
    test_runs::TestRuns,
};

pub use builds::CompileLogStream;
pub use executions::WatchStream;
pub use invoke::{InvokeStream, outbound};
pub use logs::LogsStream;
pub use replicas::EventStream;

pub(super) use refusal::{ForOwner, Refusal};

/// The form of public URLs.
#[derive(Debug, Clone)]
pub struct PublicUrls {
    /// `http` or `https`.
    pub scheme: String,
    /// The domain under which apps have their hosts.
    pub base_domain: String,
    /// The port to show; `None` for the scheme's default.
    pub port: Option<u16>,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Compute {
    /// The operations on apps.
    pub apps: Apps,
    /// Invokes apps, and holds the tokens' verifier.
    pub gateway: Arc<Gateway>,
    /// The form of public URLs.
    pub urls: Arc<PublicUrls>,
    /// Sizes of requests.
    pub limits: Limits,
    /// The asynchronous executions.
    pub executions: Executions,
    /// How long counts are kept per minute.
    pub retention: Duration,
    /// The logs of apps.
    pub app_logs: Logs,
    /// Tests of drafts and versions.
    pub test_runs: TestRuns,
    /// Most log lines in one response.
    pub log_max_lines: usize,
    /// Cancelled when the platform stops, which ends endless streams.
    pub stopping: CancellationToken,
}

impl Compute {
    /// The caller, whom the layer around the services has identified.
    fn caller<T>(&self, request: &Request<T>) -> Result<Arc<Caller>, Failure> {
        Ok(admitted(request)?.caller().clone())
    }

    /// The caller must belong to the organization, and may use the method for all of it.
    fn owner<T>(&self, request: &Request<T>, org: &OrgName) -> Result<(), Failure> {
        let admitted = admitted(request)?;
        admitted.is_about(org, org.to_string());
        belongs(admitted, org)?;
        admitted.check_org(org)
    }

    /// The caller must belong to the app's organization, and may use the method for the app.
    fn owner_of<T>(&self, request: &Request<T>, app: &AppId) -> Result<(), Failure> {
        let admitted = admitted(request)?;
        admitted.is_about(&app.org, app.to_string());
        belongs(admitted, &app.org)?;
        admitted.check_app(app)
    }

    /// The app that a request names, if the caller owns it. The token is checked first, so that an
    /// unknown caller learns nothing about names.
    pub(super) fn owned<T>(
        &self,
        request: &Request<T>,
        org: &str,
        name: &str,
    ) -> Result<AppId, Failure> {
        let id = convert::app_id(org, name)?;
        self.owner_of(request, &id)?;
        Ok(id)
    }

    fn health(&self) -> v1::HealthCheckResponse {
        let (status, engine) = match &*self.gateway.fleet.engine().borrow() {
            EngineState::Up(info) => ("ok", info.name.clone()),
            EngineState::Unknown => ("degraded", "not asked yet".to_owned()),
            EngineState::Down(why) => ("degraded", why.message.clone()),
        };
        v1::HealthCheckResponse {
            status: status.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine,
        }
    }

    /// The app of an Invoke, once the caller may invoke it, and whether the caller owns it.
    fn invocable(&self, caller: &Caller, org: &str, name: &str) -> Result<(AppId, bool), Failure> {
        let id = convert::app_id(org, name)?;
        if caller.may_invoke(&id) {
            let owner = caller.owns(&id.org);
            Ok((id, owner))
        } else {
            Err(may_not_invoke(caller, &id))
        }
    }
}

/// What the layer around the services has left in a call.
pub(super) fn admitted<T>(request: &Request<T>) -> Result<&Admitted, Failure> {
    request.extensions().get().ok_or_else(unguarded)
}

fn belongs(admitted: &Admitted, org: &OrgName) -> Result<(), Failure> {
    if admitted.caller().owns(org) {
        return Ok(());
    }
    Err(Failure::new(
        Reason::PermissionDenied,
        format!(
            "the token does not belong to organization {org}; use a token of that organization"
        ),
    ))
}

/// Defines RPC methods that only call the method of another file.
macro_rules! answered {
    ($($method:ident($request:ident) -> $response:ty, $by:ident;)*) => {
        $(fn $method<'life0, 'async_trait>(
            &'life0 self,
            request: Request<v1::$request>,
        ) -> BoxFuture<'async_trait, Result<Response<$response>, Status>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async move { Ok(Response::new(self.$by(request).await?)) })
        })*
    };
}

#[tonic::async_trait]
impl ComputeService for Compute {
    type InvokeStream = InvokeStream;
    type WatchExecutionStream = WatchStream;
    type StreamAppLogsStream = LogsStream;
    type StreamAppEventsStream = EventStream;
    type StreamCompileLogsStream = CompileLogStream;

    async fn create_app(
        &self,
        request: Request<v1::CreateAppRequest>,
    ) -> Result<Response<v1::CreateAppResponse>, Status> {
        Ok(Response::new(self.create(request).await?))
    }

    async fn get_app(
        &self,
        request: Request<v1::GetAppRequest>,
    ) -> Result<Response<v1::GetAppResponse>, Status> {
        let id = self
            .owned(
                &request,
                &request.get_ref().organization_name,
                &request.get_ref().app_name,
            )
            .map_err(Refusal::from)?;
        let app = self.apps.get(&id).for_owner()?;
        Ok(Response::new(v1::GetAppResponse {
            app: Some(self.meta(&app)),
        }))
    }

    async fn list_apps(
        &self,
        request: Request<v1::ListAppsRequest>,
    ) -> Result<Response<v1::ListAppsResponse>, Status> {
        Ok(Response::new(self.list(&request)?))
    }

    async fn update_app_config(
        &self,
        request: Request<v1::UpdateAppConfigRequest>,
    ) -> Result<Response<v1::UpdateAppConfigResponse>, Status> {
        Ok(Response::new(self.update(request).await?))
    }

    async fn delete_app(
        &self,
        request: Request<v1::DeleteAppRequest>,
    ) -> Result<Response<v1::DeleteAppResponse>, Status> {
        Ok(Response::new(self.delete(request).await?))
    }

    async fn get_app_state(
        &self,
        request: Request<v1::GetAppStateRequest>,
    ) -> Result<Response<v1::GetAppStateResponse>, Status> {
        let id = self
            .owned(
                &request,
                &request.get_ref().organization_name,
                &request.get_ref().app_name,
            )
            .map_err(Refusal::from)?;
        let app = self.apps.get(&id).for_owner()?;
        Ok(Response::new(convert::state_to_wire(
            &app,
            self.apps.snapshot(&id).as_ref(),
            now_ms(),
        )))
    }

    async fn publish_draft(
        &self,
        request: Request<v1::PublishDraftRequest>,
    ) -> Result<Response<v1::PublishDraftResponse>, Status> {
        Ok(Response::new(self.publish(request).await?))
    }

    async fn invoke(
        &self,
        request: Request<v1::InvokeRequest>,
    ) -> Result<Response<InvokeStream>, Status> {
        Ok(Response::new(self.start_invoke(request).await?))
    }

    async fn invoke_async(
        &self,
        request: Request<v1::InvokeRequest>,
    ) -> Result<Response<v1::InvokeAsyncResponse>, Status> {
        Ok(Response::new(self.submit(request).await?))
    }

    async fn get_execution(
        &self,
        request: Request<v1::GetExecutionRequest>,
    ) -> Result<Response<v1::GetExecutionResponse>, Status> {
        Ok(Response::new(self.execution(request).await?))
    }

    async fn watch_execution(
        &self,
        request: Request<v1::WatchExecutionRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        Ok(Response::new(self.watch(request).await?))
    }

    async fn get_execution_stats(
        &self,
        request: Request<v1::GetExecutionStatsRequest>,
    ) -> Result<Response<v1::GetExecutionStatsResponse>, Status> {
        Ok(Response::new(self.stats(request).await?))
    }

    async fn health_check(
        &self,
        _: Request<v1::HealthCheckRequest>,
    ) -> Result<Response<v1::HealthCheckResponse>, Status> {
        Ok(Response::new(self.health()))
    }

    async fn get_app_events(
        &self,
        request: Request<v1::GetAppEventsRequest>,
    ) -> Result<Response<v1::GetAppEventsResponse>, Status> {
        Ok(Response::new(self.app_events(&request)?))
    }

    async fn stream_app_events(
        &self,
        request: Request<v1::StreamAppEventsRequest>,
    ) -> Result<Response<EventStream>, Status> {
        Ok(Response::new(self.follow_events(&request)?))
    }

    async fn list_app_replicas(
        &self,
        request: Request<v1::ListAppReplicasRequest>,
    ) -> Result<Response<v1::ListAppReplicasResponse>, Status> {
        Ok(Response::new(self.replicas(&request)?))
    }

    answered! {
        list_catalog(ListCatalogRequest) -> v1::ListCatalogResponse, catalog;
        list_public_catalog(ListPublicCatalogRequest) -> v1::ListPublicCatalogResponse, public_catalog;
        get_public_catalog_detail(GetPublicCatalogDetailRequest) -> v1::GetPublicCatalogDetailResponse, public_item;
        list_app_versions(ListAppVersionsRequest) -> v1::ListAppVersionsResponse, list_versions;
        get_mcp_tool_definition(GetMcpToolDefinitionRequest) -> v1::GetMcpToolDefinitionResponse, tool;
        list_mcp_tools(ListMcpToolsRequest) -> v1::ListMcpToolsResponse, list_tools;
        get_app_version(GetAppVersionRequest) -> v1::GetAppVersionResponse, version;
        rollback_app(RollbackAppRequest) -> v1::RollbackAppResponse, roll_back;
        get_app_code(GetAppCodeRequest) -> v1::GetAppCodeResponse, code;
        test_draft(TestDraftRequest) -> v1::TestDraftResponse, run_draft;
        test_app_version(TestAppVersionRequest) -> v1::TestAppVersionResponse, run_version;
        get_app_logs(GetAppLogsRequest) -> v1::GetAppLogsResponse, logs;
        stream_app_logs(StreamAppLogsRequest) -> Self::StreamAppLogsStream, follow_logs;
        save_draft(SaveDraftRequest) -> v1::SaveDraftResponse, save;
        get_draft_info(GetDraftInfoRequest) -> v1::GetDraftInfoResponse, draft;
        compile_draft(CompileDraftRequest) -> v1::CompileDraftResponse, compile;
        get_build_log(GetBuildLogRequest) -> v1::GetBuildLogResponse, build_log;
        stream_compile_logs(StreamCompileLogsRequest) -> Self::StreamCompileLogsStream, follow_build;
    }
}
