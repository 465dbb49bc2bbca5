//! `dodil.ignite.local.v1.BuildService`: cancels builds.

use tonic::{Request, Response, Status};

use super::{
    compute::Compute,
    proto::local::v1::{self as local, build_service_server::BuildService},
};

/// The service.
pub struct Builds {
    compute: Compute,
}

impl Builds {
    /// The builds of the apps that `compute` knows.
    pub fn new(compute: Compute) -> Self {
        Self { compute }
    }
}

#[tonic::async_trait]
impl BuildService for Builds {
    async fn cancel_build(
        &self,
        request: Request<local::CancelBuildRequest>,
    ) -> Result<Response<local::CancelBuildResponse>, Status> {
        Ok(Response::new(self.compute.cancel_build(request).await?))
    }
}
