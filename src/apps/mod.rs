//! The life of an app: created, configured, given code, published, deleted.
//!
//! Every operation that changes an app runs to its end in a task of its own, so a client that
//! leaves in the middle leaves nothing half done. Operations that touch replicas take turns per
//! app (`locks.rs`). The order is always: make sure that it can work, write it down, then act on
//! it.

mod checks;
mod claims;
mod drafts;
mod locks;
mod test_runs;
mod versions;
mod warnings;

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    checks::Checks,
    claims::Claims,
    locks::{AppLocks, RollOuts},
};
use crate::{
    builder::{Builder, Images},
    clock::now_ms,
    engine::Image,
    fleet::{Fleet, Snapshot},
    gateway::Routes,
    gc::Volumes,
    model::{
        App, AppId, AppName, CodeSource, Draft, Failure, FieldViolation, ImageFacts, OrgName,
        Reason, Revision,
        catalog::{Change, not_found},
        egress::Ceiling,
        revision::Defaults,
        settings::{Settings, check_schemas},
    },
    parsing::Parsing,
    store::{Store, blobs::Blobs, executions::Executions, secrets::Secrets},
};

pub use drafts::{DraftView, Published};
pub use versions::Code;

/// What the life of apps needs; clones share it.
#[derive(Clone)]
pub struct Apps {
    shared: Arc<Shared>,
}

/// What operations on apps work with.
pub struct Parts {
    /// Where apps are written down.
    pub store: Store,
    /// Theirs go with an app.
    pub executions: Executions,
    /// Runs what is published.
    pub fleet: Fleet,
    /// Leads requests to it.
    pub routes: Arc<Routes>,
    /// Images that exist.
    pub images: Images,
    /// Makes those that do not.
    pub builder: Builder,
    /// What build arguments are sealed by.
    pub secrets: Secrets,
    /// Code that was handed in.
    pub blobs: Blobs,
    /// Apps' files.
    pub volumes: Volumes,
    /// What holds for apps that say nothing.
    pub defaults: Defaults,
    /// Where what is sent is read.
    pub parsing: Parsing,
    /// Where apps may connect to at most; `None` is anywhere.
    pub egress: Option<Ceiling>,
    /// How many there may be.
    pub most: Most,
}

/// How many apps and versions there may be.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// Apps of one organization.
    pub apps_per_org: usize,
    /// Versions of one app; none is ever dropped, so that each can be returned to.
    pub versions_per_app: usize,
}

struct Shared {
    store: Store,
    executions: Executions,
    fleet: Fleet,
    routes: Arc<Routes>,
    images: Images,
    builder: Builder,
    secrets: Secrets,
    blobs: Blobs,
    volumes: Volumes,
    defaults: Defaults,
    parsing: Parsing,
    egress: Option<Ceiling>,
    most: Most,
    /// For what decides which version serves.
    deploy_locks: AppLocks,
    /// For what is written down and acted on.
    commit_locks: AppLocks,
    /// Configurations on their way to the replicas, called off by the app's next operation.
    roll_outs: RollOuts,
    claims: Claims,
    checks: Checks,
    /// Ends all roll-outs, also those that begin later, and publishes that still wait.
    stopping: CancellationToken,
    tasks: TaskTracker,
    /// Where they run: not on the thread that happens to carry a caller's connection.
    runtime: Handle,
}

impl Apps {
    /// The apps of a store; those that are published are handed to the fleet and routed.
    pub fn new(parts: Parts) -> Self {
        for app in parts.store.catalog().iter() {
            if let Some(revision) = Revision::of(app, parts.defaults) {
                parts.routes.set(&parts.fleet.activate(revision));
            }
        }
        let Parts {
            store,
            executions,
            fleet,
            routes,
            images,
            builder,
            secrets,
            blobs,
            volumes,
            defaults,
            parsing,
            egress,
            most,
        } = parts;
        let stopping = CancellationToken::new();
        let shared = Shared {
            store,
            executions,
            fleet,
            routes,
            images,
            builder,
            secrets,
            blobs,
            volumes,
            defaults,
            parsing,
            egress,
            most,
            deploy_locks: AppLocks::default(),
            commit_locks: AppLocks::default(),
            roll_outs: RollOuts::default(),
            claims: Claims::new(stopping.clone()),
            checks: Checks::default(),
            stopping,
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        };
        // What a crash has left.
        shared.sweep(None);
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Most replicas of any app.
    pub fn max_replicas_cap(&self) -> u32 {
        self.shared.defaults.bounds.max_replicas_cap
    }

    /// One app.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn get(&self, id: &AppId) -> Result<Arc<App>, Failure> {
        self.shared
            .store
            .catalog()
            .get(id)
            .cloned()
            .ok_or_else(|| not_found(id))
    }

