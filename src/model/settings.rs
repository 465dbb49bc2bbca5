//! The settings of an app, and which values are valid.

use std::{collections::BTreeMap, time::Duration};

use super::{
    capability::Capabilities,
    egress::Egress,
    failure::FieldViolation,
    host,
    process::Init,
    reach::{CORS_NONE, MAX_CORS_ORIGINS, Protocol, check_origin},
    scaling::Scaling,
    schema,
    standby::Standby,
    work::Cancelled,
};

/// The ports of an app whose owner sets none.
pub const DEFAULT_PORTS: [u16; 1] = [host::DEFAULT_PORT];
/// The contract's default health path.
pub const DEFAULT_HEALTH_PATH: &str = "/healthz";
/// The most ports of one app; each costs a URL and, where replicas are published, a host port.
pub const MAX_PORTS: usize = 16;
/// The most environment variables of one app.
pub const MAX_ENV: usize = 512;
/// The most bytes in all names and values of the environment: below the kernel's 128 KiB per string
/// and well below its limit for all of them together.
pub const MAX_ENV_BYTES: usize = 96 * 1024;
/// The longest name of an environment variable in bytes.
pub const MAX_ENV_NAME_BYTES: usize = 256;
/// The longest health path in bytes, query included.
pub const MAX_HEALTH_PATH_BYTES: usize = 1024;
/// The longest description in bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 4 * 1024;
/// The least memory that the engine accepts for a container (6 MiB).
pub const MIN_MEMORY_MB: u32 = 6;
/// The most memory that can be set: 1 TiB, more than any machine this runs on.
pub const MAX_MEMORY_MB: u32 = 1024 * 1024;
/// The least CPU: a hundredth of a core, the engine's own granularity.
pub const MIN_CPU_MILLICORES: u32 = 10;
/// The most CPU that can be set; the engine clamps it to the host's.
pub const MAX_CPU_MILLICORES: u32 = 1_024_000;
/// The longest app timeout: a day.
pub const MAX_TIMEOUT_SECS: u32 = 86_400;
/// Longest time that files are kept for by [`StorageMode::Ttl`]: ten years.
pub const MAX_STORAGE_TTL_SECS: u32 = 10 * 365 * 86_400;
/// The most requests at once per replica that can be set.
pub const MAX_CONCURRENCY: u32 = 100_000;

/// A named size of replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tier {
    /// 256 MB, a quarter of a core.
    Small,
    /// 512 MB, half a core: the platform's figures, and the default.
    #[default]
    Medium,
    /// 1 GB, one core.
    Large,
    /// 2 GB, two cores.
    XLarge,
}

impl Tier {
    /// Memory in MB and CPU in thousandths of a core.
    pub const fn size(self) -> (u32, u32) {
        match self {
            Tier::Small => (256, 250),
            Tier::Medium => (512, 500),
            Tier::Large => (1024, 1000),
            Tier::XLarge => (2048, 2000),
        }
    }
}

/// Explicit limits; 0 leaves the value of the tier (or the platform).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Memory in MB.
    pub memory_mb: u32,
    /// CPU in thousandths of a core.
    pub cpu_millicores: u32,
    /// Longest time for one request in seconds, without the cold start.
    pub timeout_secs: u32,
}

/// How long an app's files live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StorageMode {
    /// Deleted with the replica.
    #[default]
    Ephemeral,
    /// Kept for the app.
    Persistent,
    /// Kept for a time.
    Ttl,
}

