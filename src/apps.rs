//! The life of an app: created, configured, given code, published, deleted.
//!
//! Every operation that changes an app runs to its end in a task of its own, so a client that
//! leaves in the middle leaves nothing half done. Operations that touch replicas take turns per
//! app. The order is always: make sure that it can work, write it down, then act on it.

mod claims;
mod drafts;
mod trials;
mod versions;

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::claims::Claims;
use crate::{
    build::{Builder, Images},
    clock::now_ms,
    engine::Image,
    fleet::{Fleet, Snapshot},
    gateway::Routes,
    model::{
        App, AppId, AppName, CodeSource, Draft, Failure, FieldViolation, ImageFacts, OrgName,
        Reason, Revision,
        catalog::{Change, not_found},
        host,
        revision::Defaults,
        settings::Settings,
    },
    store::{Store, blobs::Blobs, executions::Executions},
    upkeep::Volumes,
};

pub use drafts::DraftView;
pub use versions::Code;

/// Wait before a changed configuration that did not get ready is tried again beside the
/// replicas that still serve.
const ROLL_OUT_RETRY: Duration = Duration::from_secs(5);

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
    /// Code that was handed in.
    pub blobs: Blobs,
    /// Apps' files.
    pub volumes: Volumes,
    /// What holds for apps that say nothing.
    pub defaults: Defaults,
}

struct Shared {
    store: Store,
    executions: Executions,
    fleet: Fleet,
    routes: Arc<Routes>,
    images: Images,
    builder: Builder,
    blobs: Blobs,
    volumes: Volumes,
    defaults: Defaults,
    turns: Mutex<HashMap<AppId, Weak<Semaphore>>>,
    /// Configurations on their way to the replicas, called off by the app's next operation.
    roll_outs: Mutex<HashMap<AppId, RollOut>>,
    claims: Claims,
    /// Ends all roll-outs, also those that begin later, and publishes that still wait.
    stopping: CancellationToken,
    tasks: TaskTracker,
    /// Where they run: not on the thread that happens to carry a caller's connection.
    runtime: Handle,
}

