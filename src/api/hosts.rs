//! `dodil.ignite.local.v1.HostService`: host names that apps are given.

use tonic::{Request, Response, Status};

use super::{
    compute::{Compute, ForOwner, PublicUrls, Refusal},
    proto::local::v1::{self, host_service_server::HostService},
};
use crate::model::{Failure, host_name::HostName};

/// The service.
pub struct Hosts {
    compute: Compute,
}

impl Hosts {
    /// The hosts of the apps that `compute` knows.
    pub fn new(compute: Compute) -> Self {
        Self { compute }
    }
}

#[tonic::async_trait]
impl HostService for Hosts {
    async fn add_host(
        &self,
        request: Request<v1::AddHostRequest>,
    ) -> Result<Response<v1::AddHostResponse>, Status> {
        let r = request.get_ref();
        let Compute {
            apps,
            gateway,
            urls,
            ..
        } = &self.compute;
        let id = self
            .compute
            .owned(&request, &r.organization_name, &r.app_name)
            .map_err(Refusal::from)?;
        let host = name(&r.host).for_owner()?;
        let app = apps.get(&id).for_owner()?;
        let base = &gateway.hosts.base_domain;
        let own = app.labels().map(|(_, label)| format!("{label}.{base}"));
        gateway.hosts.check_given(&host, own).for_owner()?;
        apps.add_host(id, host.clone()).await.for_owner()?;
        Ok(Response::new(v1::AddHostResponse {
            host: Some(to_wire(&host, urls)),
        }))
    }

    async fn list_hosts(
        &self,
        request: Request<v1::ListHostsRequest>,
    ) -> Result<Response<v1::ListHostsResponse>, Status> {
        let r = request.get_ref();
        let id = self
            .compute
            .owned(&request, &r.organization_name, &r.app_name)
            .map_err(Refusal::from)?;
        let app = self.compute.apps.get(&id).for_owner()?;
        let urls = &self.compute.urls;
        Ok(Response::new(v1::ListHostsResponse {
            hosts: app.hosts.iter().map(|host| to_wire(host, urls)).collect(),
        }))
    }

    async fn remove_host(
        &self,
        request: Request<v1::RemoveHostRequest>,
    ) -> Result<Response<v1::RemoveHostResponse>, Status> {
        let r = request.get_ref();
        let id = self
            .compute
            .owned(&request, &r.organization_name, &r.app_name)
            .map_err(Refusal::from)?;
        let host = name(&r.host).for_owner()?;
        let apps = &self.compute.apps;
        apps.remove_host(id, host.clone()).await.for_owner()?;
        let host = host.to_string();
        Ok(Response::new(v1::RemoveHostResponse { host }))
    }
}

fn name(text: &str) -> Result<HostName, Failure> {
    text.parse()
        .map_err(|e: crate::model::id::InvalidName| Failure::field("host", e.to_string()))
}

fn to_wire(host: &HostName, urls: &PublicUrls) -> v1::AppHost {
    let port = urls.port.map(|port| format!(":{port}")).unwrap_or_default();
    v1::AppHost {
        host: host.to_string(),
        url: format!("{}://{host}{port}", urls.scheme),
    }
}
