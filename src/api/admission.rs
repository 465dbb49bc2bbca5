//! Who may have the gRPC listener read a message at all: those whose token is good.
//!
//! Messages may be as large as code is, and are read whole before a method sees them. So the head
//! of a call is looked at first, as the JSON gateway does with requests that have a body. What the
//! caller may do is left to the methods, which find here who it is.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use tonic::service::Routes;

use super::status::to_status;
use crate::gateway::Gateway;

/// What the methods that need a token start with: reflection and gRPC's own health need none.
const OURS: &str = "/dodil.ignite.";
/// Needs none either, by the contract.
const HEALTH: &str = "/dodil.ignite.v1.ComputeService/HealthCheck";

/// The same services for callers that come through gRPC.
pub fn of_known_callers(services: Routes, gateway: &Arc<Gateway>) -> Routes {
    let router = services.into_axum_router();
    Routes::from(router.layer(from_fn_with_state(gateway.clone(), admit)))
}

async fn admit(State(gateway): State<Arc<Gateway>>, mut call: Request, next: Next) -> Response {
    let path = call.uri().path();
    if path.starts_with(OURS) && path != HEALTH {
        match gateway.caller(call.headers()) {
            Ok(caller) => call.extensions_mut().insert(caller),
            Err(failure) => return to_status(&failure, false).into_http(),
        };
    }
    next.run(call).await
}