/// A configuration on its way to the replicas.
struct RollOut {
    called_off: CancellationToken,
    task: JoinHandle<()>,
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
            blobs,
            volumes,
            defaults,
        } = parts;
        let stopping = CancellationToken::new();
        let shared = Shared {
            store,
            executions,
            fleet,
            routes,
            images,
            builder,
            blobs,
            volumes,
            defaults,
            turns: Mutex::default(),
            roll_outs: Mutex::default(),
            claims: Claims::new(stopping.clone()),
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

    /// What the fleet does for an app; `None` before the first publish.
    pub fn snapshot(&self, id: &AppId) -> Option<Snapshot> {
        self.shared.fleet.get(id).map(|d| d.snapshot())
    }

    /// Makes an app, with a draft when it comes with code.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with each wrong field; ALREADY_EXISTS for its name or a host label.
    pub async fn create(
        &self,
        id: AppId,
        settings: Settings,
        source: Option<CodeSource<Bytes>>,
    ) -> Result<Arc<App>, Failure> {
        check(&settings, &self.shared.defaults)?;
        self.to_the_end(move |s| async move {
            let (source, file) = match source {
                Some(source) => {
                    let (source, file) = s.take_in(source).await?;
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
            s.in_turn(&id, async {
                s.store
                    .commit(move |c| Ok((vec![c.create(app)?], ())))
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

    /// Changes settings; `edit` gets those in force. Live at once, the version stays.
    ///
    /// # Errors
    /// NOT_FOUND; what `edit` says; INVALID_ARGUMENT and ALREADY_EXISTS as for create.
    pub async fn update(
        &self,
        id: AppId,
        edit: impl FnOnce(&mut Settings) -> Result<(), Failure> + Send + 'static,
    ) -> Result<Arc<App>, Failure> {
        let defaults = self.shared.defaults;
        self.to_the_end(move |s| async move {
            let of = id.clone();
            let change = move |app: &mut App| {
                edit(&mut app.settings)?;
                check(&app.settings, &defaults)?;
                app.updated_at_ms = now_ms();
                Ok(())
            };
            s.in_turn(&id, async {
                s.store
                    .commit(move |c| Ok((vec![c.update(&of, change)?], ())))
                    .await?;
                let app = s.get(&id)?;
                if let Some(revision) = Revision::of(&app, s.defaults) {
                    s.roll_out(revision);
                }
                Ok(app)
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
        self.to_the_end(move |s| async move {
            let _claim = s.claims.make(&id);
            let gone = id.clone();
            s.in_turn(&id, async {
                let (before, since) = s
                    .store
                    .commit(move |c| {
                        let before = c.get(&gone).cloned();
                        let deleted = c.delete(&gone)?;
                        let since = before.as_ref().map_or(0, |app| app.created_at_ms);
                        Ok((vec![deleted, Change::DoomVolume(gone, since)], (before, since)))
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

    /// Waits until every operation has ended, calling off what waits for a pull or a start. New
    /// ones must not come in any more.
    pub async fn finish(&self) {
        self.shared.stopping.cancel();
        self.shared.builder.finish().await;
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Runs an operation in a task, so that it ends although its caller may leave.
    async fn to_the_end<T, F>(&self, operation: impl FnOnce(Arc<Shared>) -> F) -> Result<T, Failure>
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

    /// Runs an operation on an app when no other one is under way. A configuration that is still
    /// being rolled out is called off: the operation starts from the newest. When it fails and so
    /// changes nothing, the roll-out goes on.
    async fn in_turn<T>(
        self: &Arc<Self>,
        id: &AppId,
        operation: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let _turn = self.turn(id).await;
        // Only now: the operation before may have begun it.
        let called_off = self.call_off(id).await;
        let outcome = operation.await;
        if called_off
            && outcome.is_err()
            && let Ok(app) = self.get(id)
            && let Some(revision) = Revision::of(&app, self.defaults)
        {
            self.roll_out(revision);
        }
        outcome
    }

    /// Does what may take as long as a pull or a start, unless the platform stops meanwhile.
    async fn unless_stopping<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let outcome = self.stopping.run_until_cancelled(work).await;
        outcome.unwrap_or_else(|| Err(claims::stopping()))
    }

    async fn turn(&self, id: &AppId) -> OwnedSemaphorePermit {
        let semaphore = {
            let mut turns = self.turns.lock();
            let known = turns.get(id).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                turns.retain(|_, turn| turn.strong_count() > 0);
                let fresh = Arc::new(Semaphore::new(1));
                turns.insert(id.clone(), Arc::downgrade(&fresh));
                fresh
            })
        };
        semaphore
            .acquire_owned()
            .await
            .expect("the semaphore is never closed")
    }

    /// Ends the app's roll-out and returns once it cannot act any more; whether there was one.
    async fn call_off(&self, id: &AppId) -> bool {
        let Some(roll_out) = self.roll_outs.lock().remove(id) else {
            return false;
        };
        let under_way = !roll_out.task.is_finished();
        roll_out.called_off.cancel();
        // A panic has been reported by the runtime; the roll-out is over all the same.
        let _ = roll_out.task.await;
        under_way
    }

    /// Brings a changed configuration to the replicas without a gap: when containers have to be
    /// replaced, the old ones serve until a new one is ready, for as many tries as it takes; what
    /// needs no other container holds for them at once, above all who may call them.
    /// The caller has the app's turn; the roll-out goes on after it.
    fn roll_out(self: &Arc<Self>, revision: Revision) {
        if !self.fleet.must_prepare(&revision) {
            self.routes.set(&self.fleet.activate(revision));
            return;
        }
        let id = revision.app.clone();
        if let Some(serving) = self.fleet.get(&id) {
            let serving = serving.with_revision(|r| r.driven_as(&revision));
            self.fleet.activate(serving);
        }
        let called_off = self.stopping.child_token();
        let (shared, token) = (self.clone(), called_off.clone());
        let replace = async move {
            loop {
                match shared.fleet.prepare(&revision).await {
                    Ok(_prepared) => {
                        shared.routes.set(&shared.fleet.activate(revision));
                        return;
                    }
                    Err(failure) => {
                        tracing::warn!(app = %revision.app, "The changed configuration does not get ready, the one before serves on: {}", failure.text(true));
                    }
                }
                tokio::time::sleep(ROLL_OUT_RETRY).await;
            }
        };
        let replaced = async move {
            token.run_until_cancelled(replace).await;
        };
        let task = self.tasks.spawn_on(replaced, &self.runtime);
        self.roll_outs
            .lock()
            .insert(id, RollOut { called_off, task });
    }
}

fn check(settings: &Settings, defaults: &Defaults) -> Result<(), Failure> {
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

/// An image that exposes other ports than the app's is likely to listen elsewhere.
fn warn_of_ports(app: &App, exposed: &[u16]) {
    let primary = app
        .settings
        .ports()
        .first()
        .copied()
        .unwrap_or(host::DEFAULT_PORT);
    if !exposed.is_empty() && !exposed.contains(&primary) {
        tracing::warn!(app = %app.id, "The image exposes {exposed:?} and the app's port is {primary}; if it does not listen on $PORT, set `ports`");
    }
}
