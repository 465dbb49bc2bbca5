//! The settings of an app as flags, and the requests that carry them.

use std::collections::BTreeMap;

use clap::ValueEnum;

use super::{Error, variables::Variables};
use crate::{api::proto::v1, model::AppId};

/// The size of a replica.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Tier {
    Small,
    Medium,
    Large,
    Xlarge,
}

/// What scaling measures.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Metric {
    RequestRate,
    Concurrency,
}

/// How long an app's files are kept.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Storage {
    Ephemeral,
    Persistent,
    Ttl,
}

/// The HTTP version spoken to containers.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Protocol {
    Auto,
    Http1,
    H2c,
}

/// Whether containers run an init as their first process.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Init {
    Auto,
    On,
    Off,
}

/// The settings of an app; a flag left out keeps the default, or the current value in an update.
#[derive(Debug, Clone, Default, clap::Args)]
pub(in crate::cli) struct Settings {
    /// The size of a replica.
    #[arg(short, long, value_enum, ignore_case = true)]
    tier: Option<Tier>,
    /// Memory of a replica in MB; overrides the tier's.
    #[arg(long, value_name = "MB")]
    memory: Option<u32>,
    /// CPU of a replica in thousandths of a core; overrides the tier's.
    #[arg(long, value_name = "MILLICORES")]
    cpu: Option<u32>,
    /// The longest time for one request in seconds, excluding the cold start.
    #[arg(long, value_name = "SECONDS")]
    timeout_secs: Option<u32>,
    /// The most replicas.
    #[arg(long, value_name = "N")]
    max_replicas: Option<u32>,
    /// Replicas that always run; 0 allows scale to zero.
    #[arg(long, value_name = "N")]
    reserved: Option<u32>,
    /// What scaling measures.
    #[arg(long, value_enum)]
    scale_metric: Option<Metric>,
    /// The target of the metric per replica.
    #[arg(long, value_name = "N")]
    scale_threshold: Option<u32>,
    /// Seconds without traffic before replicas are removed.
    #[arg(long, value_name = "SECONDS")]
    scaledown_period_secs: Option<u32>,
    /// The most concurrent requests per replica; 0 for no limit.
    #[arg(long, value_name = "N")]
    max_concurrency: Option<u32>,
    /// A port that the app listens on, the primary one first; repeatable. Replaces all.
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<u16>,
    /// The path that answers 2xx when the app is ready.
    #[arg(long, value_name = "PATH")]
    health_path: Option<String>,
    /// A description for people.
    #[arg(long)]
    description: Option<String>,
    #[command(flatten)]
    env: Variables,
    /// Ask for no token on the app's URL (`=false` to ask again).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    allow_unauthenticated: Option<bool>,
    #[command(flatten)]
    schemas: Schemas,
    /// Offer the app to model clients as a tool (`=false` to take it back).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    mcp_enabled: Option<bool>,
    /// How long the files in its home directory are kept.
    #[arg(
        long = "storage-mode",
        visible_alias = "storage",
        value_enum,
        ignore_case = true
    )]
    storage: Option<Storage>,
    /// Seconds that the files are kept while the app is not used, for --storage-mode ttl, which a new
    /// app gets with it; 0 for the server's own time.
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u32>,
    /// Let the app write to its whole root file system, not only to $HOME and /tmp.
    #[arg(long = "writable-root", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    writable_root_fs: Option<bool>,
    /// A capability of the app's processes when they run as root, such as CHOWN (the cloud gives
    /// none); repeatable. Replaces all; `none` removes all.
    #[arg(long = "cap", value_name = "CAPABILITY")]
    capabilities: Vec<String>,
    /// Where the app may connect to, within the server's own limits: deny, allow, or a
    /// comma-separated list of addresses and networks, such as 10.0.0.5:5432,192.0.2.0/24; empty
    /// for the server's rule.
    #[arg(long, value_name = "deny|allow|LIST")]
    egress: Option<String>,
    /// Let the app's containers reach the API on the instance's network (`=false` to take it back).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    api_access: Option<bool>,
    /// Run the app under a small init, which reaps orphaned processes: unless the image's program
    /// is an init itself (auto), always, or never.
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    init: Option<Init>,
    /// The HTTP version spoken to the app's containers: HTTP/1.1 except for gRPC calls (auto),
    /// always HTTP/1.1, or HTTP/2 without TLS.
    #[arg(long, value_enum, ignore_case = true)]
    protocol: Option<Protocol>,
    /// An origin whose web pages may call the app's URL; repeatable. `*` for any, `none` to leave
    /// CORS to the app. Replaces all.
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    cors_origins: Vec<String>,
}

