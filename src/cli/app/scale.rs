//! `ignite app scale`, `idle` and `wait`: moves replicas by hand; only this platform has these
//! calls.

use std::time::Duration;

use crate::{
    api::proto::local::v1,
    cli::{Context, Error, id::AppArg, output::rows},
};

/// How much longer the answer to a wait may take than the wait's own limit, which the server
/// enforces.
const ANSWER: Duration = Duration::from_secs(10);

/// The depth of an idle app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum Depth {
    /// Frozen.
    Paused,
    /// Container and network are kept.
    Prepared,
    /// Torn down.
    Absent,
}

fn to_wire(depth: Option<Depth>) -> i32 {
    match depth {
        None => v1::Depth::Unspecified,
        Some(Depth::Paused) => v1::Depth::Paused,
        Some(Depth::Prepared) => v1::Depth::Prepared,
        Some(Depth::Absent) => v1::Depth::Absent,
    }
    .into()
}

/// Runs this many replicas now.
pub(super) async fn scale(context: &Context, id: AppArg, replicas: u32) -> Result<(), Error> {
    let app = context.app(id)?;
    let session = context.connect(&app.org).await?;
    let request = v1::ScaleAppRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        replicas,
    };
    let answer = session.answer(session.scaling().scale_app(request)).await?;
    print(context, "ScaleAppResponse", &answer, answer.replicas)
}

/// Scales the app to zero now.
pub(super) async fn idle(context: &Context, id: AppArg, depth: Option<Depth>) -> Result<(), Error> {
    let app = context.app(id)?;
    let session = context.connect(&app.org).await?;
    let request = v1::IdleAppRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        depth: to_wire(depth),
    };
    let answer = session.answer(session.scaling().idle_app(request)).await?;
    print(context, "IdleAppResponse", &answer, answer.replicas)
}

/// Waits for a number of replicas, or until the app is idle.
pub(super) async fn wait(
    context: &Context,
    id: AppArg,
    replicas: Option<u32>,
    depth: Option<Depth>,
    limit: Duration,
) -> Result<(), Error> {
    let app = context.app(id)?;
    let session = context
        .connect_for(&app.org, limit.saturating_add(ANSWER))
        .await?;
    let request = v1::WaitAppRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        replicas,
        idle_at: to_wire(depth),
        timeout_secs: u32::try_from(limit.as_secs().max(1)).unwrap_or(u32::MAX),
    };
    let answer = session.answer(session.scaling().wait_app(request)).await?;
    print(context, "WaitAppResponse", &answer, answer.replicas)
}

fn print<M: prost::Message>(
    context: &Context,
    name: &str,
    answer: &M,
    replicas: Option<v1::Replicas>,
) -> Result<(), Error> {
    let name = format!("dodil.ignite.local.v1.{name}");
    context.format.print(&name, answer, |_| {
        let r = replicas.unwrap_or_default();
        rows(&[
            ("running", r.running.to_string()),
            ("starting", r.starting.to_string()),
            ("desired", r.desired.to_string()),
            ("paused", r.paused.to_string()),
            ("prepared", r.prepared.to_string()),
            ("in flight", r.in_flight.to_string()),
            ("held", r.held.to_string()),
        ])
    })
}
