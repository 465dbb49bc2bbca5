//! Limits of builds: the memory and CPU that the engine's classic builder may use for each step.
//!
//! The client library has fields of 32 bits for some of these and none for the cgroup, so they are
//! added to the request's query on its way.

use bollard::models::SystemInfo;
use http::Uri;

use super::{Error, client::Client};
use crate::engine::BuildLimits;

/// The period of the CPU quota in microseconds; the kernel's default.
const PERIOD: u64 = 100_000;
/// Least memory that a step can run with.
const LEAST_MEMORY: u64 = 64 * 1024 * 1024;
const LEAST_MILLICORES: u32 = 100;
/// The weight of a step when CPU is short; an app's container has the engine's default, 1024, and
/// so gets four times as much.
const CPU_SHARES: u32 = 256;

/// A client whose builds have the limits.
///
/// # Errors
/// [`Error::Refused`] when the limits are required and the engine cannot apply them.
pub(super) async fn put_on(
    docker: bollard::Docker,
    client: &Client,
    limits: &BuildLimits,
) -> Result<bollard::Docker, Error> {
    let system = client
        .run(
            "describe itself",
            |docker| async move { docker.info().await },
        )
        .await?;
    let query = query(limits, &system).map_err(|missing| Error::Refused {
        call: "build within limits",
        status: 0,
        message: format!(
            "it cannot limit the {missing} of builds, which --trust tenants needs; run the engine with cgroup controllers for memory and CPU"
        ),
    })?;
    let version = client.connector().version();
    // In place of the client's own modifier.
    Ok(docker.with_request_modifier(move |mut request| {
        if let Some(uri) = version.and_then(|version| version.put_before(request.uri())) {
            *request.uri_mut() = uri;
        }
        if request.uri().path().ends_with("/build")
            && let Some(uri) = extend(request.uri(), &query)
        {
            *request.uri_mut() = uri;
        }
        request
    }))
}

/// The limits in the engine's form. A limit that the engine has no controller for is left out,
/// since it would refuse the build.
///
/// # Errors
/// A limit that is required and that the engine cannot apply.
fn query(limits: &BuildLimits, system: &SystemInfo) -> Result<String, &'static str> {
    let can = |capability: Option<bool>| capability.unwrap_or(false);
    let shares = limits.shares.max(1);
    let mut query = String::new();
    if can(system.memory_limit) {
        let host = u64::try_from(system.mem_total.unwrap_or_default()).unwrap_or_default();
        let bytes = match limits.memory_bytes {
            0 => host / u64::from(shares),
            bytes => bytes,
        };
        let bytes = bytes.max(LEAST_MEMORY);
        query.push_str(&format!("&memory={bytes}"));
        if can(system.swap_limit) {
            query.push_str(&format!("&memswap={bytes}"));
        }
    } else if limits.required {
        return Err("memory");
    }
    if can(system.cpu_cfs_quota) {
        let host = u32::try_from(system.ncpu.unwrap_or(1)).unwrap_or(1).max(1);
        let host = host.saturating_mul(1000);
        let millicores = match limits.cpu_millicores {
            0 => host / shares,
            millicores => millicores.min(host),
        };
        let quota = u64::from(millicores.max(LEAST_MILLICORES)) * PERIOD / 1000;
        query.push_str(&format!("&cpuperiod={PERIOD}&cpuquota={quota}"));
    } else if limits.required {
        return Err("CPU time");
    }
    if can(system.cpu_shares) {
        query.push_str(&format!("&cpushares={CPU_SHARES}"));
    }
    if let Some(parent) = &limits.cgroup_parent {
        let parent =
            percent_encoding::utf8_percent_encode(parent, percent_encoding::NON_ALPHANUMERIC);
        query.push_str(&format!("&cgroupparent={parent}"));
    }
    Ok(query)
}

/// A URI with `query` added to its query.
fn extend(uri: &Uri, query: &str) -> Option<Uri> {
    let old = uri.path_and_query()?;
    let more = match old.query() {
        Some(_) => query,
        None => query.trim_start_matches('&'),
    };
    let sep = if old.query().is_some() { "" } else { "?" };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{old}{sep}{more}").parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> SystemInfo {
        SystemInfo {
            memory_limit: Some(true),
            swap_limit: Some(true),
            cpu_cfs_quota: Some(true),
            cpu_shares: Some(true),
            mem_total: Some(8 << 30),
            ncpu: Some(4),
            ..SystemInfo::default()
        }
    }

    #[test]
    fn limits_are_a_share_of_the_host_unless_they_are_set() {
        let of = |limits: &BuildLimits| query(limits, &host()).expect("possible");
        let two = BuildLimits {
            shares: 2,
            ..BuildLimits::default()
        };
        assert_eq!(
            of(&two),
            "&memory=4294967296&memswap=4294967296&cpuperiod=100000&cpuquota=200000&cpushares=256"
        );
        let set = BuildLimits {
            memory_bytes: 3 << 30,
            cpu_millicores: 9000,
            cgroup_parent: Some("/a b".to_owned()),
            ..two
        };
        assert_eq!(
            of(&set),
            "&memory=3221225472&memswap=3221225472&cpuperiod=100000&cpuquota=400000&cpushares=256&cgroupparent=%2Fa%20b"
        );
    }

    #[test]
    fn an_engine_that_cannot_limit_is_refused_where_limits_are_required() {
        let bare = SystemInfo::default();
        let mut limits = BuildLimits::default();
        assert_eq!(query(&limits, &bare).as_deref(), Ok(""));
        limits.required = true;
        assert_eq!(query(&limits, &bare), Err("memory"));
        let no_cpu = SystemInfo {
            cpu_cfs_quota: None,
            ..host()
        };
        assert_eq!(query(&limits, &no_cpu), Err("CPU time"));
        assert!(query(&limits, &host()).is_ok());
    }

    #[test]
    fn the_query_goes_behind_what_is_there() {
        let uri: Uri = "unix://2f76/v1.41/build?t=a".parse().expect("an address");
        let longer = extend(&uri, "&memory=1").expect("valid").to_string();
        assert!(longer.ends_with("/v1.41/build?t=a&memory=1"), "{longer}");
        assert!(longer.starts_with("unix://2f76"), "{longer}");
    }
}
