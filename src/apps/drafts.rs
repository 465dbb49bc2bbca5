//! Drafts: saved, built, published.
//!
//! Code is on disk before a record names it, and a build is recorded before it is reported. A crash
//! at any point therefore leaves a consistent draft: saved or not, built or not. Repeating the call
//! then succeeds.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::{Apps, Shared, facts, versions::draft, warnings};
use crate::{
    builder::{self, Build, Format, Found},
    clock::now_ms,
    engine::Image,
    model::{
        App, AppId, BuildId, CodeSource, Draft, Failure, Reason, Version, catalog::not_found,
        code::BuiltImage, stored, work::Cancelled,
    },
    store::blobs::NewBlob,
};

/// The outcome of a publish.
#[derive(Debug, Clone)]
pub struct Published {
    /// The app.
    pub app: Arc<App>,
    /// Its new version.
    pub version: Arc<Version>,
    /// Warnings to its owner.
    pub warnings: Vec<String>,
}

/// A draft, with its build when one is running.
#[derive(Debug, Clone)]
pub struct DraftView {
    /// The draft.
    pub draft: Draft,
    /// The running build.
    pub building: Option<BuildId>,
}

impl Apps {
    /// Saves code as the draft, which replaces the previous draft and cancels its build.
    ///
    /// # Errors
    /// NOT_FOUND; INVALID_ARGUMENT for code that cannot be built as it is; BODY_TOO_LARGE;
    /// STORE_QUOTA.
    pub async fn save_draft(
        &self,
        id: AppId,
        source: CodeSource<Bytes>,
    ) -> Result<DraftView, Failure> {
        // Checked first: nothing is parsed or stored for an app that does not exist.
        self.get(&id)?;
        let source = self.shared.validate(&id, source).await?;
        self.run_detached(move |s| async move {
            s.get(&id)?;
            let (source, file) = s.store_code(&id, source).await?;
            let draft = Draft {
                source,
                created_at_ms: now_ms(),
                built: None,
                base: String::new(),
            };
            let saved = draft.clone();
            let of = id.clone();
            let before = s
                .store
                .commit_within(move |c| {
                    let before = c.get(&of).cloned().ok_or_else(|| not_found(&of))?;
                    let change = c.update(&of, |app| {
                        let base = app.draft.as_ref().and_then(Draft::image);
                        let base = base.filter(|_| draft.source.prebuilt().is_none());
                        app.draft = Some(Draft {
                            base: base.unwrap_or_default().to_owned(),
                            ..draft
                        });
                        Ok(())
                    })?;
                    Ok((vec![change], before))
                })
                .await?;
            if let Some(file) = file {
                file.keep();
            }
            s.builder.cancel_all_but(&id, Some(&saved));
            // Under the deploy lock, since a running publish may be about to make a version of the
            // previous draft. The caller need not wait for it.
            let shared = s.clone();
            let collect = async move {
                let _deploying = shared.deploy_locks.acquire(&id).await;
                shared.collect(&before).await;
            };
            s.tasks.spawn_on(collect, &s.runtime);
            Ok(DraftView {
                draft: saved,
                building: None,
            })
        })
        .await
    }

    /// An app's draft and its build.
    ///
    /// # Errors
    /// NOT_FOUND for the app or the draft.
    pub fn draft(&self, id: &AppId) -> Result<DraftView, Failure> {
        let app = self.get(id)?;
        Ok(self.shared.view(id, draft(&app)?))
    }

    /// The draft of this app, if it has one.
    pub fn view(&self, app: &App) -> Option<DraftView> {
        let draft = app.draft.as_ref()?;
        Some(self.shared.view(&app.id, draft))
    }

    /// Starts the build of the draft, or joins the running one.
    ///
    /// # Errors
    /// NOT_FOUND for the app or the draft; BUILD_QUEUE_FULL.
    pub async fn compile(&self, id: AppId) -> Result<(BuildId, DraftView), Failure> {
        let app = self.get(&id)?;
        let build = self.shared.build(&id, draft(&app)?)?;
        Ok((build.id, self.draft(&id)?))
    }

    /// A build that is under way, or of which there is a log.
    ///
    /// # Errors
    /// NOT_FOUND, also for a build of an app that `may_see` refuses.
    pub async fn find_build(
        &self,
        id: &str,
        may_see: impl Fn(&AppId) -> bool,
    ) -> Result<Found, Failure> {
        let found = match id.parse() {
            Ok(id) => self.shared.builder.find(id, may_see).await,
            Err(_) => None,
        };
        found.ok_or_else(|| {
            Failure::new(
                Reason::NotFound,
                format!("there is no build {id:?}, or its log is not kept any more; CompileDraft (`ignite draft compile`) starts one and answers its id"),
            )
        })
    }

