//! `dodil.ignite.local.v1.DevService`: what `ignite dev` needs beyond the Ignite API.

use tonic::{Request, Response, Status};

use super::{
    compute::{Compute, ForOwner, Refusal},
    convert,
    proto::local::v1::{self, dev_service_server::DevService},
};
use crate::apps::{Apps, Changes};

/// The service.
pub struct Dev {
    compute: Compute,
}

impl Dev {
    /// Development sessions of the apps that `compute` knows.
    pub fn new(compute: Compute) -> Self {
        Self { compute }
    }
}

#[tonic::async_trait]
impl DevService for Dev {
    async fn get_dev_support(
        &self,
        request: Request<v1::GetDevSupportRequest>,
    ) -> Result<Response<v1::GetDevSupportResponse>, Status> {
        let r = request.get_ref();
        self.compute
            .owned(&request, &r.organization_name, &r.app_name)
            .map_err(Refusal::from)?;
        let rules = self.compute.apps.dev_rules();
        Ok(Response::new(v1::GetDevSupportResponse {
            syncs: rules.syncs,
            opens: rules.opens,
            sync_bytes: Apps::sync_bytes() as u64,
        }))
    }

    async fn sync_draft(
        &self,
        request: Request<v1::SyncDraftRequest>,
    ) -> Result<Response<v1::SyncDraftResponse>, Status> {
        let r = request.get_ref();
        let id = self
            .compute
            .owned(&request, &r.organization_name, &r.app_name)
            .map_err(Refusal::from)?;
        let r = request.into_inner();
        let changes = Changes {
            version: r.version,
            path: r.path,
            files: r.changes,
        };
        let published = self.compute.apps.sync(id, changes).await.for_owner()?;
        let app = &published.app;
        Ok(Response::new(v1::SyncDraftResponse {
            version: Some(convert::version_to_wire(app, &published.version)),
            public_urls: self.compute.public_urls(app),
            warnings: published.warnings,
        }))
    }

    async fn drop_version(
        &self,
        request: Request<v1::DropVersionRequest>,
    ) -> Result<Response<v1::DropVersionResponse>, Status> {
        let r = request.get_ref();
        let id = self
            .compute
            .owned(&request, &r.organization_name, &r.app_name)
            .map_err(Refusal::from)?;
        let number = r.version;
        let dropped = self.compute.apps.drop_version(id, number).await;
        dropped.for_owner()?;
        Ok(Response::new(v1::DropVersionResponse {}))
    }

    async fn stop_dev(
        &self,
        request: Request<v1::StopDevRequest>,
    ) -> Result<Response<v1::StopDevResponse>, Status> {
        let r = request.get_ref();
        let id = self
            .compute
            .owned(&request, &r.organization_name, &r.app_name)
            .map_err(Refusal::from)?;
        self.compute.apps.stop_dev(&id).await.for_owner()?;
        Ok(Response::new(v1::StopDevResponse {}))
    }
}
