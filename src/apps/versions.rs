//! Published versions: list, read, roll back, remove.

use std::sync::Arc;

use bytes::Bytes;

use super::Apps;
use crate::{
    clock::now_ms,
    model::{App, AppId, BuildArgs, CodeSource, Draft, Failure, Reason, Version, catalog::Catalog},
};

/// The code of a draft or of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// The source of its image, as saved.
    pub source: CodeSource<Bytes>,
    /// The hash that identifies it.
    pub hash: String,
    /// The number of its version; 0 is the draft.
    pub version: u32,
}

impl Apps {
    /// An app with at most `limit` of its versions older than `before`, newest first.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn versions(
        &self,
        id: &AppId,
        before: Option<u32>,
        limit: usize,
    ) -> Result<(Arc<App>, Vec<Arc<Version>>), Failure> {
        let app = self.get(id)?;
        let older = |v: &&Arc<Version>| before.is_none_or(|b| v.number < b);
        let page = app.versions.iter().rev().filter(older).take(limit);
        let page = page.cloned().collect();
        Ok((app, page))
    }

    /// An app and one of its versions.
    ///
    /// # Errors
    /// NOT_FOUND for the app or the version; INVALID_ARGUMENT for version 0.
    pub fn version(&self, id: &AppId, number: u32) -> Result<(Arc<App>, Arc<Version>), Failure> {
        let app = self.get(id)?;
        let version = find(&app, number)?;
        Ok((app, version))
    }

    /// The code of a version, or of the draft for version 0.
    ///
    /// # Errors
    /// NOT_FOUND for the app, the version or the draft; STORE_UNAVAILABLE when its bytes cannot
    /// be read.
    pub async fn code(&self, id: &AppId, number: u32) -> Result<Code, Failure> {
        let app = self.get(id)?;
        let source = match number {
            0 => draft(&app)?.source.clone(),
            n => find(&app, n)?.source.clone(),
        };
        let bytes = match source.bytes() {
            Some(blob) => self.shared.blobs.get(blob).await?,
            None => Bytes::new(),
        };
        let hash = source.code_hash();
        let mut source = source.try_map(|_| Ok::<_, Failure>(bytes))?;
        if let CodeSource::FromCode(code) = &mut source {
            let args = std::mem::take(&mut code.build_args);
            let opened = self.shared.secrets.open_args(&id.org, args).await?;
            code.build_args = BuildArgs::Clear(opened);
        }
        Ok(Code {
            hash,
            source,
            version: number,
        })
    }

    /// Activates an earlier version with the settings of its publish, except for who may call the
    /// app, which stays as it is. When `checked`, the previous version serves until a replica of
    /// that version is ready. Returns the app and the version that was active before.
    ///
    /// A rollback to the active version reverts the changes of settings since its publish.
    ///
    /// # Errors
    /// NOT_FOUND; INVALID_ARGUMENT for version 0; ALREADY_EXISTS when another app took a host label
    /// meanwhile; ABORTED when a publish, another rollback or a delete began while this one waited;
    /// why its image cannot be pulled or its replica does not become ready. In each case the
    /// previous version keeps serving.
    pub async fn roll_back(
        &self,
        id: AppId,
        number: u32,
        checked: bool,
    ) -> Result<(Arc<App>, u32), Failure> {
        self.run_detached(move |s| async move {
            find(&*s.get(&id)?, number)?;
            let claim = s.claims.make(&id);
            let _deploying = s.deploy_locks.acquire(&id).await;
            let app = s.get(&id)?;
            let previous = app.active_version;
            let version = find(&app, number)?;
            // Refused before anything is pulled.
            let restored = restore(&app, &version);
            s.store.catalog().update(&id, |app| {
                *app = restored;
                Ok(())
            })?;
            claim.wait(s.images.pinned(&id.org, &version)).await?;
            let next = move |app: &App| restore(app, &version);
            let app = s.switch(&id, &claim, checked, next).await?;
            Ok((app, previous))
        })
        .await
    }
}