/// Everything that an owner can set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The size of a replica.
    pub tier: Tier,
    /// Limits that override the tier.
    pub limits: Limits,
    /// The environment of the container.
    pub env: BTreeMap<String, String>,
    /// When replicas come and go.
    pub scaling: Scaling,
    /// What the app listens on, the primary port first; empty = [`DEFAULT_PORTS`].
    pub ports: Vec<u16>,
    /// The path of the readiness check; `None` = [`DEFAULT_HEALTH_PATH`], where a 404 counts as
    /// ready.
    pub health_path: Option<String>,
    /// A description for people.
    pub description: String,
    /// JSON Schema of the input, as text.
    pub input_schema: String,
    /// JSON Schema of the output, as text.
    pub output_schema: String,
    /// Whether to offer the app to model clients.
    pub mcp_enabled: bool,
    /// The most requests at once per replica; 0 = no limit.
    pub max_concurrency: u32,
    /// Whether the app's URL requires no token.
    pub allow_unauthenticated: bool,
    /// The HTTP version that is used to call its containers.
    pub protocol: Protocol,
    /// Origins whose web pages may call it; see [`super::reach::cors`].
    pub cors_origins: Vec<String>,
    /// How long its files live.
    pub storage_mode: StorageMode,
    /// With [`StorageMode::Ttl`], how long they are kept while the app is not used; 0 = as the
    /// platform is set.
    pub storage_ttl_secs: u32,
    /// Whether the whole root file system is writable, which the cloud platform does not allow.
    pub writable_root_fs: bool,
    /// Whether an init is its first process.
    pub init: Init,
    /// Capabilities of its processes, which have none on the cloud platform.
    pub capabilities: Capabilities,
    /// Where its processes may connect to.
    pub egress: Egress,
    /// How deep it sleeps at zero; `None` = the platform's setting.
    pub standby: Option<Standby>,
    /// Whether its containers reach the API on the instance's network.
    pub api_access: bool,
}

impl Settings {
    /// How long the files of the app are kept while it is not used, as far as it says so itself.
    pub fn storage_ttl(&self) -> Option<Duration> {
        let secs = self.storage_ttl_secs;
        (secs != 0).then(|| Duration::from_secs(secs.into()))
    }

    /// The ports, defaults applied.
    pub fn ports(&self) -> &[u16] {
        if self.ports.is_empty() {
            &DEFAULT_PORTS
        } else {
            &self.ports
        }
    }

    /// Memory in MB and CPU in millicores that a replica gets.
    pub fn size(&self) -> (u32, u32) {
        let (memory, cpu) = self.tier.size();
        let or = |v: u32, d: u32| if v == 0 { d } else { v };
        (
            or(self.limits.memory_mb, memory),
            or(self.limits.cpu_millicores, cpu),
        )
    }

    /// One violation for each wrong field except the schemas, whose check takes longer; see
    /// [`check_schemas`]. `cap` is the platform's maximum of replicas.
    pub fn check(&self, cap: u32) -> Vec<FieldViolation> {
        let mut out = Vec::new();
        self.scaling.check(cap, &mut out);
        let mut bad = |field: &str, description: String| {
            out.push(FieldViolation {
                field: field.to_owned(),
                description,
            });
        };
        let range = |v: u32, min: u32, max: u32| v != 0 && !(min..=max).contains(&v);
        if range(self.limits.memory_mb, MIN_MEMORY_MB, MAX_MEMORY_MB) {
            bad(
                "limits.memory_mb",
                format!(
                    "{} is not between {MIN_MEMORY_MB} and {MAX_MEMORY_MB}",
                    self.limits.memory_mb
                ),
            );
        }
        if range(
            self.limits.cpu_millicores,
            MIN_CPU_MILLICORES,
            MAX_CPU_MILLICORES,
        ) {
            bad(
                "limits.cpu_millicores",
                format!(
                    "{} is not between {MIN_CPU_MILLICORES} and {MAX_CPU_MILLICORES}",
                    self.limits.cpu_millicores
                ),
            );
        }
        if self.limits.timeout_secs > MAX_TIMEOUT_SECS {
            bad(
                "limits.timeout_secs",
                format!(
                    "{} is over {MAX_TIMEOUT_SECS} (a day)",
                    self.limits.timeout_secs
                ),
            );
        }
        if self.max_concurrency > MAX_CONCURRENCY {
            bad(
                "max_concurrency",
                format!("{} is over {MAX_CONCURRENCY}", self.max_concurrency),
            );
        }
        if self.description.len() > MAX_DESCRIPTION_BYTES {
            bad(
                "description",
                format!(
                    "is {} bytes long; the limit is {MAX_DESCRIPTION_BYTES}",
                    self.description.len()
                ),
            );
        }
        if self.storage_ttl_secs > MAX_STORAGE_TTL_SECS {
            bad(
                "storage_ttl_secs",
                format!(
                    "{} is over {MAX_STORAGE_TTL_SECS} (ten years); use STORAGE_MODE_PERSISTENT for files that stay",
                    self.storage_ttl_secs
                ),
            );
        } else if self.storage_ttl_secs != 0 && self.storage_mode != StorageMode::Ttl {
            bad(
                "storage_ttl_secs",
                "is for STORAGE_MODE_TTL alone; set storage_mode to that, or leave this out"
                    .to_owned(),
            );
        }
        check_ports(&self.ports, &mut bad);
        check_origins(&self.cors_origins, &mut bad);
        check_env(&self.env, &mut bad);
        if let Some(path) = &self.health_path {
            let checked = if path.len() > MAX_HEALTH_PATH_BYTES {
                Err(format!(
                    "is {} bytes long; the limit is {MAX_HEALTH_PATH_BYTES}",
                    path.len()
                ))
            } else {
                check_path(path)
            };
            if let Err(why) = checked {
                bad("health_path", why);
            }
        }
        out
    }