    /// At most `limit` apps of an organization by name, those after `after`.
    pub fn page(&self, org: &OrgName, after: Option<&AppName>, limit: usize) -> Vec<Arc<App>> {
        self.shared.store.catalog().page(org, after, limit)
    }

    /// As [`Apps::page`], of the published ones.
    pub fn published(&self, org: &OrgName, after: Option<&AppName>, limit: usize) -> Vec<Arc<App>> {
        self.shared.store.catalog().published(org, after, limit)
    }

    /// What the fleet does for an app; `None` before the first publish is begun.
    pub fn snapshot(&self, id: &AppId) -> Option<Snapshot> {
        self.shared.fleet.find(id).map(|d| d.snapshot())
    }

    /// Makes an app, with a draft when it comes with code.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with each wrong field; ALREADY_EXISTS for its name or a host label;
    /// STORE_QUOTA.
    pub async fn create(
        &self,
        id: AppId,
        settings: Settings,
        source: Option<CodeSource<Bytes>>,
    ) -> Result<Arc<App>, Failure> {
        self.shared.check_settings(&id, &settings, None).await?;
        // Asked before code takes the disk, and again by who writes the app down.
        let most = self.shared.most.apps_per_org;
        self.shared.store.catalog().check_number(&id, most)?;
        let source = match source {
            Some(source) => Some(self.shared.validate(&id, source).await?),
            None => None,
        };
        self.run_detached(move |s| async move {
            let (source, file) = match source {
                Some(source) => {
                    let (source, file) = s.store_code(&id, source).await?;
                    (Some(source), file)
                }
                None => (None, None),
            };
            let now = now_ms();
            let app = App {
                id: id.clone(),
                created_at_ms: now,
                updated_at_ms: now,
                used_at_ms: now,
                settings,
                draft: source.map(|source| Draft {
                    source,
                    created_at_ms: now,
                    built: None,
                    base: String::new(),
                }),
                versions: Vec::new(),
                active_version: 0,
            };
            // An app of this name that is being deleted goes first.
            let _deploying = s.deploy_locks.acquire(&id).await;
            s.commit_exclusively(&id, async {
                s.store
                    .commit_within(move |c| Ok((vec![c.create_within(app, most)?], ())))
                    .await?;
                if let Some(file) = file {
                    file.keep();
                }
                s.get(&id)
            })
            .await
        })
        .await
    }

    /// Changes settings; `edit` gets those in force. Live at once, the version stays. A version
    /// that is being readied is so anew with what was changed. Answers the app, and what there is
    /// to be said of it now that was not before.
    ///
    /// # Errors
    /// NOT_FOUND; what `edit` says; INVALID_ARGUMENT, ALREADY_EXISTS and STORE_QUOTA as for create.
    pub async fn update(
        &self,
        id: AppId,
        edit: impl FnOnce(&mut Settings) -> Result<(), Failure> + Clone + Send + 'static,
    ) -> Result<(Arc<App>, Vec<String>), Failure> {
        let (defaults, egress) = (self.shared.defaults, self.shared.egress.clone());
        // What takes long is checked here. The store's thread checks the rest again, on the newest
        // settings: a schema that came between was checked by whoever brought it.
        let before = self.get(&id)?;
        let mut settings = before.settings.clone();
        edit.clone()(&mut settings)?;
        self.shared
            .check_settings(&id, &settings, Some(&before.settings))
            .await?;
        self.run_detached(move |s| async move {
            let of = id.clone();
            let change = move |app: &mut App| {
                edit(&mut app.settings)?;
                none_wrong(wrong(&app.settings, &defaults, egress.as_ref()))?;
                app.updated_at_ms = now_ms();
                Ok(())
            };
            s.commit_exclusively(&id, async {
                let before = s.warnings(&*s.get(&id)?);
                s.store
                    .commit_within(move |c| Ok((vec![c.update(&of, change)?], ())))
                    .await?;
                let app = s.get(&id)?;
                let mut warnings = s.warnings(&app);
                warnings.retain(|w| !before.contains(w));
                let revision = Revision::of(&app, s.defaults);
                match (s.checks.of(&id), revision) {
                    (None, Some(revision)) => s.roll_out(revision),
                    (None, None) => {}
                    (Some(check), revision) => {
                        check.settings_changed(revision.is_none_or(|r| s.apply_at_once(&r)));
                    }
                }
                s.record_warnings(&id, app.active_version, &warnings);
                Ok((app, warnings))
            })
            .await
        })
        .await
    }

