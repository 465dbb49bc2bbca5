//! A revision: what a replica runs and how it is driven.

use std::{collections::BTreeMap, time::Duration};

use sha2::{Digest, Sha256};

use super::{
    app::{App, Version},
    capability::Capabilities,
    code::{ImageSource, Overlay},
    egress::Egress,
    files::{self, Files, Home},
    hex,
    id::AppId,
    reach::Protocol,
    scaling,
    settings::{DEFAULT_HEALTH_PATH, Settings, StorageMode, Tier},
    standby::Standby,
};

/// The platform's values where an app sets none.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// Bounds on scaling.
    pub bounds: scaling::Bounds,
    /// Longest time for one request.
    pub timeout: Duration,
    /// Refuse whatever the cloud platform refuses.
    pub strict: bool,
    /// The percentage of a replica's memory that `/tmp` may take; a separate home may take as much
    /// again.
    pub scratch_percent: u32,
    /// The capabilities that apps may ask for.
    pub capabilities: Capabilities,
    /// Whether apps may ask for the API.
    pub api_access: bool,
    /// Digest of the platform's own settings that go into every container.
    pub containers: u64,
}

/// Which responses on the health path count as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthCheck {
    /// For the default path: any HTTP status below 500.
    Default,
    /// For a path that the app's owner set: 2xx.
    Chosen,
    /// As the cloud platform does, for any path: 2xx.
    Strict,
}

/// What a replica runs and how it is driven: a version together with the settings in force.
#[derive(Debug, Clone)]
pub struct Revision {
    /// The app.
    pub app: AppId,
    /// The version.
    pub version: u32,
    /// The image's content id.
    pub image: String,
    /// The image to pull if this one was removed from this machine; `None` when it was built here.
    pub source: Option<ImageSource>,
    /// Files that are laid over the image.
    pub overlay: Option<Overlay>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// Which parts of its file system are writable.
    pub files: Files,
    /// Capabilities of its processes.
    pub capabilities: Capabilities,
    /// Where its processes may connect to.
    pub egress: Egress,
    /// Whether an init is the first process of its containers.
    pub init: bool,
    /// What the cloud platform would refuse about it, one sentence each.
    pub cloud_incompatibilities: Vec<String>,
    /// What the app listens on, the primary port first; never empty.
    pub ports: Vec<u16>,
    /// The port inside its container for each of `ports`, in their order: the same, unless it
    /// follows the port that its image exposes.
    pub inner_ports: Vec<u16>,
    /// TCP ports that the image exposes.
    pub exposed_ports: Vec<u16>,
    /// The path of the readiness check.
    pub health_path: String,
    /// Which responses there count as ready.
    pub health: HealthCheck,
    /// The tier, for display; the limits below apply.
    pub tier: Tier,
    /// Memory limit in MB.
    pub memory_mb: u32,
    /// CPU limit in millicores.
    pub cpu_millicores: u32,
    /// Longest time for one request, without the cold start.
    pub timeout: Duration,
    /// When replicas come and go.
    pub scaling: scaling::Effective,
    /// The most requests at once per replica; 0 = no limit.
    pub max_concurrency: u32,
    /// The app's URL requires no token.
    pub allow_unauthenticated: bool,
    /// The HTTP version that is used to call its containers.
    pub protocol: Protocol,
    /// Origins whose web pages may call it.
    pub cors_origins: Vec<String>,
    /// How deep it sleeps at zero; `None` = the platform's setting.
    pub standby: Option<Standby>,
    /// Whether its containers reach the API on the instance's network.
    pub api_access: bool,
    /// Digest of what a container is made from: two revisions that share it can share replicas.
    pub config_hash: String,
}

impl Revision {
    /// The app's active version under its present settings; `None` before the first publish.
    pub fn of(app: &App, defaults: Defaults) -> Option<Self> {
        app.active().map(|v| Self::new(app, v, defaults))
    }

    /// One version under the app's present settings.
    pub fn new(app: &App, version: &Version, defaults: Defaults) -> Self {
        let s = &app.settings;
        let (memory_mb, cpu_millicores) = s.size();
        let files = files_of(app, version, memory_mb, defaults);
        let mut revision = Self {
            app: app.id.clone(),
            version: version.number,
            image: version.image_id.clone(),
            source: version.pull_source(),
            overlay: version.overlay.clone(),
            env: s.env.clone(),
            cloud_incompatibilities: cloud_incompatibilities(s, version, &files, defaults),
            files,
            capabilities: s.capabilities.within(allowed(defaults)),
            egress: s.egress.clone(),
            init: s.init.applies(version.facts.brings_init, defaults.strict),
            ports: s.ports().to_vec(),
            inner_ports: inner_ports(s, version, defaults),
            exposed_ports: version.facts.exposed_ports.clone(),
            health_path: s
                .health_path
                .clone()
                .unwrap_or_else(|| DEFAULT_HEALTH_PATH.to_owned()),
            health: match (defaults.strict, &s.health_path) {
                (true, _) => HealthCheck::Strict,
                (false, Some(_)) => HealthCheck::Chosen,
                (false, None) => HealthCheck::Default,
            },
            tier: s.tier,
            memory_mb,
            cpu_millicores,
            timeout: match s.limits.timeout_secs {
                0 => defaults.timeout,
                secs => Duration::from_secs(secs.into()),
            },
            scaling: s.scaling.effective(defaults.bounds),
            max_concurrency: s.max_concurrency,
            allow_unauthenticated: s.allow_unauthenticated,
            protocol: s.protocol,
            cors_origins: s.cors_origins.clone(),
            standby: s.standby,
            api_access: s.api_access && defaults.api_access,
            config_hash: String::new(),
        };
        revision.config_hash = revision.hash(defaults.containers);
        revision
    }