impl Apps {
    /// Removes all but the newest `keep` versions and the active one, with their code and images.
    /// Returns the numbers of those that were removed, or with `dry_run` would be, and how many
    /// versions there are then.
    ///
    /// # Errors
    /// NOT_FOUND; INVALID_ARGUMENT for a `keep` of 0: the next version counts from the newest.
    pub async fn prune(
        &self,
        id: AppId,
        keep: u32,
        dry_run: bool,
    ) -> Result<(Vec<u32>, usize), Failure> {
        if keep == 0 {
            return Err(Failure::field(
                "keep",
                "is 0 or missing; keep at least 1 version",
            ));
        }
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        self.run_detached(move |s| async move {
            // A publish or rollback that runs may be about to activate one of them.
            let _deploying = s.deploy_locks.acquire(&id).await;
            let before = s.get(&id)?;
            let removed = superfluous(&before, keep);
            let left = before.versions.len() - removed.len();
            if dry_run || removed.is_empty() {
                return Ok((removed, left));
            }
            let (of, gone) = (id.clone(), removed.clone());
            let edit = move |app: &mut App| {
                app.versions.retain(|v| !gone.contains(&v.number));
                Ok(())
            };
            let change = move |c: &Catalog| Ok((vec![c.update(&of, edit)?], ()));
            s.store.commit(change).await?;
            s.collect(&before).await;
            Ok((removed, left))
        })
        .await
    }
}

/// The versions that are neither active nor among the newest `keep`, oldest first.
fn superfluous(app: &App, keep: usize) -> Vec<u32> {
    let older = app.versions.len().saturating_sub(keep);
    let older = app.versions.iter().take(older).map(|v| v.number);
    older
        .filter(|number| *number != app.active_version)
        .collect()
}

impl Version {
    /// Makes this version an app's next and active one, under the settings that it has then.
    pub(super) fn into_next(self) -> impl Fn(&App) -> App + Clone + Send + 'static {
        move |app| {
            let mut next = app.clone();
            next.active_version = app.versions.last().map_or(0, |v| v.number) + 1;
            next.updated_at_ms = now_ms();
            next.versions.push(Arc::new(Version {
                number: next.active_version,
                settings: app.settings.clone(),
                ..self.clone()
            }));
            next
        }
    }
}

/// The app with a version and the settings of its publish, except for who may call it, and
/// whether it reaches the API: a rollback repairs an app; it must not reopen what was shut since.
pub(super) fn restore(app: &App, version: &Version) -> App {
    let mut restored = app.clone();
    restored.settings = version.settings.clone();
    restored.settings.allow_unauthenticated = app.settings.allow_unauthenticated;
    restored.settings.api_access = app.settings.api_access;
    restored
        .settings
        .cors_origins
        .clone_from(&app.settings.cors_origins);
    restored.active_version = version.number;
    restored.updated_at_ms = now_ms();
    restored
}

/// One of an app's versions.
pub(super) fn find(app: &App, number: u32) -> Result<Arc<Version>, Failure> {
    if number == 0 {
        return Err(Failure::field(
            "version",
            "is 0 or missing; versions count from 1",
        ));
    }
    let found = app.versions.iter().rfind(|v| v.number == number);
    found.cloned().ok_or_else(|| {
        let there = match app.versions.last() {
            Some(newest) => format!(
                "its newest is {}; ListAppVersions (`ignite version list`) has them all",
                newest.number
            ),
            None => "nothing has been published yet".to_owned(),
        };
        Failure::new(
            Reason::NotFound,
            format!("app {} has no version {number}: {there}", app.id),
        )
    })
}

/// An app's draft.
pub(super) fn draft(app: &App) -> Result<&Draft, Failure> {
    app.draft.as_ref().ok_or_else(|| {
        Failure::new(
            Reason::NotFound,
            format!(
                "app {} has no draft; save one with SaveDraft (`ignite draft save`)",
                app.id
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::settings::Settings;

    #[test]
    fn a_rollback_restores_the_snapshot_and_leaves_who_may_call() {
        let source = CodeSource::Prebuilt(crate::model::ImageSource {
            image_ref: "a:1".into(),
            registry_secret_ref: String::new(),
        });
        let published = Settings {
            env: [("A".to_owned(), "1".to_owned())].into(),
            allow_unauthenticated: true,
            ..Settings::default()
        };
        let version = Arc::new(Version {
            number: 1,
            source,
            image_ref: "a:1".into(),
            image_id: "sha256:1".into(),
            facts: Default::default(),
            overlay: None,
            created_at_ms: 0,
            settings: published,
        });
        let app = App {
            id: "o/a".parse().expect("valid"),
            created_at_ms: 0,
            updated_at_ms: 0,
            used_at_ms: 0,
            settings: Settings {
                description: "later".into(),
                ..Settings::default()
            },
            draft: None,
            versions: vec![version.clone()],
            active_version: 2,
            hosts: Vec::new(),
        };
        let restored = restore(&app, &version);
        assert_eq!(restored.active_version, 1);
        assert_eq!(restored.settings.env["A"], "1");
        assert_eq!(restored.settings.description, "");
        assert!(!restored.settings.allow_unauthenticated, "it stays closed");
        assert!(find(&app, 0).is_err());
        let missing = find(&app, 3).expect_err("not there");
        assert!(missing.message.contains("newest is 1"), "{missing}");
    }
}
