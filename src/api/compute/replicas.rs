//! Replicas and events of an app, as the fleet has them.

use futures_util::{StreamExt as _, stream, stream::BoxStream};
use tonic::{Request, Status};

use super::{Compute, ForOwner, Refusal};
use crate::{
    api::proto::v1,
    clock::unix_ms,
    fleet::{Event, ReplicaView},
    model::{Failure, Reason},
};

/// Events in one response when no limit is given.
const DEFAULT_EVENTS: usize = 100;

/// The stream of StreamAppEvents.
pub type EventStream = BoxStream<'static, Result<v1::AppEvent, Status>>;

impl Compute {
    pub(super) fn replicas(
        &self,
        request: &Request<v1::ListAppReplicasRequest>,
    ) -> Result<v1::ListAppReplicasResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(request, &r.organization_name, &r.app_name)?;
        self.apps.get(&id).for_owner()?;
        let deployment = self.gateway.fleet.find(&id);
        let replicas = deployment.map(|d| d.replicas()).unwrap_or_default();
        Ok(v1::ListAppReplicasResponse {
            replicas: replicas.into_iter().map(replica_to_wire).collect(),
        })
    }

    pub(super) fn app_events(
        &self,
        request: &Request<v1::GetAppEventsRequest>,
    ) -> Result<v1::GetAppEventsResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(request, &r.organization_name, &r.app_name)?;
        let limit = match count("limit", r.limit)? {
            0 => DEFAULT_EVENTS,
            n => n,
        };
        self.apps.get(&id).for_owner()?;
        let deployment = self.gateway.fleet.find(&id);
        let events = deployment.map(|d| d.events().newest(limit));
        Ok(v1::GetAppEventsResponse {
            events: events.into_iter().flatten().map(event_to_wire).collect(),
        })
    }

    pub(super) fn follow_events(
        &self,
        request: &Request<v1::StreamAppEventsRequest>,
    ) -> Result<EventStream, Refusal> {
        let r = request.get_ref();
        let id = self.owned(request, &r.organization_name, &r.app_name)?;
        let tail = count("tail", r.tail)?;
        self.apps.get(&id).for_owner()?;
        let deployment = self.gateway.fleet.find(&id).ok_or_else(|| {
            Refusal(
                Failure::new(
                    Reason::NotPublished,
                    format!("nothing happens to app {id} before its first version is published"),
                ),
                true,
            )
        })?;
        let follower = deployment.events().follow(tail);
        let batches = stream::unfold(follower, |mut follower| async {
            let events = follower.next().await?;
            Some((events, follower))
        });
        let events = batches.flat_map(|batch| stream::iter(batch.into_iter().map(event_to_wire)));
        Ok(events.map(Ok).boxed())
    }
}

fn count(field: &str, n: i32) -> Result<usize, Failure> {
    usize::try_from(n).map_err(|_| {
        Failure::field(
            field,
            format!("{n} is negative; give a number, or 0 for the default"),
        )
    })
}

fn event_to_wire(event: Event) -> v1::AppEvent {
    v1::AppEvent {
        timestamp_ms: unix_ms(event.at),
        r#type: event.kind.as_str().to_owned(),
        replica_id: event.replica.map(|r| r.to_string()).unwrap_or_default(),
        message: event.message,
        version: event.version,
        warning: event.kind.is_warning(),
    }
}

fn replica_to_wire(replica: ReplicaView) -> v1::Replica {
    v1::Replica {
        replica_id: replica.id.to_string(),
        state: replica.state.to_owned(),
        version: replica.version,
        in_flight: replica.in_flight,
        started_at_ms: replica.started_at.map(unix_ms).unwrap_or_default(),
        ready_at_ms: replica.ready_at.map(unix_ms).unwrap_or_default(),
        depth: replica.depth.to_owned(),
        address: replica.address.map(|a| a.to_string()).unwrap_or_default(),
        not_ready: replica.not_ready.unwrap_or_default(),
    }
}