    /// Whether a replica of `other` can serve this revision.
    pub fn same_container(&self, other: &Revision) -> bool {
        self.version == other.version && self.config_hash == other.config_hash
    }

    /// Whether a replica that is ready by the check of `other` is also ready by this revision's
    /// check.
    pub fn is_ready_when(&self, other: &Revision) -> bool {
        self.same_container(other)
            && self.health_path == other.health_path
            && self.health == other.health
            && self.protocol == other.protocol
    }

    /// This revision with the settings of `next` that need no new container.
    #[must_use]
    pub fn with_runtime_settings_of(&self, next: &Revision) -> Self {
        Self {
            timeout: next.timeout,
            scaling: next.scaling,
            max_concurrency: next.max_concurrency,
            allow_unauthenticated: next.allow_unauthenticated,
            protocol: next.protocol,
            cors_origins: next.cors_origins.clone(),
            standby: next.standby,
            api_access: next.api_access,
            ..self.clone()
        }
    }

    fn hash(&self, platform: u64) -> String {
        // Length-prefixed, so that no two different sets of fields produce the same bytes.
        let mut h = Sha256::new();
        let mut put = |s: &str| {
            h.update((s.len() as u64).to_be_bytes());
            h.update(s);
        };
        put(&self.image);
        for (k, v) in &self.env {
            put(k);
            put(v);
        }
        put(&format!(
            "{:?} {} {} {platform:x}",
            self.ports, self.memory_mb, self.cpu_millicores
        ));
        if self.inner_ports != self.ports {
            put(&format!("{:?}", self.inner_ports));
        }
        let Files {
            read_only,
            always_read_only: _,
            home,
            scratch_bytes,
            kept_since,
        } = &self.files;
        put(&home.path);
        // Homes that were not counted keep the hash they had in earlier releases.
        put(&format!(
            "{read_only} {} {scratch_bytes} {kept_since:?}",
            home.is_in_image()
        ));
        // Added only where it applies, so that all other containers keep their hash.
        if self.init {
            put("init");
        }
        if !self.capabilities.is_empty() {
            put(&format!("capabilities {}", self.capabilities));
        }
        if let Some(overlay) = &self.overlay {
            put(&format!(
                "overlay {} {}",
                overlay.path, overlay.files.sha256
            ));
        }
        if self.egress != Egress::Unset {
            put(&format!("egress {}", self.egress));
        }
        hex::encode(&h.finalize()[..16])
    }
}

fn allowed(defaults: Defaults) -> Capabilities {
    if defaults.strict {
        Capabilities::default()
    } else {
        defaults.capabilities
    }
}

fn files_of(app: &App, version: &Version, memory_mb: u32, defaults: Defaults) -> Files {
    let s = &app.settings;
    let memory = u64::from(memory_mb) * 1024 * 1024;
    Files {
        read_only: !s.writable_root_fs || defaults.strict,
        always_read_only: defaults.strict,
        home: Home::of(&s.env, &version.facts.home),
        scratch_bytes: memory * u64::from(defaults.scratch_percent) / 100,
        kept_since: (s.storage_mode != StorageMode::Ephemeral).then_some(app.created_at_ms),
    }
}

/// The ports that an app listens on in its container. An app without a setting follows its image if
/// that exposes a single port: most images listen there whatever `$PORT` is.
fn inner_ports(s: &Settings, version: &Version, defaults: Defaults) -> Vec<u16> {
    match version.facts.exposed_ports.as_slice() {
        [only] if s.ports.is_empty() && !defaults.strict => vec![*only],
        _ => s.ports().to_vec(),
    }
}