    /// Stops an app's replicas, requests in flight first finishing, and removes all of it.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub async fn delete(&self, id: AppId) -> Result<(), Failure> {
        self.run_detached(move |s| async move {
            let _claim = s.claims.make(&id);
            let _deploying = s.deploy_locks.acquire(&id).await;
            let gone = id.clone();
            s.commit_exclusively(&id, async {
                let (before, since) = s
                    .store
                    .commit(move |c| {
                        let before = c.get(&gone).cloned();
                        let deleted = c.delete(&gone)?;
                        let since = before.as_ref().map_or(0, |app| app.created_at_ms);
                        Ok((vec![deleted, Change::MarkVolumeForDeletion(gone, since)], (before, since)))
                    })
                    .await?;
                s.builder.cancel_all_but(&id, None);
                s.routes.remove(&id);
                if let Err(failure) = s.executions.forget(id.clone()).await {
                    // They are out of sight with the app, and end when their turn comes.
                    tracing::error!(app = %id, "The executions of a deleted app could not be ended: {}", failure.text(true));
                }
                s.fleet.remove(&id).await;
                s.volumes.remove_of(&id, since).await;
                if let Some(before) = before {
                    s.collect(&before).await;
                }
                Ok(())
            })
            .await
        })
        .await
    }

    /// Calls off what is being read of what was sent, in operations and in builds: it would go on
    /// for as long as requests may take to finish.
    pub fn stop_parsing(&self) {
        self.shared.parsing.stop();
        self.shared.builder.stop_parsing();
    }

    /// Waits until every operation has ended, calling off what waits for a pull or a start. New
    /// ones must not come in any more.
    pub async fn finish(&self) {
        self.shared.stopping.cancel();
        self.shared.builder.finish().await;
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Runs an operation in a task, so that it ends although its caller may leave.
    async fn run_detached<T, F>(
        &self,
        operation: impl FnOnce(Arc<Shared>) -> F,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let shared = self.shared.clone();
        let task = self
            .shared
            .tasks
            .spawn_on(operation(shared), &self.shared.runtime);
        task.await.unwrap_or_else(|panicked| {
            tracing::error!(error = %panicked, "An operation on an app panicked");
            Err(Failure::new(
                Reason::Internal,
                "the operation failed by a fault of the platform; its log has the cause",
            ))
        })
    }
}

impl Shared {
    fn get(&self, id: &AppId) -> Result<Arc<App>, Failure> {
        self.store
            .catalog()
            .get(id)
            .cloned()
            .ok_or_else(|| not_found(id))
    }

    /// Checks settings that are to take the place of others.
    async fn check_settings(
        &self,
        id: &AppId,
        settings: &Settings,
        before: Option<&Settings>,
    ) -> Result<(), Failure> {
        let mut wrong = wrong(settings, &self.defaults, self.egress.as_ref());
        let schemas = settings.new_schemas(before);
        if !schemas.is_empty() {
            let checked = self
                .parsing
                .run(id, move |cancelled| Ok(check_schemas(&schemas, cancelled)));
            wrong.extend(checked.await?);
        }
        none_wrong(wrong)
    }

    /// Does what may take as long as a pull or a start, unless the platform stops meanwhile.
    async fn unless_stopping<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let outcome = self.stopping.run_until_cancelled(work).await;
        outcome.unwrap_or_else(|| Err(claims::stopping()))
    }
}

/// What of settings is wrong, but for their schemas.
fn wrong(
    settings: &Settings,
    defaults: &Defaults,
    egress: Option<&Ceiling>,
) -> Vec<FieldViolation> {
    let mut wrong = settings.check(defaults.bounds.max_replicas_cap);
    if settings.writable_root_fs && defaults.strict {
        wrong.push(FieldViolation {
            field: "writable_root_fs".to_owned(),
            description: "is not to be had from a strict platform; write to $HOME or /tmp"
                .to_owned(),
        });
    }
    let over = settings.capabilities.without(defaults.capabilities);
    let refused = match defaults.strict {
        true if !settings.capabilities.is_empty() => Some(
            "are not to be had from a strict platform; use an image that runs without root"
                .to_owned(),
        ),
        false if !over.is_empty() => Some(format!(
            "has {over}, which this server does not give; it gives {} (allowed_caps)",
            defaults.capabilities
        )),
        _ => None,
    };
    wrong.extend(refused.map(|description| FieldViolation {
        field: "capabilities".to_owned(),
        description,
    }));
    if let Some(Err(description)) = egress.map(|ceiling| ceiling.check(&settings.egress)) {
        wrong.push(FieldViolation {
            field: "egress".to_owned(),
            description,
        });
    }
    wrong
}

fn none_wrong(wrong: Vec<FieldViolation>) -> Result<(), Failure> {
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Failure::fields(wrong))
    }
}

/// What a version keeps of its image.
fn facts(image: &Image, image_ref: &str) -> ImageFacts {
    ImageFacts {
        user: Some(image.user.clone()),
        home: image.home.clone(),
        brings_init: Some(image.brings_init),
        digest_ref: crate::model::app::digest_ref(image_ref, &image.digests),
        exposed_ports: image.exposed_ports.clone(),
    }
}
