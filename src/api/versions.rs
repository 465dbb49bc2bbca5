//! `dodil.ignite.local.v1.VersionService`: removes versions.

use tonic::{Request, Response, Status};

use super::{
    compute::{Compute, ForOwner, Refusal},
    proto::local::v1::{self, version_service_server::VersionService},
};

/// The service.
pub struct Versions {
    compute: Compute,
}

impl Versions {
    /// The versions of the apps that `compute` knows.
    pub fn new(compute: Compute) -> Self {
        Self { compute }
    }
}

#[tonic::async_trait]
impl VersionService for Versions {
    async fn prune_versions(
        &self,
        request: Request<v1::PruneVersionsRequest>,
    ) -> Result<Response<v1::PruneVersionsResponse>, Status> {
        let r = request.get_ref();
        let id = self
            .compute
            .owned(&request, &r.organization_name, &r.app_name)
            .map_err(Refusal::from)?;
        let apps = &self.compute.apps;
        let (removed, kept) = apps.prune(id, r.keep, r.dry_run).await.for_owner()?;
        let kept = u32::try_from(kept).unwrap_or(u32::MAX);
        Ok(Response::new(v1::PruneVersionsResponse { removed, kept }))
    }
}
