//! `dodil.ignite.local.v1.ExecutionService`: lists and cancels executions.

use tonic::{Request, Response, Status};

use super::{
    compute::Compute,
    proto::local::v1::{self as local, execution_service_server::ExecutionService},
};

/// The service.
pub struct Executions {
    compute: Compute,
}

impl Executions {
    /// The executions of the apps that `compute` knows.
    pub fn new(compute: Compute) -> Self {
        Self { compute }
    }
}

#[tonic::async_trait]
impl ExecutionService for Executions {
    async fn list_executions(
        &self,
        request: Request<local::ListExecutionsRequest>,
    ) -> Result<Response<local::ListExecutionsResponse>, Status> {
        Ok(Response::new(self.compute.list_executions(request).await?))
    }

    async fn cancel_execution(
        &self,
        request: Request<local::CancelExecutionRequest>,
    ) -> Result<Response<local::CancelExecutionResponse>, Status> {
        Ok(Response::new(self.compute.cancel(request).await?))
    }
}
