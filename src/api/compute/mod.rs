//! `ComputeService`: who may call, wire to model, one call, model to wire.
//!
//! JSON calls arrive here too, through the same generated service.

mod builds;
mod catalog;
mod executions;
mod invoke;
mod logs;
pub(super) mod pages;
mod replicas;
mod test_runs;
mod versions;

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    convert::{self, Patch},
    json::Limits,
    proto::v1::{self, compute_service_server::ComputeService},
    status::to_status,
};
use crate::{
    apps::Apps,
    clock::now_ms,
    fleet::EngineState,
    gateway::{Gateway, not_yours},
    identity::Caller,
    logs::Logs,
    model::{
        App, AppId, AppName, Failure, OrgName, Reason, catalog::public_urls, settings::Settings,
    },
    store::executions::Executions,
    test_runs::TestRuns,
};

pub use builds::CompileLogStream;
pub use executions::WatchStream;
pub use invoke::{InvokeStream, outbound};
pub use logs::LogsStream;
pub use replicas::EventStream;

/// Entries on a page of a list when no limit is given, as the contract says.
const DEFAULT_PAGE: usize = 100;
/// Most entries on a page of a list.
const MAX_PAGE: usize = 1000;

/// How public URLs look.
#[derive(Debug, Clone)]
pub struct PublicUrls {
    /// `http` or `https`.
    pub scheme: String,
    /// The domain under which apps have their hosts.
    pub base_domain: String,
    /// The port to show; `None` for the scheme's own.
    pub port: Option<u16>,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Compute {
    /// The life of apps.
    pub apps: Apps,
    /// The way to apps, and the tokens' verifier.
    pub gateway: Arc<Gateway>,
    /// How public URLs look.
    pub urls: Arc<PublicUrls>,
    /// Sizes of requests.
    pub limits: Limits,
    /// The asynchronous executions.
    pub executions: Executions,
    /// How long counts are kept by the minute.
    pub retention: Duration,
    /// What the apps wrote.
    pub app_logs: Logs,
    /// Tests of drafts and versions.
    pub test_runs: TestRuns,
    /// Most lines of a log in one answer.
    pub log_max_lines: usize,
    /// Cancelled when the platform stops: streams without an end of their own end then.
    pub stopping: CancellationToken,
}

/// What a method comes to before it is a gRPC status; the flag says that the caller owns the
/// app and may read details.
pub(super) struct Refusal(Failure, bool);

impl Refusal {
    /// For a caller who may read the details.
    pub(super) fn for_owner(failure: Failure) -> Self {
        Refusal(failure, true)
    }
}

impl From<Failure> for Refusal {
    // Before the caller is known to own the app, details stay here.
    fn from(failure: Failure) -> Self {
        Refusal(failure, false)
    }
}

impl From<Refusal> for Status {
    fn from(Refusal(failure, owner): Refusal) -> Self {
        if failure.reason.http_status() >= 500 && failure.reason != Reason::Unimplemented {
            tracing::error!(
                reason = failure.reason.as_str(),
                "A call failed: {}",
                failure.text(true)
            );
        }
        to_status(&failure, owner)
    }
}

pub(super) trait ForOwner<T> {
    fn for_owner(self) -> Result<T, Refusal>;
}

impl<T> ForOwner<T> for Result<T, Failure> {
    fn for_owner(self) -> Result<T, Refusal> {
        self.map_err(|f| Refusal(f, true))
    }
}

impl Compute {
    fn caller<T>(&self, request: &Request<T>) -> Result<Arc<Caller>, Failure> {
        // Extensions are made in this process alone: the JSON gateway has looked already.
        match request.extensions().get::<Arc<Caller>>() {
            Some(known) => Ok(known.clone()),
            None => self.gateway.caller(request.metadata().as_ref()),
        }
    }

    /// The caller must belong to the organization.
    fn owner<T>(&self, request: &Request<T>, org: &OrgName) -> Result<(), Failure> {
        if self.caller(request)?.owns(org) {
            return Ok(());
        }
        Err(Failure::new(
            Reason::PermissionDenied,
            format!(
                "the token does not belong to organization {org}; use a token of that organization"
            ),
        ))
    }

    /// The app that a request names, once the caller is known to own it. Who is asking comes
    /// before what for, so that a stranger learns nothing of names.
    pub(super) fn owned<T>(
        &self,
        request: &Request<T>,
        org: &str,
        name: &str,
    ) -> Result<AppId, Failure> {
        self.caller(request)?;
        let id = convert::app_id(org, name)?;
        self.owner(request, &id.org)?;
        Ok(id)
    }

    fn public_urls(&self, app: &App) -> Vec<String> {
        if app.active_version == 0 {
            return Vec::new();
        }
        public_urls(
            app,
            &self.urls.scheme,
            &self.urls.base_domain,
            self.urls.port,
        )
    }

    fn meta(&self, app: &App) -> v1::AppMeta {
        convert::app_to_wire(
            app,
            self.apps.snapshot(&app.id).as_ref(),
            self.public_urls(app),
        )
    }

