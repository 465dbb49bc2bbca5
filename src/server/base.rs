//! What every other part is built on: the stores in the data directory, and the engine.

use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::{
    app_calls::AppCalls,
    data_dir::DataDir,
    keeper::Keeper,
    limits::Shares,
    parts::{self, engine_config, executions_config},
    traces::Traces,
};
use crate::{
    audit::Audit,
    config::Config,
    engine::{self, Credentials, Engine as _, Keychain, docker::Docker},
    identity::{Identity, provider::Provider, system_clock},
    metrics::Metrics,
    store::{
        Ledger, Store,
        executions::{self, Executions},
        secrets::Secrets,
    },
    trace::Tracer,
    vitals::Vitals,
};

/// The stores in the data directory.
pub(super) struct Stores {
    pub(super) identity: Arc<Identity>,
    /// Gives tokens to service accounts, over whichever listener they ask.
    pub(super) provider: Arc<Provider>,
    pub(super) audit: Audit,
    pub(super) store: Store,
    pub(super) executions: Executions,
    pub(super) secrets: Secrets,
    pub(super) ledger: Ledger,
}

impl Stores {
    fn open(
        config: &Config,
        data: &DataDir,
        vitals: &Vitals,
        metrics: &Arc<Metrics>,
    ) -> Result<Self> {
        let identity = Identity::open(data.path(), &config.tokens, system_clock())?;
        let audit = Audit::start(data.path(), config.tokens.audit_max_bytes, vitals);
        let audit = audit.context("the audit log")?;
        let provider = Arc::new(Provider::new(identity.clone(), audit.clone()));
        let ledger = parts::ledger(config, data.path())?;
        let store = Store::open_watched(data.path(), vitals, ledger.clone())?;
        data.back_identity_up();
        let executions = Executions::open(
            data.path(),
            executions_config(config, vitals, metrics, ledger.clone()),
            app_lookup(&store),
        )?;
        let secrets = Secrets::new(store.clone());
        Ok(Self {
            identity,
            provider,
            audit,
            store,
            executions,
            secrets,
            ledger,
        })
    }

    /// Writes what was accepted to the disk.
    pub(super) fn close(&self) {
        self.executions.close();
        self.store.close();
        self.audit.close();
    }
}

/// The foundation of every other part.
pub(super) struct Base {
    pub(super) vitals: Vitals,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tracer: Tracer,
    pub(super) exporting: Option<Traces>,
    pub(super) stores: Stores,
    pub(super) engine: Arc<Docker>,
    /// The restrictions on containers beyond the engine's own, in words.
    pub(super) restrictions: String,
    pub(super) keychain: Keychain,
    pub(super) shares: Shares,
    pub(super) config: Config,
    /// Last, so that the lock is held until everything that writes to the directory is gone.
    pub(super) data: DataDir,
}

impl Base {
    /// Opens the stores and prepares the engine.
    ///
    /// # Errors
    /// A store that cannot be opened, or a setting that the engine cannot honour.
    pub(super) async fn open(
        config: Config,
        data: DataDir,
        shares: Shares,
        calls: Option<&Arc<AppCalls>>,
    ) -> Result<Self> {
        let vitals = Vitals::default();
        let metrics = Arc::new(Metrics::new(
            config.metrics_apps_max,
            config.otlp.endpoint.is_some(),
        ));
        let (tracer, exporting) = Traces::start(&config, &data, &metrics, &vitals)?;
        let stores = Stores::open(&config, &data, &vitals, &metrics)?;
        let seal = parts::seal(&stores.secrets)?;
        let mut engine_config = engine_config(&config, &data, &stores.store, seal)?;
        engine_config.metrics = metrics.clone();
        engine_config.attach = calls.map(AppCalls::attach);
        let restrictions = engine_config.restrictions();
        let engine = Arc::new(Docker::new(engine_config).context("docker_host")?);
        if let Some(calls) = calls {
            calls.relay_by(&engine);
        }
        check_runtime(&config, &engine).await?;
        // Refused with the reason before anything runs, and before the server says it is ready.
        engine.isolate().await.context("trust")?;
        Ok(Self {
            keychain: keychain(&stores.secrets),
            vitals,
            metrics,
            tracer,
            exporting,
            stores,
            engine,
            restrictions,
            shares,
            config,
            data,
        })
    }

    /// Starts to claim the instance's identity, and holds it from then on.
    pub(super) fn hold_identity(&self) -> Keeper {
        Keeper::start(
            self.engine.clone(),
            &self.data,
            self.config.lease_interval,
            self.config.ephemeral,
            &self.vitals,
        )
    }
}

/// Ends the start when the engine lacks the configured runtime. An engine that does not answer yet
/// is asked again before each container.
async fn check_runtime(config: &Config, engine: &Docker) -> Result<()> {
    if config.runtime.is_none() {
        return Ok(());
    }
    match engine.info().await {
        Err(wrong @ engine::Error::Refused { .. }) => Err(wrong.into()),
        _ => Ok(()),
    }
}

/// Gives the engine the credentials for registries out of the secrets.
fn keychain(secrets: &Secrets) -> Keychain {
    let secrets = secrets.clone();
    Keychain::new(move |org, source| {
        let secrets = secrets.clone();
        Box::pin(async move {
            let name = &source.registry_secret_ref;
            let found = secrets.for_image(&org, name, &source.image_ref).await?;
            Ok(Credentials {
                username: found.username,
                password: found.password,
                server_address: Some(found.server_address).filter(|a| !a.is_empty()),
            })
        })
    })
}

/// Lets the executions look up when an app was created.
fn app_lookup(store: &Store) -> executions::AppCreatedAt {
    let store = store.clone();
    Arc::new(move |app| {
        let since = store.catalog().get(app).map(|a| a.created_at_ms);
        since.map(|ms| u64::try_from(ms).unwrap_or(0))
    })
}