fn cloud_incompatibilities(
    s: &Settings,
    version: &Version,
    files: &Files,
    defaults: Defaults,
) -> Vec<String> {
    let user = version.facts.user.as_deref();
    let user = user.and_then(files::user_incompatibility);
    let user = user.map(|why| format!("image {:?} {why}", version.image_ref));
    let root = (s.writable_root_fs && !defaults.strict).then(|| {
        "the root file system is writable, which the platform does not allow; write to $HOME or /tmp and set writable_root_fs to false (`--writable-root=false`)".to_owned()
    });
    let home = files.changed_in_place().map(|_| {
        format!(
            "image {:?} has too many files in its home {:?} to give every replica a copy, so they are changed in place and the root file system is not read-only as a whole; install them elsewhere, such as /app, or raise home_copy_files and home_copy_bytes",
            version.image_ref, files.home.path
        )
    });
    let inner = inner_ports(s, version, defaults);
    let port = (inner != s.ports()).then(|| {
        format!(
            "image {:?} exposes port {port} alone, so $PORT is {port} here and the app is reached there; the platform sets PORT=80: listen on $PORT, or set `ports` (`--port`) to {port}",
            version.image_ref,
            port = inner[0]
        )
    });
    let capabilities = s.capabilities.within(allowed(defaults));
    let capabilities = (!capabilities.is_empty()).then(|| {
        format!("its processes have the capabilities {capabilities}, and those of the platform have none; use an image that runs without root and needs none")
    });
    user.into_iter()
        .chain(capabilities)
        .chain(root)
        .chain(home)
        .chain(port)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            code::CodeSource,
            process::Init,
            settings::{Settings, Tier},
        },
        *,
    };

    #[test]
    fn the_config_hash_follows_what_a_container_is_made_from_and_nothing_else() {
        let defaults = Defaults {
            bounds: scaling::Bounds {
                max_replicas_cap: 5,
                min_scaledown: Duration::from_secs(30),
            },
            timeout: Duration::from_secs(300),
            strict: false,
            scratch_percent: 25,
            capabilities: Capabilities::of_docker(),
            api_access: true,
            containers: 0,
        };
        let source = CodeSource::Prebuilt(ImageSource {
            image_ref: "a:1".into(),
            registry_secret_ref: String::new(),
        });
        let version = Version {
            number: 1,
            source,
            image_ref: "a:1".into(),
            image_id: "sha256:x".into(),
            facts: Default::default(),
            overlay: None,
            created_at_ms: 0,
            settings: Settings::default(),
        };
        let app = App {
            id: "o/a".parse().expect("valid"),
            created_at_ms: 0,
            updated_at_ms: 0,
            used_at_ms: 0,
            settings: Settings::default(),
            draft: None,
            versions: vec![],
            active_version: 1,
            hosts: Vec::new(),
        };
        let with = |change: fn(&mut Settings)| {
            let mut app = app.clone();
            change(&mut app.settings);
            Revision::new(&app, &version, defaults).config_hash
        };
        let base = with(|_| ());
        assert_eq!(base, with(|s| s.scaling.reserved_capacity = 1));
        assert_eq!(base, with(|s| s.description = "x".into()));
        assert_ne!(
            base,
            with(|s| s.env = [("A".to_owned(), "B".to_owned())].into())
        );
        assert_ne!(base, with(|s| s.ports = vec![81]));
        let exposing = |ports: &[u16], set: &[u16], strict| {
            let mut app = app.clone();
            app.settings.ports = set.to_vec();
            let mut version = version.clone();
            version.facts.exposed_ports = ports.to_vec();
            Revision::new(&app, &version, Defaults { strict, ..defaults })
        };
        let follows = exposing(&[8080], &[], false);
        assert_eq!(
            (&follows.ports[..], &follows.inner_ports[..]),
            (&[80][..], &[8080][..])
        );
        assert!(
            follows
                .cloud_incompatibilities
                .iter()
                .any(|o| o.contains("PORT=80"))
        );
        assert_ne!(base, follows.config_hash);
        for (ports, set, strict) in [
            (&[8080, 9090][..], &[][..], false),
            (&[8080], &[], true),
            (&[8080], &[90], false),
            (&[80], &[], false),
            (&[], &[], false),
        ] {
            let r = exposing(ports, set, strict);
            assert_eq!(r.inner_ports, r.ports);
            assert!(
                !r.cloud_incompatibilities.iter().any(|o| o.contains("PORT")),
                "{:?}",
                r.cloud_incompatibilities
            );
        }
        assert_ne!(base, with(|s| s.tier = Tier::Large));
        assert_ne!(base, with(|s| s.writable_root_fs = true));
        let kept = with(|s| s.storage_mode = StorageMode::Persistent);
        assert_ne!(base, kept);
        assert_eq!(kept, with(|s| s.storage_mode = StorageMode::Ttl));
        let home = |s: &mut Settings| s.env = [("HOME".to_owned(), "/h".to_owned())].into();
        assert_ne!(base, with(home));
        // The image was not inspected, so there is no init unless the setting asks for it.
        assert_eq!(base, with(|s| s.init = Init::Off));
        assert_ne!(base, with(|s| s.init = Init::On));
        let chown = |s: &mut Settings| s.capabilities = "CHOWN".parse().expect("good");
        assert_ne!(base, with(chown));
        assert_ne!(base, with(|s| s.egress = "deny".parse().expect("good")));
        // A capability that may not be granted changes nothing.
        let admin = |s: &mut Settings| s.capabilities = "SYS_ADMIN".parse().expect("good");
        assert_eq!(base, with(admin));
    }
}
