//! The API's services, behind the JSON router and the gRPC listener.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::Router;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::{
    base::Base,
    clamp, health,
    parts::{anonymous, buffers, test_run_bounds},
    platform::Platform,
};
use crate::{
    api::{
        self,
        anonymous::AnonymousCalls,
        authorization,
        buffers::Buffers,
        compute::{Compute, PublicUrls},
        grpc::Grpc,
        json,
        limits::Limits,
        mcp, oauth,
        proto::{
            self,
            local::v1::{
                build_service_server::BuildServiceServer, dev_service_server::DevServiceServer,
                execution_service_server::ExecutionServiceServer,
                host_service_server::HostServiceServer,
                scaling_service_server::ScalingServiceServer,
                version_service_server::VersionServiceServer,
            },
            v1::{
                compute_service_server::ComputeServiceServer,
                secret_service_server::SecretServiceServer,
            },
        },
        scaling::Scaling,
        secrets::Secrets as SecretsApi,
    },
    config::Config,
    gateway::peer::ClientAddress,
    logs::Logs,
    store::secrets::Secrets,
    test_runs::TestRuns,
    tls::Tls,
};

/// The API's services with their bounds, which both listeners share.
pub(super) struct Endpoints {
    services: Routes,
    compute: Compute,
    limits: Limits,
    buffers: Buffers,
    anonymous: Arc<AnonymousCalls>,
}

impl Endpoints {
    /// Makes the services. `urls` is how public URLs look; endless streams end once `stopping` is
    /// cancelled.
    pub(super) async fn new(
        base: &Base,
        platform: &Platform,
        urls: PublicUrls,
        stopping: CancellationToken,
    ) -> Self {
        let config = &base.config;
        let limits = limits(config);
        let compute = compute(base, platform, limits, urls, stopping);
        Self {
            services: authorization::guard(
                services(compute.clone(), base.stores.secrets.clone(), limits).await,
                platform.gateway.clone(),
                base.stores.audit.clone(),
            ),
            compute,
            limits,
            buffers: buffers(config, limits.json_bytes()),
            anonymous: AnonymousCalls::new(anonymous(config)),
        }
    }

    /// The JSON API, and the MCP endpoint and the health paths beside it.
    pub(super) fn router(&self, base: &Base, platform: &Platform, tls: Option<Tls>) -> Router {
        let gateway = platform.gateway.clone();
        let admit: json::Admit = Arc::new(move |parts| {
            let from = parts.extensions.get::<ClientAddress>();
            let from = from.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |c| c.0);
            let caller = gateway.caller(&parts.headers, from)?;
            parts.extensions.insert(caller);
            Ok(())
        });
        json::router(
            self.services.clone(),
            self.limits,
            self.buffers.clone(),
            admit,
            self.anonymous.clone(),
        )
        .merge(mcp::router(
            self.compute.clone(),
            self.buffers.clone(),
            clamp(base.config.mcp_message_bytes),
        ))
        .merge(tokens(base))
        .merge(health::router(
            platform.fleet.clone(),
            base.stores.store.clone(),
            base.stores.executions.clone(),
            base.vitals.clone(),
            tls,
        ))
        .fallback(health::no_route)
    }

    /// The gRPC API, for the gRPC listener.
    pub(super) fn into_grpc(self, platform: &Platform) -> Arc<Grpc> {
        Arc::new(Grpc::new(
            self.services,
            self.limits,
            platform.gateway.clone(),
            self.anonymous,
            self.buffers,
        ))
    }
}

/// The token endpoint, which any listener may serve.
pub(super) fn tokens(base: &Base) -> Router {
    let public_url = base.config.public_url.clone();
    oauth::router(base.stores.provider.clone(), public_url)
}

fn limits(config: &Config) -> Limits {
    Limits {
        max_body_bytes: clamp(config.max_body_bytes),
        max_code_bytes: clamp(config.max_code_bytes),
        decode_concurrency: config.decode_concurrency,
    }
}

fn compute(
    base: &Base,
    platform: &Platform,
    limits: Limits,
    urls: PublicUrls,
    stopping: CancellationToken,
) -> Compute {
    let config = &base.config;
    let Platform {
        apps,
        fleet,
        gateway,
        ..
    } = platform;
    let log_bytes = clamp(config.log_max_bytes);
    let app_logs = Logs::new(apps.clone(), fleet.clone(), base.engine.clone(), log_bytes);
    let test_runs = TestRuns::new(
        apps.clone(),
        gateway.clone(),
        app_logs.clone(),
        test_run_bounds(config),
    );
    Compute {
        apps: apps.clone(),
        gateway: gateway.clone(),
        urls: Arc::new(urls),
        limits,
        executions: base.stores.executions.clone(),
        retention: config.execution_retention,
        app_logs,
        test_runs,
        log_max_lines: config.log_max_lines,
        stopping,
    }
}

async fn services(compute: Compute, secrets: Secrets, limits: Limits) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_serving::<ComputeServiceServer<Compute>>()
        .await;
    let (reflection, reflection_alpha) = proto::reflection_services();
    let secrets = SecretsApi::new(secrets);
    let executions = api::executions::Executions::new(compute.clone());
    let scaling = Scaling::new(compute.clone());
    let builds = api::builds::Builds::new(compute.clone());
    let dev = api::dev::Dev::new(compute.clone());
    let hosts = api::hosts::Hosts::new(compute.clone());
    let versions = api::versions::Versions::new(compute.clone());
    Routes::new(ComputeServiceServer::new(compute).max_decoding_message_size(limits.grpc_bytes()))
        .add_service(SecretServiceServer::new(secrets))
        .add_service(ExecutionServiceServer::new(executions))
        .add_service(ScalingServiceServer::new(scaling))
        .add_service(BuildServiceServer::new(builds))
        .add_service(DevServiceServer::new(dev).max_decoding_message_size(limits.grpc_bytes()))
        .add_service(HostServiceServer::new(hosts))
        .add_service(VersionServiceServer::new(versions))
        .add_service(health)
        .add_service(reflection)
        .add_service(reflection_alpha)
}
