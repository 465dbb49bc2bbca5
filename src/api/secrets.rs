//! `SecretService`: takes the organization from the token, converts wire to model, makes one call,
//! and converts back.

use tonic::{Request, Response, Status};

use super::{
    compute::{Refusal, admitted},
    convert::Fields,
    pages,
    proto::v1::{self, secret_service_server::SecretService, secret_value},
};
use crate::{
    clock::now_ms,
    model::{
        Failure, OrgName, Reason,
        secret::{Kind, Sealed, SecretName, Value},
    },
    store::secrets,
};

/// The service.
pub struct Secrets {
    secrets: secrets::Secrets,
}

impl Secrets {
    /// The service over these secrets.
    pub fn new(secrets: secrets::Secrets) -> Self {
        Self { secrets }
    }

    /// The organization of the token, of which there must be exactly one.
    fn org<T>(&self, request: &Request<T>, secret: &str) -> Result<OrgName, Failure> {
        let admitted = admitted(request)?;
        match admitted.caller().orgs.as_slice() {
            [org] => {
                admitted.is_about(org, format!("secret {secret}"));
                admitted.check_org(org)?;
                Ok(org.clone())
            }
            orgs => {
                let names: Vec<_> = orgs.iter().map(OrgName::as_str).collect();
                Err(Failure::new(
                    Reason::PermissionDenied,
                    format!(
                        "the token is for {} organizations ({}), and a secret belongs to one; use a token of that organization alone",
                        names.len(),
                        names.join(", ")
                    ),
                ))
            }
        }
    }

    async fn create(
        &self,
        request: Request<v1::CreateSecretRequest>,
    ) -> Result<v1::CreateSecretResponse, Failure> {
        let org = self.org(&request, &request.get_ref().name)?;
        let r = request.into_inner();
        let mut fields = Fields::default();
        let name = fields.accept("name", r.name.parse::<SecretName>());
        let value = fields.accept("value", from_wire(r.value));
        if let Some(value) = &value {
            for wrong in value.check() {
                fields.add(wrong.field, wrong.description);
            }
        }
        fields.check()?;
        let (Some(name), Some(value)) = (name, value) else {
            return Err(Failure::new(Reason::Internal, "a checked field is missing"));
        };
        let secret = self.secrets.put(org, name, value, now_ms()).await?;
        Ok(v1::CreateSecretResponse {
            secret: Some(metadata(&secret)),
        })
    }

    async fn get(
        &self,
        request: Request<v1::GetSecretRequest>,
    ) -> Result<v1::GetSecretResponse, Failure> {
        let org = self.org(&request, &request.get_ref().name)?;
        let name = name(&request.get_ref().name)?;
        let (secret, value) = self.secrets.get(&org, &name).await?;
        Ok(v1::GetSecretResponse {
            secret: Some(metadata(&secret)),
            value: Some(to_wire(value)),
        })
    }

    fn list(
        &self,
        request: &Request<v1::ListSecretsRequest>,
    ) -> Result<v1::ListSecretsResponse, Failure> {
        let org = self.org(request, "")?;
        let r = request.get_ref();
        let limit = pages::size(r.limit)?;
        let after: Option<SecretName> = pages::parse_cursor(&r.cursor, "ListSecrets")?;
        // One entry more than asked for shows whether there is a next page.
        let found = self.secrets.page(&org, after.as_ref(), limit + 1);
        let (secrets, last) = pages::fill(&found, limit, |s| metadata(s));
        Ok(v1::ListSecretsResponse {
            secrets,
            next_cursor: pages::next_cursor(last.map(|s| &s.name)),
        })
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteSecretRequest>,
    ) -> Result<v1::DeleteSecretResponse, Failure> {
        let org = self.org(&request, &request.get_ref().name)?;
        let name = name(&request.get_ref().name)?;
        self.secrets.delete(org, name).await?;
        Ok(v1::DeleteSecretResponse {})
    }
}

fn name(text: &str) -> Result<SecretName, Failure> {
    text.parse()
        .map_err(|e| Failure::field("name", format!("{e}")))
}

fn from_wire(value: Option<v1::SecretValue>) -> Result<Value, &'static str> {
    match value.and_then(|v| v.value) {
        None => Err("is missing; give one of git_secret, registry_secret"),
        Some(secret_value::Value::GitSecret(s)) => Ok(Value {
            kind: Kind::Git,
            username: s.username,
            password: s.token,
            server_address: s.host,
        }),
        Some(secret_value::Value::RegistrySecret(s)) => Ok(Value {
            kind: Kind::Registry,
            username: s.username,
            password: s.password,
            server_address: s.server_address,
        }),
    }
}

fn to_wire(value: Value) -> v1::SecretValue {
    let value = match value.kind {
        Kind::Git => secret_value::Value::GitSecret(v1::GitSecret {
            username: value.username,
            token: value.password,
            host: value.server_address,
        }),
        Kind::Registry => secret_value::Value::RegistrySecret(v1::RegistrySecret {
            username: value.username,
            password: value.password,
            server_address: value.server_address,
        }),
    };
    v1::SecretValue { value: Some(value) }
}

fn metadata(secret: &Sealed) -> v1::SecretMetadata {
    v1::SecretMetadata {
        name: secret.name.to_string(),
        r#type: secret.kind.as_str().to_owned(),
        created_at_ms: secret.created_at_ms,
        updated_at_ms: secret.updated_at_ms,
    }
}

fn refuse(failure: Failure) -> Status {
    Refusal::for_owner(failure).into()
}

#[tonic::async_trait]
impl SecretService for Secrets {
    async fn create_secret(
        &self,
        request: Request<v1::CreateSecretRequest>,
    ) -> Result<Response<v1::CreateSecretResponse>, Status> {
        self.create(request)
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn get_secret(
        &self,
        request: Request<v1::GetSecretRequest>,
    ) -> Result<Response<v1::GetSecretResponse>, Status> {
        self.get(request).await.map(Response::new).map_err(refuse)
    }

    async fn list_secrets(
        &self,
        request: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::ListSecretsResponse>, Status> {
        self.list(&request).map(Response::new).map_err(refuse)
    }

    async fn delete_secret(
        &self,
        request: Request<v1::DeleteSecretRequest>,
    ) -> Result<Response<v1::DeleteSecretResponse>, Status> {
        self.delete(request)
            .await
            .map(Response::new)
            .map_err(refuse)
    }
}
