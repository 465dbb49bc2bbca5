//! The life of an app: created, configured, given code, published, deleted.
//!
//! Every operation that changes an app runs to its end in a detached task, so a client that
//! disconnects in the middle leaves nothing half done. Operations that touch replicas take the
//! app's locks. The order is always: check that it can work, store it, then apply it.
//!
//! | File | Holds |
//! | --- | --- |
//! | `mod.rs` | [`Apps`]: create, read, list, update, delete |
//! | `drafts.rs` | Drafts: save, build, publish; collection of unused files and images |
//! | `dev.rs` | What development sessions do: changed files without a build, versions that go |
//! | `versions.rs` | Published versions: list, read, roll back |
//! | `checks.rs` | Activation of a version once a replica of it is ready |
//! | `locks.rs` | The locks of an app, and roll-outs of changed configurations |
//! | `claims.rs` | Claims, by which a newer operation cancels an older one's wait |
//! | `warnings.rs` | Warnings to an app's owner |
//! | `test_runs.rs` | Test runs of a draft or a version |

mod checks;
mod claims;
mod dev;
mod drafts;
mod hosts;
mod locks;
mod most;
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
    parse_pool::Parsing,
    store::{Store, blobs::Blobs, executions::Executions, secrets::Secrets},
};

pub use dev::{Changes, DevRules};
pub use drafts::{DraftView, Published};
pub use most::Most;
pub use versions::Code;

/// The operations on apps; clones share their state.
#[derive(Clone)]
pub struct Apps {
    shared: Arc<Shared>,
}

/// The collaborators and settings of [`Apps`].
pub struct Parts {
    /// Stores apps.
    pub store: Store,
    /// The asynchronous executions, which are deleted with their app.
    pub executions: Executions,
    /// Runs the published versions.
    pub fleet: Fleet,
    /// Routes requests to the fleet.
    pub routes: Arc<Routes>,
    /// Finds and pulls images.
    pub images: Images,
    /// Builds images.
    pub builder: Builder,
    /// Seals build arguments.
    pub secrets: Secrets,
    /// Stores the code of drafts and versions.
    pub blobs: Blobs,
    /// The persistent files of apps.
    pub volumes: Volumes,
    /// Settings of apps that leave them out.
    pub defaults: Defaults,
    /// Bounds the parsing of what callers send.
    pub parsing: Parsing,
    /// The most that apps may connect to; `None` means no bound.
    pub egress: Option<Ceiling>,
    /// Bounds on the numbers of apps and versions.
    pub most: Most,
    /// What development sessions may do.
    pub dev: DevRules,
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
    dev: DevRules,
    /// Held by operations that decide which version serves.
    deploy_locks: AppLocks,
    /// Held while a change is stored and applied.
    commit_locks: AppLocks,
    /// Running roll-outs of changed configurations; the app's next operation cancels its own.
    roll_outs: RollOuts,
    claims: Claims,
    checks: Checks,
    /// Cancels all roll-outs, including those that begin later, and publishes that still wait.
    stopping: CancellationToken,
    tasks: TaskTracker,
    /// Runs operations, apart from the threads that carry callers' connections.
    runtime: Handle,
}

impl Apps {
    /// The apps of a store; published ones are handed to the fleet and routed.
    pub fn new(parts: Parts) -> Self {
        for app in parts.store.catalog().iter() {
            if !app.hosts.is_empty() {
                parts.routes.set_hosts(&app.id, &app.hosts);
            }
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
            dev,
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
            dev,
            deploy_locks: AppLocks::default(),
            commit_locks: AppLocks::default(),
            roll_outs: RollOuts::default(),
            claims: Claims::new(stopping.clone()),
            checks: Checks::default(),
            stopping,
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        };
        // Removes images that a crash has left behind.
        shared.sweep(None);
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The highest allowed maximum of replicas of any app.
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

    /// At most `limit` apps of an organization in order of name, starting after `after`.
    pub fn page(&self, org: &OrgName, after: Option<&AppName>, limit: usize) -> Vec<Arc<App>> {
        self.shared.store.catalog().page(org, after, limit)
    }

    /// As [`Apps::page`], for published apps.
    pub fn published(&self, org: &OrgName, after: Option<&AppName>, limit: usize) -> Vec<Arc<App>> {
        self.shared.store.catalog().published(org, after, limit)
    }

    /// The fleet's view of an app; `None` before its first publish begins.
    pub fn snapshot(&self, id: &AppId) -> Option<Snapshot> {
        self.shared.fleet.find(id).map(|d| d.snapshot())
    }

    /// Creates an app, with a draft when it has code.
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
        // Checked before code takes disk space, and again when the app is stored.
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
                hosts: Vec::new(),
            };
            // Waits for the deletion of an app of the same name.
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