    async fn create(
        &self,
        request: Request<v1::CreateAppRequest>,
    ) -> Result<v1::CreateAppResponse, Refusal> {
        self.caller(&request)?;
        let id = convert::named(
            &request.get_ref().organization_name,
            "name",
            &request.get_ref().name,
        )?;
        self.owner(&request, &id.org)?;
        let mut r = request.into_inner();
        let mut settings = Settings::default();
        Patch::of_create(&mut r).apply(&mut settings)?;
        let source = r.code.map(|c| self.parse_code(Some(c))).transpose()?;
        let app = self.apps.create(id, settings, source).await.for_owner()?;
        Ok(v1::CreateAppResponse {
            app_id: app.id.to_string(),
            deployment_state: v1::DeploymentState::Created.into(),
            applied_tier: convert::tier_to_wire(app.settings.tier).into(),
            applied_limits: Some(convert::applied_limits(&app.settings)),
            draft: self.apps.view(&app).as_ref().map(convert::view_to_wire),
        })
    }

    fn list(
        &self,
        request: &Request<v1::ListAppsRequest>,
    ) -> Result<v1::ListAppsResponse, Refusal> {
        self.caller(request)?;
        let r = request.get_ref();
        let org = convert::org(&r.organization_name)?;
        self.owner(request, &org)?;
        let limit = page_size(r.limit)?;
        let after = parse_cursor(&r.cursor)?;
        // One more than asked for tells whether there is a next page.
        let found = self.apps.page(&org, after.as_ref(), limit + 1);
        let (apps, last) = pages::fill(&found, limit, |a| self.meta(a));
        Ok(v1::ListAppsResponse {
            apps,
            next_cursor: next_cursor(last),
        })
    }

    async fn update(
        &self,
        request: Request<v1::UpdateAppConfigRequest>,
    ) -> Result<v1::UpdateAppConfigResponse, Refusal> {
        let id = self.owned(
            &request,
            &request.get_ref().organization_name,
            &request.get_ref().app_name,
        )?;
        let patch = Patch::of_update(request.into_inner())?;
        let (app, warnings) = self
            .apps
            .update(id, move |settings| patch.apply(settings))
            .await
            .for_owner()?;
        Ok(v1::UpdateAppConfigResponse {
            app: Some(self.meta(&app)),
            warnings,
        })
    }

    async fn publish(
        &self,
        request: Request<v1::PublishDraftRequest>,
    ) -> Result<v1::PublishDraftResponse, Refusal> {
        let id = self.owned(
            &request,
            &request.get_ref().organization_name,
            &request.get_ref().app_name,
        )?;
        let checked = !request.get_ref().skip_ready_check;
        let published = self.apps.publish(id, checked).await.for_owner()?;
        let app = &published.app;
        Ok(v1::PublishDraftResponse {
            version: Some(convert::version_to_wire(app, &published.version)),
            public_urls: self.public_urls(app),
            warnings: published.warnings,
        })
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteAppRequest>,
    ) -> Result<v1::DeleteAppResponse, Refusal> {
        let id = self.owned(
            &request,
            &request.get_ref().organization_name,
            &request.get_ref().app_name,
        )?;
        let app_id = id.to_string();
        self.apps.delete(id).await.for_owner()?;
        Ok(v1::DeleteAppResponse { app_id })
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

    /// The app of an Invoke, once the caller may invoke it; and whether the caller owns it.
    fn invocable(&self, caller: &Caller, org: &str, name: &str) -> Result<(AppId, bool), Failure> {
        let id = convert::app_id(org, name)?;
        if caller.may_invoke(&id) {
            let owner = caller.owns(&id.org);
            Ok((id, owner))
        } else {
            Err(not_yours(&id))
        }
    }
}

/// How many entries a page has for this `limit`.
pub(in crate::api) fn page_size(limit: i32) -> Result<usize, Failure> {
    match limit {
        0 => Ok(DEFAULT_PAGE),
        n => usize::try_from(n).map(|n| n.min(MAX_PAGE)).map_err(|_| {
            Failure::field(
                "limit",
                format!("{n} is negative; give 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}"),
            )
        }),
    }
}

/// What asks for the page after this app; empty after the last page.
fn next_cursor(last: Option<&Arc<App>>) -> String {
    last.map_or_else(String::new, |last| {
        URL_SAFE_NO_PAD.encode(last.id.name.as_str())
    })
}

fn parse_cursor(cursor: &str) -> Result<Option<AppName>, Failure> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let name = URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok());
    name.map(Some).ok_or_else(|| {
        Failure::field(
            "cursor",
            "was not made by this method; pass on next_cursor as it came, or leave it out",
        )
    })
}

/// Methods whose file has a method that does all of it.
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
        get_public_catalog_detail(GetPublicCatalogDetailRequest) -> v1::GetPublicCatalogDetailResponse, public_entry;
        list_app_versions(ListAppVersionsRequest) -> v1::ListAppVersionsResponse, list_versions;
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
