//! Who may have the gRPC listener read a message at all: those whose token is good.
//!
//! Messages may be as large as code is, and are read whole before a method sees them. So the head
//! of a call is looked at first, as the JSON gateway does with requests that have a body. What the
//! caller may do is left to the methods, which find here who it is.

use http::Request;

use crate::{gateway::Gateway, model::Failure};

/// What the methods that need a token start with: reflection and gRPC's own health need none.
const OURS: &str = "/dodil.ignite.";
/// Needs none either, by the contract.
const HEALTH: &str = "/dodil.ignite.v1.ComputeService/HealthCheck";

/// Looks at the head of a call; who calls goes on with it.
///
/// # Errors
/// UNAUTHENTICATED, for all but the methods that anybody may call.
pub(super) fn admit<B>(gateway: &Gateway, call: &mut Request<B>) -> Result<(), Failure> {
    let path = call.uri().path();
    if path.starts_with(OURS) && path != HEALTH {
        let caller = gateway.caller(call.headers())?;
        call.extensions_mut().insert(caller);
    }
    Ok(())
}