    /// Makes the draft the next version and activates it; a draft without an image is built first.
    /// When `checked`, the previous version serves until a replica of the new one is ready.
    ///
    /// # Errors
    /// NOT_FOUND; STORE_QUOTA; FAILED_PRECONDITION without a draft, or when the draft was replaced
    /// while it was built; ABORTED when another publish, a rollback or a delete began while this
    /// one waited; why the build fails, the image cannot be pulled or the new version does not
    /// become ready. In each case the previous version keeps serving, and no version is made.
    pub async fn publish(&self, id: AppId, checked: bool) -> Result<Published, Failure> {
        self.run_detached(move |s| async move {
            // Before the deploy lock, so that other changes need not wait for a build.
            let wanted = s.to_publish(&*s.get(&id)?)?;
            let built = s.unless_stopping(s.built(&id, &wanted)).await?;
            let _held = built.as_ref().map(|(image, _)| s.builder.hold(image));
            let claim = s.claims.make(&id);
            let _deploying = s.deploy_locks.acquire(&id).await;
            let app = s.get(&id)?;
            let draft = s.to_publish(&app)?;
            if !draft.is_same(&wanted) {
                return Err(Failure::new(
                    Reason::FailedPrecondition,
                    format!("the draft of app {id} was replaced while it was built, so nothing was published; publish again"),
                ));
            }
            let (image_ref, image) = match (&draft.source, built) {
                (CodeSource::Prebuilt(source), _) => {
                    let image = claim.wait(s.images.resolve(&id.org, source)).await?;
                    (source.image_ref.clone(), image)
                }
                (_, Some(built)) => built,
                (_, None) => return Err(Failure::new(Reason::Internal, "the draft has no image after its build")),
            };
            let mut said: Vec<_> = s.images.foreign(&image_ref, &image).await?.into_iter().collect();
            warnings::add_new(&mut said, warnings::of_ports(&app.settings, &image.exposed_ports, s.defaults.strict));
            warnings::add_new(&mut said, image.notes.clone());
            let version = Version {
                number: 0,
                source: draft.source,
                facts: facts(&image, &image_ref),
                overlay: None,
                image_ref,
                image_id: image.id,
                created_at_ms: now_ms(),
                settings: app.settings.clone(),
            };
            let app = s.switch(&id, &claim, checked, version.into_next()).await?;
            let made = app.active().cloned();
            let version = made.ok_or_else(|| Failure::new(Reason::Internal, "the published version is missing"))?;
            warnings::add_new(&mut said, s.settings_warnings(&app.settings));
            s.record_warnings(&id, version.number, &said);
            // The events have the other warnings already, so those are only returned.
            warnings::add_new(&mut said, s.warnings(&app));
            warnings::add_new(&mut said, s.cloud_incompatibilities(&id, version.number));
            for warning in &said {
                tracing::warn!(app = %id, version = version.number, "{warning}");
            }
            Ok(Published {
                app,
                version,
                warnings: said,
            })
        })
        .await
    }
}

impl Shared {
    fn view(&self, id: &AppId, draft: &Draft) -> DraftView {
        DraftView {
            draft: draft.clone(),
            building: self.builder.under_way(id, draft).map(|b| b.id),
        }
    }

