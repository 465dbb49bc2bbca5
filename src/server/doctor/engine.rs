//! The checks of the container engine.

use super::{Check, PATIENCE};
use crate::{
    clock,
    config::Config,
    engine::{
        Abilities, Engine as _, Info, Lack,
        docker::{self, Docker},
    },
    model::InstanceId,
};

/// The oldest version of the API that the tests ever ran against: Docker 20.10.
const OLDEST_TRIED: &str = "1.41";
/// More than two clocks of one machine differ, and less than what spoils timestamps.
const CLOCK_SKEW_MS: u64 = 5_000;

/// Asks the engine for its description and judges it.
pub(super) async fn checks(config: &Config) -> Vec<Check> {
    let docker = match client(config) {
        Ok(docker) => docker,
        Err(check) => return vec![check],
    };
    let place = format!("{} ({})", docker.address(), docker.chosen());
    match docker.info().await {
        Ok(info) => {
            let found = format!("{} at {place}", info.name);
            let mut checks = vec![Check::ok("engine", found)];
            checks.extend(of_abilities(config, &info.abilities));
            checks.extend(time(&info));
            checks
        }
        Err(error) => vec![Check::fail(
            "engine",
            error.to_string(),
            format!("it was asked at {place}; --docker-host chooses another"),
        )],
    }
}

fn client(config: &Config) -> Result<Docker, Check> {
    let remedy = "see the manual on where the engine is";
    let failed = |cause: String| Check::fail("engine", cause, remedy);
    let seal = docker::Seal::for_this_run()
        .ok_or_else(|| failed("the system gives no random bytes".to_owned()))?;
    // No container is made, so any identity will do.
    let nobody = InstanceId::from_random(0);
    let settings = docker::Config {
        host: config.docker_host.clone(),
        runtime: config.runtime.clone(),
        info_timeout: PATIENCE,
        ..docker::Config::new(nobody, config.data_dir.clone(), seal)
    };
    Docker::new(settings).map_err(|error| failed(error.to_string()))
}

fn of_abilities(config: &Config, able: &Abilities) -> Vec<Check> {
    let mut checks = vec![api(able), cgroups(able)];
    let lacks = able.lacks();
    let limits: Vec<_> = lacks.iter().filter(|lack| lack.is_of_apps()).collect();
    if limits.is_empty() {
        checks.push(Check::ok(
            "limits",
            "memory, CPU time and processes of apps are limited",
        ));
    }
    for lack in limits {
        let refused = config.trust.isolates_organizations() && lack.endangers_neighbours();
        let check = if refused { Check::fail } else { Check::warn };
        checks.push(check("limits", lack.to_string(), able.remedy()));
    }
    checks.push(if able.limits.memory && able.limits.swap {
        Check::ok("swap", "apps get no swap beside their memory")
    } else {
        Check::warn(
            "swap",
            "the engine cannot limit swap, so an app may use the machine's beside its memory",
            "turn swap off, or boot with swapaccount=1 where only that is missing",
        )
    });
    checks.push(if lacks.contains(&Lack::Freezer) {
        Check::warn("freezer", Lack::Freezer.to_string(), able.remedy())
    } else {
        Check::ok("freezer", "idle replicas can be frozen")
    });
    checks.push(if able.has_init {
        Check::ok("init", "the engine has an init for apps that ask for one")
    } else {
        Check::warn(
            "init",
            "the engine has no init: an app's own program is the first process, also where its owner asks for an init",
            "install docker-init (tini), or catatonit for Podman, where it matters",
        )
    });
    checks
}

fn api(able: &Abilities) -> Check {
    let (least, newest) = &able.api;
    let found = format!("{}, of the engine's {least} to {newest}", able.api_used);
    let parse = |text: &str| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    if parse(&able.api_used) < parse(OLDEST_TRIED) {
        let remedy = format!("nothing before {OLDEST_TRIED} was ever tried; use a newer engine");
        return Check::warn("api", found, remedy);
    }
    Check::ok("api", found)
}

fn cgroups(able: &Abilities) -> Check {
    let version = able
        .cgroup_version
        .map_or_else(|| "unknown".to_owned(), |version| version.to_string());
    let who = if able.rootless { "rootless" } else { "root" };
    Check::ok(
        "cgroups",
        format!(
            "version {version}, driver {:?}, engine {who}, storage {}, runtimes {}",
            able.cgroup_driver,
            able.storage_driver,
            able.runtimes.join(" ")
        ),
    )
}

/// Compares the engine's clock with this process's: leases and logs are compared across both.
fn time(info: &Info) -> Option<Check> {
    let ahead = info.time_ms?.abs_diff(clock::now_ms());
    Some(if ahead > CLOCK_SKEW_MS {
        Check::warn(
            "clock",
            format!(
                "the engine's clock and this one differ by {} s",
                ahead / 1000
            ),
            "synchronize both (NTP); a virtual machine that slept keeps the old time until then",
        )
    } else {
        Check::ok("clock", "the engine's clock agrees with this one")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::Limits, model::Trust, server::doctor::Outcome};

    #[test]
    fn a_missing_limit_is_a_warning_and_a_failure_where_organizations_share_the_engine() {
        let able = Abilities {
            limits: Limits {
                cpu: false,
                ..Limits::ALL
            },
            ..Abilities::all()
        };
        for (trust, outcome) in [
            (Trust::Sandbox, Outcome::Warn),
            (Trust::Tenants, Outcome::Fail),
        ] {
            let mut config = Config::defaults("/data".into());
            config.trust = trust;
            let checks = of_abilities(&config, &able);
            let limits: Vec<_> = checks.iter().filter(|c| c.name == "limits").collect();
            assert_eq!(limits.len(), 1);
            assert_eq!(limits[0].outcome, outcome);
            assert!(limits[0].found.contains("CPU") && !limits[0].remedy.is_empty());
        }
        let whole = of_abilities(&Config::defaults("/data".into()), &Abilities::all());
        assert!(whole.iter().all(|check| check.outcome == Outcome::Ok));
    }

    #[test]
    fn an_engine_older_than_any_that_was_tried_is_warned_of() {
        let mut able = Abilities::all();
        assert_eq!(api(&able).outcome, Outcome::Ok);
        able.api_used = "1.40".to_owned();
        assert_eq!(api(&able).outcome, Outcome::Warn);
    }
}