    /// The schemas that differ from those of `before`, by field; these must be checked after a
    /// change.
    pub fn new_schemas(&self, before: Option<&Settings>) -> Vec<(&'static str, String)> {
        let all = [
            (
                "input_schema",
                &self.input_schema,
                before.map(|b| &b.input_schema),
            ),
            (
                "output_schema",
                &self.output_schema,
                before.map(|b| &b.output_schema),
            ),
        ];
        let is_new = |(_, now, before): &(_, &String, Option<&String>)| {
            !now.is_empty() && *before != Some(*now)
        };
        let new = all.into_iter().filter(is_new);
        new.map(|(field, schema, _)| (field, schema.clone()))
            .collect()
    }
}

/// One violation for each invalid schema. This may take a good part of a second, so it must not run
/// on a thread that serves connections, nor on the store's.
pub fn check_schemas(
    schemas: &[(&'static str, String)],
    cancelled: Cancelled<'_>,
) -> Vec<FieldViolation> {
    let wrong = schemas.iter().filter_map(|(field, schema)| {
        let description = schema::check(schema, cancelled).err()?;
        Some(FieldViolation {
            field: (*field).to_owned(),
            description,
        })
    });
    wrong.collect()
}

fn check_ports(ports: &[u16], bad: &mut impl FnMut(&str, String)) {
    if ports.len() > MAX_PORTS {
        bad(
            "ports",
            format!("has {} entries; the limit is {MAX_PORTS}", ports.len()),
        );
    }
    for (i, port) in ports.iter().enumerate() {
        if *port == 0 {
            bad(
                &format!("ports[{i}]"),
                "0 is not a port; give one between 1 and 65535".to_owned(),
            );
        } else if ports[..i].contains(port) {
            bad(&format!("ports[{i}]"), format!("{port} is listed twice"));
        }
    }
}

fn check_origins(origins: &[String], bad: &mut impl FnMut(&str, String)) {
    if origins.len() > MAX_CORS_ORIGINS {
        bad(
            "cors_origins",
            format!(
                "has {} entries; the limit is {MAX_CORS_ORIGINS}",
                origins.len()
            ),
        );
    }
    for (i, origin) in origins.iter().enumerate() {
        if let Err(why) = check_origin(origin) {
            bad(&format!("cors_origins[{i}]"), why);
        } else if origin == CORS_NONE && origins.len() > 1 {
            bad(
                &format!("cors_origins[{i}]"),
                format!("{CORS_NONE:?} leaves CORS to the app and stands alone"),
            );
        }
    }
}

fn check_env(env: &BTreeMap<String, String>, bad: &mut impl FnMut(&str, String)) {
    if env.len() > MAX_ENV {
        bad(
            "env",
            format!("has {} variables; the limit is {MAX_ENV}", env.len()),
        );
    }
    let bytes: usize = env.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > MAX_ENV_BYTES {
        bad(
            "env",
            format!("has {bytes} bytes in all; the limit is {MAX_ENV_BYTES}"),
        );
    }
    for (name, value) in env {
        if let Err(why) = check_env_name(name) {
            bad("env", why);
        } else if value.contains('\0') {
            bad("env", format!("the value of {name} has a NUL in it"));
        } else if name == "PORT" {
            bad(
                "env",
                "PORT is set by the platform; choose the port with `ports`".to_owned(),
            );
        }
    }
}

/// Accepts the same names as Kubernetes.
fn check_env_name(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() {
        return Err("a variable has an empty name".to_owned());
    }
    if name.len() > MAX_ENV_NAME_BYTES {
        return Err(format!(
            "a variable's name is {} bytes long; the limit is {MAX_ENV_NAME_BYTES}",
            name.len()
        ));
    }
    if name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(legal) {
        return Err(format!(
            "{name:?} cannot be the name of a variable: it has only letters, digits, '_', '-' and '.', and no digit first"
        ));
    }
    Ok(())
}

/// Checks that a path can be sent in a request line.
pub fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("{path:?} must start with '/'"));
    }
    if path.contains('#') {
        return Err(format!(
            "{path:?} has a '#', which is never sent to a server"
        ));
    }
    path.parse::<http::uri::PathAndQuery>()
        .map(|_| ())
        .map_err(|e| format!("{path:?} is not a path that HTTP can carry: {e}"))
}