/// What an app takes and gives.
#[derive(Debug, Default, Clone, clap::Args)]
pub(in crate::cli) struct Schemas {
    /// JSON Schema of the input, as text, FILE or @FILE; empty for none.
    #[arg(long, value_name = "JSON|FILE", value_parser = text_or_file)]
    input_schema: Option<String>,
    /// JSON Schema of the output, as text, FILE or @FILE; empty for none.
    #[arg(long, value_name = "JSON|FILE", value_parser = text_or_file)]
    output_schema: Option<String>,
}

impl Schemas {
    /// The request that changes what is named; `None` when nothing is.
    ///
    /// # Errors
    /// As for [`Settings::update`].
    pub(in crate::cli) fn update(
        &self,
        app: &AppId,
    ) -> Result<Option<v1::UpdateAppConfigRequest>, Error> {
        let settings = Settings {
            schemas: self.clone(),
            ..Settings::default()
        };
        settings.update(app, &BTreeMap::new())
    }
}

/// A JSON object or nothing as it is; else the file that has it, with or without `@` before it.
fn text_or_file(text: &str) -> Result<String, String> {
    let path = match text.strip_prefix('@') {
        Some(path) => path,
        None if text.is_empty() || text.trim_start().starts_with('{') => {
            return Ok(text.to_owned());
        }
        None => text,
    };
    std::fs::read_to_string(path)
        .map_err(|e| format!("it is no JSON object, and no file that can be read: {path}: {e}"))
}

impl Settings {
    /// Whether the environment is among the given settings: it is changed from what it is.
    pub(in crate::cli) fn has_env(&self) -> bool {
        !self.env.is_empty()
    }

    fn tier(&self) -> Option<i32> {
        let tier = match self.tier? {
            Tier::Small => v1::ResourceTier::Small,
            Tier::Medium => v1::ResourceTier::Medium,
            Tier::Large => v1::ResourceTier::Large,
            Tier::Xlarge => v1::ResourceTier::Xlarge,
        };
        Some(tier.into())
    }

    /// Asks for no token on the app's URL, unless the settings say something of it.
    pub(super) fn open_unless_said(&mut self) {
        self.allow_unauthenticated.get_or_insert(true);
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = match (self.ttl, self.storage) {
            (Some(1..), Some(Storage::Persistent | Storage::Ephemeral)) => {
                "--ttl is for --storage-mode ttl; name that one, or leave --ttl out"
            }
            _ => return Ok(()),
        };
        Err(Error::Usage(wrong.to_owned()))
    }

    /// That of a new app: a time to live says it, too.
    fn new_storage_mode(&self) -> Option<i32> {
        let by_ttl = || matches!(self.ttl, Some(1..)).then(|| v1::StorageMode::Ttl.into());
        self.storage_mode().or_else(by_ttl)
    }

    fn storage_mode(&self) -> Option<i32> {
        let mode = match self.storage? {
            Storage::Ephemeral => v1::StorageMode::Ephemeral,
            Storage::Persistent => v1::StorageMode::Persistent,
            Storage::Ttl => v1::StorageMode::Ttl,
        };
        Some(mode.into())
    }

    fn protocol(&self) -> Option<i32> {
        let protocol = match self.protocol? {
            Protocol::Auto => v1::AppProtocol::Unspecified,
            Protocol::Http1 => v1::AppProtocol::Http1,
            Protocol::H2c => v1::AppProtocol::H2c,
        };
        Some(protocol.into())
    }

    /// The given capabilities, and whether all are to be removed.
    fn capabilities(&self) -> (Vec<String>, bool) {
        match self.capabilities.as_slice() {
            [none] if none.eq_ignore_ascii_case("none") => (Vec::new(), true),
            named => (named.to_vec(), false),
        }
    }

    fn init(&self) -> Option<i32> {
        let init = match self.init? {
            Init::Auto => v1::AppInit::Unspecified,
            Init::On => v1::AppInit::On,
            Init::Off => v1::AppInit::Off,
        };
        Some(init.into())
    }

