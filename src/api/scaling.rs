//! `dodil.ignite.local.v1.ScalingService`: moves replicas by hand, for tests and CI.

use std::{sync::Arc, time::Duration};

use tonic::{Request, Response, Status};

use super::{
    compute::{Compute, ForOwner, Refusal},
    proto::local::v1::{self, Depth, scaling_service_server::ScalingService},
};
use crate::{
    fleet::{Deployment, Snapshot, Until},
    gateway::unpublished,
    model::{AppId, Failure, Standby},
};

/// Longest wait of WaitApp when none is given.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Scaling {
    compute: Compute,
}

impl Scaling {
    /// A service over the apps of `compute`.
    pub fn new(compute: Compute) -> Self {
        Self { compute }
    }

    fn deployment<T>(
        &self,
        request: &Request<T>,
        org: &str,
        name: &str,
    ) -> Result<(AppId, Arc<Deployment>), Refusal> {
        let id = self.compute.owned(request, org, name)?;
        self.compute.apps.get(&id).for_owner()?;
        let found = self.compute.gateway.fleet.get(&id);
        let deployment = found.ok_or_else(|| unpublished(&id)).for_owner()?;
        Ok((id, deployment))
    }
}

#[tonic::async_trait]
impl ScalingService for Scaling {
    async fn scale_app(
        &self,
        request: Request<v1::ScaleAppRequest>,
    ) -> Result<Response<v1::ScaleAppResponse>, Status> {
        let r = request.get_ref();
        let (_, d) = self.deployment(&request, &r.organization_name, &r.app_name)?;
        d.scale(r.replicas).for_owner()?;
        let replicas = Some(to_wire(&d.snapshot()));
        Ok(Response::new(v1::ScaleAppResponse { replicas }))
    }

    async fn idle_app(
        &self,
        request: Request<v1::IdleAppRequest>,
    ) -> Result<Response<v1::IdleAppResponse>, Status> {
        let r = request.get_ref();
        let (_, d) = self.deployment(&request, &r.organization_name, &r.app_name)?;
        d.idle(depth("depth", r.depth).for_owner()?).for_owner()?;
        let replicas = Some(to_wire(&d.snapshot()));
        Ok(Response::new(v1::IdleAppResponse { replicas }))
    }

    async fn wait_app(
        &self,
        request: Request<v1::WaitAppRequest>,
    ) -> Result<Response<v1::WaitAppResponse>, Status> {
        let r = request.get_ref();
        let (_, d) = self.deployment(&request, &r.organization_name, &r.app_name)?;
        let until = match r.replicas {
            Some(n) => Until::Replicas(n),
            None => Until::Idle(depth("idle_at", r.idle_at).for_owner()?),
        };
        let limit = match r.timeout_secs {
            0 => DEFAULT_WAIT,
            n => Duration::from_secs(n.into()),
        };
        let reached = d.wait(until, limit).await.for_owner()?;
        let replicas = Some(to_wire(&reached));
        Ok(Response::new(v1::WaitAppResponse { replicas }))
    }

    async fn freeze_autoscaler(
        &self,
        request: Request<v1::FreezeAutoscalerRequest>,
    ) -> Result<Response<v1::FreezeAutoscalerResponse>, Status> {
        let r = request.get_ref();
        let (_, d) = self.deployment(&request, &r.organization_name, &r.app_name)?;
        d.pin(true).for_owner()?;
        let replicas = Some(to_wire(&d.snapshot()));
        Ok(Response::new(v1::FreezeAutoscalerResponse { replicas }))
    }

    async fn unfreeze_autoscaler(
        &self,
        request: Request<v1::UnfreezeAutoscalerRequest>,
    ) -> Result<Response<v1::UnfreezeAutoscalerResponse>, Status> {
        let r = request.get_ref();
        let (_, d) = self.deployment(&request, &r.organization_name, &r.app_name)?;
        d.pin(false).for_owner()?;
        let replicas = Some(to_wire(&d.snapshot()));
        Ok(Response::new(v1::UnfreezeAutoscalerResponse { replicas }))
    }

    async fn set_standby(
        &self,
        request: Request<v1::SetStandbyRequest>,
    ) -> Result<Response<v1::SetStandbyResponse>, Status> {
        let r = request.get_ref();
        let id = self
            .compute
            .owned(&request, &r.organization_name, &r.app_name)
            .map_err(Refusal::from)?;
        let standby = depth("depth", r.depth).for_owner()?;
        let set = self.compute.apps.update(id, move |settings| {
            settings.standby = standby;
            Ok(())
        });
        let (app, _) = set.await.for_owner()?;
        let depth = match app.settings.standby {
            None => Depth::Unspecified,
            Some(Standby::Pause) => Depth::Paused,
            Some(Standby::Prepared) => Depth::Prepared,
            Some(Standby::Absent) => Depth::Absent,
        };
        Ok(Response::new(v1::SetStandbyResponse {
            depth: depth.into(),
        }))
    }
}

fn depth(field: &str, wire: i32) -> Result<Option<Standby>, Failure> {
    match Depth::try_from(wire) {
        Ok(Depth::Unspecified) => Ok(None),
        Ok(Depth::Paused) => Ok(Some(Standby::Pause)),
        Ok(Depth::Prepared) => Ok(Some(Standby::Prepared)),
        Ok(Depth::Absent) => Ok(Some(Standby::Absent)),
        Err(_) => Err(Failure::field(
            field,
            format!("{wire} is no Depth; use DEPTH_PAUSED, DEPTH_PREPARED or DEPTH_ABSENT"),
        )),
    }
}

fn to_wire(s: &Snapshot) -> v1::Replicas {
    v1::Replicas {
        running: s.ready,
        starting: s.starting,
        desired: s.desired,
        paused: s.paused,
        prepared: s.prepared,
        in_flight: s.in_flight,
        held: s.held,
        frozen: s.pinned,
    }
}