    /// Checks code from a request. Dropping the future cancels the check.
    pub(super) async fn validate(
        &self,
        id: &AppId,
        source: CodeSource<Bytes>,
    ) -> Result<CodeSource<Bytes>, Failure> {
        if source.bytes().is_none() {
            return Ok(source);
        }
        let limits = self.builder.config().limits;
        let work = move |cancelled: Cancelled<'_>| {
            check(&source, limits, cancelled)?;
            Ok(source)
        };
        self.parsing.run(id, work).await
    }

    /// The draft to publish, if the app may have one more version.
    pub(super) fn to_publish(&self, app: &App) -> Result<Draft, Failure> {
        let draft = app.draft.clone().ok_or_else(|| {
            Failure::new(
                Reason::FailedPrecondition,
                format!(
                    "app {} has no draft to publish; save one with SaveDraft (`ignite draft save`)",
                    app.id
                ),
            )
        })?;
        let most = self.most.versions_per_app;
        if app.versions.len() < most {
            // Checked before anything is started. A rollback, which repairs an app, is never
            // refused.
            let more = stored::of_snapshot(&app.settings);
            self.store.ledger().check(&app.id.org, more)?;
            return Ok(draft);
        }
        Err(Failure::new(
            Reason::StoreQuota,
            format!(
                "app {} has {} versions, and {most} are the most (IGNITE_VERSIONS_MAX_PER_APP); none is dropped by itself, since each can be returned to: remove old ones with PruneVersions (`ignite version prune`), or ask the operator for more",
                app.id,
                app.versions.len()
            ),
        ))
    }

    /// Stores the bytes of code, and seals its build arguments.
    pub(super) async fn store_code(
        &self,
        id: &AppId,
        source: CodeSource<Bytes>,
    ) -> Result<(CodeSource, Option<NewBlob>), Failure> {
        if let Some(image) = source.prebuilt() {
            let admission = self.images.admission();
            admission
                .check_name(&id.org, &image.image_ref)
                .map_err(|why| Failure::field("code.image.prebuilt.image_ref", why))?;
        }
        let Some(bytes) = source.bytes().cloned() else {
            let same = source.try_map(|_| {
                Err(Failure::new(
                    Reason::Internal,
                    "code without bytes has some",
                ))
            });
            return Ok((same?, None));
        };
        // Checked before the bytes take disk space; the quota counts the record that names them.
        self.store.ledger().check(&id.org, bytes.len() as u64)?;
        let file = self.blobs.put(bytes).await?;
        let mut source = source;
        if let CodeSource::FromCode(code) = &mut source {
            let args = std::mem::take(&mut code.build_args);
            code.build_args = self.secrets.seal_args(id.org.clone(), args).await?;
        }
        let source = source.try_map(|_| Ok::<_, Failure>(file.blob().clone()))?;
        Ok((source, Some(file)))
    }

    /// Removes the files and images that `before` refers to and the app's current state does not.
    pub(super) async fn collect(&self, before: &App) {
        let now = self.store.catalog().get(&before.id).cloned();
        // A later app of the same name has other files.
        self.blobs.collect(before, now.as_deref()).await;
        self.sweep(Some(before.id.clone()));
    }

    /// Removes built images that no draft and no version refers to, of all existing apps and of
    /// `changed`, which may have been deleted.
    pub(super) fn sweep(&self, changed: Option<AppId>) {
        let store = self.store.clone();
        self.builder.sweep(move || {
            let mut named = builder::Named::default();
            named.apps.extend(changed);
            for app in store.catalog().iter() {
                named.apps.insert(app.id.clone());
                let draft = app.draft.iter().filter_map(Draft::image).map(str::to_owned);
                let versions = app.versions.iter().map(|v| v.image_ref.clone());
                named.images.extend(draft.chain(versions));
            }
            named
        });
    }

    /// Starts the build of a draft, or joins the running one.
    pub(super) fn build(
        self: &Arc<Self>,
        id: &AppId,
        draft: &Draft,
    ) -> Result<Arc<Build>, Failure> {
        let (shared, of, wanted) = (self.clone(), id.clone(), draft.clone());
        let record: builder::Record = Box::new(move |built| {
            async move {
                let replaced = format!(
                    "the draft of app {of} was replaced while it was built; build it again"
                );
                let edit = move |app: &mut App| match &mut app.draft {
                    Some(draft) if draft.is_same(&wanted) => {
                        if built.outcome.is_ok() {
                            draft.base.clear();
                        }
                        draft.built = Some(built);
                        Ok(())
                    }
                    _ => Err(Failure::new(Reason::BuildCancelled, replaced)),
                };
                let id = of.clone();
                let recorded = shared
                    .store
                    .commit(move |c| Ok((vec![c.update(&id, edit)?], ())))
                    .await;
                shared.sweep(Some(of));
                recorded
            }
            .boxed()
        });
        self.builder.start(id, draft, record)
    }

    /// The image of a draft: the existing one, that of the running build, or of a new build. `None`
    /// for a prebuilt image.
    pub(super) async fn built(
        self: &Arc<Self>,
        id: &AppId,
        draft: &Draft,
    ) -> Result<Option<(String, Image)>, Failure> {
        if matches!(draft.source, CodeSource::Prebuilt(_)) {
            return Ok(None);
        }
        if self.builder.under_way(id, draft).is_none()
            && let Some(Ok(known)) = draft.built.as_ref().map(|b| &b.outcome)
            && let Some(image) = self.images.built(known).await?
        {
            return Ok(Some((known.image_ref.clone(), image)));
        }
        let made = self.build(id, draft)?.outcome().await?;
        match self.images.built(&made).await? {
            Some(image) => Ok(Some((made.image_ref, image))),
            None => Err(gone(&made)),
        }
    }
}

fn gone(image: &BuiltImage) -> Failure {
    Failure::new(
        Reason::ImageUnavailable,
        format!(
            "the image {} was removed as soon as it was built; build it again",
            image.image_ref
        ),
    )
}

/// Refuses code that no build could use.
fn check(
    source: &CodeSource<Bytes>,
    limits: builder::Limits,
    cancelled: Cancelled<'_>,
) -> Result<(), Failure> {
    match source {
        CodeSource::FromCode(code) => {
            builder::check_context(&code.archive, &code.dockerfile_path, limits, cancelled).map_err(
                |(field, why)| Failure::field(format!("code.image.from_code.{field}"), why),
            )
        }
        CodeSource::Compile(code) if builder::format(&code.source) != Format::Other => {
            builder::inspect_archive(&code.source, limits, &[], cancelled)
                .map(drop)
                .map_err(|why| Failure::field("code.compile.source_code", why))
        }
        _ => Ok(()),
    }
}