#[cfg(test)]
mod tests {
    use super::{super::work::NEVER, *};

    #[test]
    fn every_wrong_setting_has_its_own_violation() {
        let s = Settings {
            ports: vec![0, 80, 80],
            health_path: Some("healthz".into()),
            limits: Limits {
                memory_mb: 1,
                cpu_millicores: 1,
                timeout_secs: MAX_TIMEOUT_SECS + 1,
            },
            env: [
                ("A=B".to_owned(), String::new()),
                ("PORT".to_owned(), "1".to_owned()),
            ]
            .into(),
            input_schema: "[1]".into(),
            max_concurrency: MAX_CONCURRENCY + 1,
            storage_ttl_secs: 1,
            ..Settings::default()
        };
        let found = s.check(5);
        let fields: Vec<_> = found.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "limits.memory_mb",
                "limits.cpu_millicores",
                "limits.timeout_secs",
                "max_concurrency",
                "storage_ttl_secs",
                "ports[0]",
                "ports[2]",
                "env",
                "env",
                "health_path",
            ]
        );
        assert!(Settings::default().check(5).is_empty());
        let kept_for = |storage_ttl_secs| {
            let s = Settings {
                storage_mode: StorageMode::Ttl,
                storage_ttl_secs,
                ..Settings::default()
            };
            (s.check(5).len(), s.storage_ttl())
        };
        assert_eq!(kept_for(0), (0, None));
        assert_eq!(kept_for(60), (0, Some(Duration::from_secs(60))));
        assert_eq!(kept_for(MAX_STORAGE_TTL_SECS + 1).0, 1);

        let schemas = |before| s.new_schemas(before);
        assert_eq!(schemas(None), [("input_schema", "[1]".to_owned())]);
        assert!(schemas(Some(&s)).is_empty(), "as it was");
        let wrong = check_schemas(&schemas(Some(&Settings::default())), NEVER);
        let fields: Vec<_> = wrong.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["input_schema"]);
    }
}