    /// Changes settings by `edit`, which gets the current ones. The change is live at once and
    /// makes no version; a running publish waits for a replica with it. Returns app and warnings.
    ///
    /// # Errors
    /// NOT_FOUND; the failure of `edit`; INVALID_ARGUMENT, ALREADY_EXISTS, STORE_QUOTA as create.
    pub async fn update(
        &self,
        id: AppId,
        edit: impl FnOnce(&mut Settings) -> Result<(), Failure> + Clone + Send + 'static,
    ) -> Result<(Arc<App>, Vec<String>), Failure> {
        let (defaults, egress) = (self.shared.defaults, self.shared.egress.clone());
        // Slow checks run here. The store's thread repeats the fast ones on the newest settings; a
        // schema that another update stored in between was checked by that update.
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
                        let all_applied = revision.is_none_or(|r| s.apply_at_once(&r));
                        if let (false, Some(serving)) = (all_applied, s.fleet.get(&id)) {
                            // With the version that is readied, or after it when that fails.
                            serving.rolling_out(app.active_version);
                        }
                        check.settings_changed(all_applied);
                    }
                }
                s.record_warnings(&id, app.active_version, &warnings);
                Ok((app, warnings))
            })
            .await
        })
        .await
    }

    /// Stops an app's replicas after their requests in flight, and removes all of the app.
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
                s.builder.forget_logs(&id).await;
                s.routes.remove(&id);
                if let Err(failure) = s.executions.forget(id.clone()).await {
                    // Nothing finds them without the app, and each ends when it is next dequeued.
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

    /// Cancels the parsing of what callers sent, in operations and builds, which could otherwise
    /// last as long as requests may take to finish.
    pub fn stop_parsing(&self) {
        self.shared.parsing.stop();
        self.shared.builder.stop_parsing();
    }

    /// Cancels the waits for pulls and starts, and waits until every operation has ended. The
    /// caller starts no new ones.
    pub async fn finish(&self) {
        self.shared.stopping.cancel();
        self.shared.builder.finish().await;
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Runs an operation in a task, so that it completes even if its caller is dropped.
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
                "the operation failed because of a fault of the platform; its log has the cause",
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

    /// Checks settings that are to replace `before`.
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

    /// Runs work that may take as long as a pull or a start, until the platform stops.
    async fn unless_stopping<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let outcome = self.stopping.run_until_cancelled(work).await;
        outcome.unwrap_or_else(|| Err(claims::stopping()))
    }
}

/// The wrong fields of settings, apart from their schemas.
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
    if settings.api_access && !defaults.api_access {
        wrong.push(FieldViolation {
            field: "api_access".to_owned(),
            description: "is not to be had where organizations do not trust each other (trust is tenants); call the API from outside"
                .to_owned(),
        });
    }
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

/// The facts about an image that its version keeps.
fn facts(image: &Image, image_ref: &str) -> ImageFacts {
    ImageFacts {
        user: Some(image.user.clone()),
        home: image.home.clone(),
        brings_init: Some(image.brings_init),
        digest_ref: crate::model::app::digest_ref(image_ref, &image.digests),
        exposed_ports: image.exposed_ports.clone(),
    }
}