    fn limits(&self) -> Option<v1::ResourceLimits> {
        let limits = v1::ResourceLimits {
            memory_mb: self.memory,
            cpu_millicores: self.cpu,
            timeout_secs: self.timeout_secs,
        };
        (limits != v1::ResourceLimits::default()).then_some(limits)
    }

    fn scaling(&self) -> Option<v1::ScalingConfig> {
        let scaling = v1::ScalingConfig {
            reserved_capacity: self.reserved,
            max_replicas: self.max_replicas,
            scale_metric: self.scale_metric.map(|metric| {
                match metric {
                    Metric::RequestRate => v1::ScaleMetric::RequestRate,
                    Metric::Concurrency => v1::ScaleMetric::Concurrency,
                }
                .into()
            }),
            scale_threshold: self.scale_threshold,
            scaledown_period_secs: self.scaledown_period_secs,
        };
        (scaling != v1::ScalingConfig::default()).then_some(scaling)
    }

    fn ports(&self) -> Vec<u32> {
        self.ports.iter().copied().map(u32::from).collect()
    }

    /// The request that creates the app with these settings.
    ///
    /// # Errors
    /// [`Error::Usage`] for settings that do not go together.
    pub(in crate::cli) fn create(&self, app: &AppId) -> Result<v1::CreateAppRequest, Error> {
        self.check()?;
        Ok(v1::CreateAppRequest {
            organization_name: app.org.to_string(),
            name: app.name.to_string(),
            resource_tier: self.tier().unwrap_or_default(),
            limits: self.limits(),
            env: self.env.over(&BTreeMap::new())?.unwrap_or_default(),
            scaling: self.scaling(),
            ports: self.ports(),
            health_path: self.health_path.clone().unwrap_or_default(),
            description: self.description.clone().unwrap_or_default(),
            max_concurrency: self.max_concurrency.unwrap_or_default(),
            allow_unauthenticated: self.allow_unauthenticated.unwrap_or_default(),
            writable_root_fs: self.writable_root_fs.unwrap_or_default(),
            init: self.init().unwrap_or_default(),
            capabilities: self.capabilities().0,
            egress: self.egress.clone().unwrap_or_default(),
            api_access: self.api_access.unwrap_or_default(),
            input_schema: self.schemas.input_schema.clone().unwrap_or_default(),
            output_schema: self.schemas.output_schema.clone().unwrap_or_default(),
            mcp_enabled: self.mcp_enabled.unwrap_or_default(),
            storage_mode: self.new_storage_mode().unwrap_or_default(),
            storage_ttl_secs: self.ttl.unwrap_or_default(),
            protocol: self.protocol().unwrap_or_default(),
            cors_origins: self.cors_origins.clone(),
            ..Default::default()
        })
    }

    /// The request that changes the given settings; `None` when none is given. `env` is the
    /// environment that variables are added to.
    ///
    /// # Errors
    /// [`Error::Usage`] for settings that do not go together.
    pub(in crate::cli) fn update(
        &self,
        app: &AppId,
        env: &BTreeMap<String, String>,
    ) -> Result<Option<v1::UpdateAppConfigRequest>, Error> {
        self.check()?;
        let names = v1::UpdateAppConfigRequest {
            organization_name: app.org.to_string(),
            app_name: app.name.to_string(),
            ..Default::default()
        };
        let variables = self.env.over(env)?;
        let request = v1::UpdateAppConfigRequest {
            resource_tier: self.tier(),
            limits: self.limits(),
            clear_env: variables.as_ref().is_some_and(BTreeMap::is_empty),
            env: variables.unwrap_or_default(),
            scaling: self.scaling(),
            ports: self.ports(),
            health_path: self.health_path.clone(),
            description: self.description.clone(),
            max_concurrency: self.max_concurrency,
            allow_unauthenticated: self.allow_unauthenticated,
            writable_root_fs: self.writable_root_fs,
            init: self.init(),
            capabilities: self.capabilities().0,
            clear_capabilities: self.capabilities().1,
            egress: self.egress.clone(),
            api_access: self.api_access,
            input_schema: self.schemas.input_schema.clone(),
            output_schema: self.schemas.output_schema.clone(),
            mcp_enabled: self.mcp_enabled,
            storage_mode: self.storage_mode(),
            storage_ttl_secs: self.ttl,
            protocol: self.protocol(),
            cors_origins: self.cors_origins.clone(),
            ..names.clone()
        };
        Ok((request != names).then_some(request))
    }
}
