//! `SecretService`: declared, and not built yet.

use tonic::{Request, Response, Status};

use super::{
    compute::{Compute, unbuilt},
    proto::v1::{self, secret_service_server::SecretService},
};

/// The service.
pub struct Secrets {
    compute: Compute,
}

impl Secrets {
    /// Secrets for the callers that `compute` knows.
    pub fn new(compute: Compute) -> Self {
        Self { compute }
    }
}

#[tonic::async_trait]
impl SecretService for Secrets {
    async fn create_secret(
        &self,
        request: Request<v1::CreateSecretRequest>,
    ) -> Result<Response<v1::CreateSecretResponse>, Status> {
        Err(unbuilt(&self.compute, &request, "CreateSecret"))
    }

    async fn get_secret(
        &self,
        request: Request<v1::GetSecretRequest>,
    ) -> Result<Response<v1::GetSecretResponse>, Status> {
        Err(unbuilt(&self.compute, &request, "GetSecret"))
    }

    async fn list_secrets(
        &self,
        request: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::ListSecretsResponse>, Status> {
        Err(unbuilt(&self.compute, &request, "ListSecrets"))
    }

    async fn delete_secret(
        &self,
        request: Request<v1::DeleteSecretRequest>,
    ) -> Result<Response<v1::DeleteSecretResponse>, Status> {
        Err(unbuilt(&self.compute, &request, "DeleteSecret"))
    }
}
