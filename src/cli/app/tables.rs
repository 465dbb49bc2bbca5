//! Apps as tables for people.

use comfy_table::Table;

use crate::{
    api::proto::v1,
    cli::output::{self, or_dash, plain, rows, table, time},
};

fn state_name(state: i32) -> String {
    plain(
        v1::DeploymentState::try_from(state)
            .unwrap_or_default()
            .as_str_name(),
        "DEPLOYMENT_STATE",
    )
}

fn tier_name(tier: i32) -> String {
    plain(
        v1::ResourceTier::try_from(tier)
            .unwrap_or_default()
            .as_str_name(),
        "RESOURCE_TIER",
    )
}

fn version(version: u32) -> String {
    if version == 0 {
        "-".to_owned()
    } else {
        version.to_string()
    }
}

fn limits(limits: Option<&v1::ResourceLimits>) -> String {
    let limits = limits.cloned().unwrap_or_default();
    let (memory, cpu) = (
        limits.memory_mb.unwrap_or_default(),
        limits.cpu_millicores.unwrap_or_default(),
    );
    let parts: Vec<String> = [
        (memory, "MB"),
        (cpu, "millicores"),
        (limits.timeout_secs.unwrap_or_default(), "s per request"),
    ]
    .into_iter()
    .filter(|(value, _)| *value > 0)
    .map(|(value, unit)| format!("{value} {unit}"))
    .collect();
    parts.join(", ")
}

/// What CreateApp decided.
pub(super) fn created_table(created: &v1::CreateAppResponse) -> Table {
    rows(&[
        ("app", created.app_id.clone()),
        ("state", state_name(created.deployment_state)),
        ("tier", tier_name(created.applied_tier)),
        ("limits", limits(created.applied_limits.as_ref())),
    ])
}

/// Everything about one app, one setting per row.
pub(super) fn app_table(app: Option<&v1::AppMeta>) -> Table {
    let app = app.cloned().unwrap_or_default();
    let scaling = app.scaling.unwrap_or_default();
    let join = |items: Vec<String>| items.join(", ");
    let mut all = vec![
        ("app", app.id.clone()),
        ("state", state_name(app.deployment_state)),
        ("active version", version(app.active_version)),
        ("urls", join(app.public_urls.clone())),
        ("tier", tier_name(app.resource_tier)),
        ("limits", limits(app.limits.as_ref())),
        ("runtime", runtime(&app).to_owned()),
        (
            "ports",
            join(app.ports.iter().map(ToString::to_string).collect()),
        ),
        ("health path", app.health_path.clone()),
        ("reserved", scaling.reserved_capacity().to_string()),
        ("max replicas", scaling.max_replicas().to_string()),
        (
            "scale metric",
            plain(scaling.scale_metric().as_str_name(), "SCALE_METRIC"),
        ),
        ("scale threshold", scaling.scale_threshold().to_string()),
        (
            "scale down after",
            format!("{} s", scaling.scaledown_period_secs()),
        ),
        ("max concurrency", app.max_concurrency.to_string()),
        ("unauthenticated", app.allow_unauthenticated.to_string()),
        ("protocol", protocol(app.protocol()).to_owned()),
        ("cors origins", join(app.cors_origins.clone())),
        ("capabilities", join(app.capabilities.clone())),
        ("egress", app.egress.clone()),
        ("api access", app.api_access.to_string()),
        (
            "init",
            match v1::AppInit::try_from(app.init) {
                Ok(v1::AppInit::On) => "on",
                Ok(v1::AppInit::Off) => "off",
                _ => "auto",
            }
            .to_owned(),
        ),
        ("description", app.description.clone()),
        ("created", time(app.created_at_ms)),
        ("updated", time(app.updated_at_ms)),
    ];
    all.extend(
        app.env
            .iter()
            .map(|(key, value)| ("env", format!("{key}={value}"))),
    );
    rows(&all)
}

fn runtime(app: &v1::AppMeta) -> &'static str {
    let is_image = app.deployment_mode() == v1::DeploymentMode::Image;
    let language = output::runtime(app.runtime.as_ref());
    language.unwrap_or(if is_image { "image" } else { "" })
}

fn protocol(protocol: v1::AppProtocol) -> &'static str {
    match protocol {
        v1::AppProtocol::Unspecified => "auto",
        v1::AppProtocol::Http1 => "http1",
        v1::AppProtocol::H2c => "h2c",
    }
}

/// One app per row; `wide` adds columns.
pub(super) fn list_table(apps: &[v1::AppMeta], wide: bool) -> Table {
    let mut header = vec!["APP", "STATE", "VERSION", "TIER", "URL"];
    if wide {
        header.extend(["REPLICAS", "METRIC", "RUNTIME", "UPDATED"]);
    }
    let mut table = table(&header);
    for app in apps {
        let mut row = vec![
            app.id.clone(),
            state_name(app.deployment_state),
            version(app.active_version),
            tier_name(app.resource_tier),
            or_dash(app.public_urls.first().map_or("", String::as_str)).to_owned(),
        ];
        if wide {
            let scaling = app.scaling.unwrap_or_default();
            row.push(format!(
                "{}-{}",
                scaling.reserved_capacity(),
                scaling.max_replicas()
            ));
            row.push(plain(scaling.scale_metric().as_str_name(), "SCALE_METRIC"));
            row.push(or_dash(runtime(app)).to_owned());
            row.push(time(app.updated_at_ms));
        }
        table.add_row(row);
    }
    table
}

/// The current state of an app.
pub(super) fn state_table(state: &v1::GetAppStateResponse) -> Table {
    let mut all = vec![
        ("state", state_name(state.deployment_state)),
        ("active version", version(state.active_version)),
        (
            "replicas",
            format!(
                "{} running, {} starting, {} desired, {} in standby",
                state.running_replicas,
                state.starting_replicas,
                state.desired_replicas,
                state.standby_replicas
            ),
        ),
        (
            "requests",
            format!("{} in flight, {} held", state.in_flight, state.held),
        ),
        ("last request", time(state.last_request_at_ms)),
    ];
    if !state.not_ready.is_empty() {
        all.push(("not ready", state.not_ready.clone()));
    }
    if !state.last_error.is_empty() {
        all.push((
            "last error",
            format!("{} ({})", state.last_error, time(state.last_error_at_ms)),
        ));
    }
    rows(&all)
}
