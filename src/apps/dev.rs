//! What development sessions do beyond the life of an app: changed files without a build, and the
//! end of what they superseded.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Apps, Published,
    versions::{draft, find},
};
use crate::{
    builder::{self, Format},
    clock::now_ms,
    model::{AppId, Failure, Reason, Version, code::Overlay, files::normal, work::Cancelled},
};

/// Most bytes of changed files: they are sent to the engine at each start of a replica.
const SYNC_BYTES: usize = 8 << 20;

/// What the server allows development sessions.
#[derive(Debug, Clone, Copy)]
pub struct DevRules {
    /// Changed files may be laid over an image: nobody but this machine's owner deploys, and the
    /// platform is not to behave as the cloud's.
    pub syncs: bool,
    /// Apps may be open without a token: only this machine reaches the server.
    pub opens: bool,
}

/// Changed files, and the version over whose image they are laid.
#[derive(Debug, Clone)]
pub struct Changes {
    /// The version.
    pub version: u32,
    /// The directory of the image that the files are put into.
    pub path: String,
    /// The files, as .tar.gz.
    pub files: Bytes,
}

impl Apps {
    /// What the server allows development sessions.
    pub fn dev_rules(&self) -> DevRules {
        self.shared.dev
    }

    /// Most bytes of changed files.
    pub const fn sync_bytes() -> usize {
        SYNC_BYTES
    }

    /// Makes the draft the next version with the active version's image and changed files over it,
    /// once a replica of it is ready.
    ///
    /// # Errors
    /// NOT_FOUND; INVALID_ARGUMENT for the path or the files; BODY_TOO_LARGE; STORE_QUOTA;
    /// FAILED_PRECONDITION where the server does not allow it, without a draft, or when another
    /// version is active; ABORTED as for a publish; why no replica becomes ready. In each case the
    /// previous version keeps serving.
    pub async fn sync(&self, id: AppId, changes: Changes) -> Result<Published, Failure> {
        let s = &self.shared;
        if !s.dev.syncs {
            return Err(Failure::new(
                Reason::FailedPrecondition,
                "this server builds every change: files are laid over an image only where the trust level is sandbox, and not under --strict",
            ));
        }
        self.get(&id)?;
        let Changes {
            version: from,
            path,
            files,
        } = changes;
        if path.is_empty() || normal(&path) != path {
            return Err(Failure::field(
                "path",
                format!("{path:?} is not the plain path of a directory, such as /app"),
            ));
        }
        if files.len() > SYNC_BYTES {
            return Err(Failure::new(
                Reason::BodyTooLarge,
                format!(
                    "the changed files have {} bytes, and {SYNC_BYTES} are the most; build the draft instead",
                    files.len()
                ),
            ));
        }
        let limits = s.builder.config().limits;
        let parsed = files.clone();
        let check = move |cancelled: Cancelled<'_>| {
            if builder::format(&parsed) != Format::TarGz {
                return Err(Failure::field("changes", "is not a .tar.gz"));
            }
            builder::inspect_archive(&parsed, limits, &[], cancelled)
                .map(drop)
                .map_err(|why| Failure::field("changes", why))
        };
        s.parsing.run(&id, check).await?;
        self.run_detached(move |s| async move {
            s.store.ledger().check(&id.org, files.len() as u64)?;
            let claim = s.claims.make(&id);
            let _deploying = s.deploy_locks.acquire(&id).await;
            let app = s.get(&id)?;
            let draft = s.to_publish(&app)?;
            let base = find(&app, from)?;
            if app.active_version != from {
                return Err(Failure::new(
                    Reason::FailedPrecondition,
                    format!(
                        "version {} of app {id} is active, and the files are for version {from}; build the draft",
                        app.active_version
                    ),
                ));
            }
            let file = s.blobs.put(files).await?;
            let version = Version {
                number: 0,
                source: draft.source,
                image_ref: base.image_ref.clone(),
                image_id: base.image_id.clone(),
                facts: base.facts.clone(),
                overlay: Some(Overlay {
                    path,
                    files: file.blob().clone(),
                }),
                created_at_ms: now_ms(),
                settings: app.settings.clone(),
            };
            let app = s.switch(&id, &claim, true, version.into_next()).await?;
            file.keep();
            let version = app.active().cloned().ok_or_else(|| {
                Failure::new(Reason::Internal, "the published version is missing")
            })?;
            Ok(Published {
                version,
                app,
                warnings: Vec::new(),
            })
        })
        .await
    }

    /// Removes a version that neither serves nor is the newest, with its code and with the image
    /// that no other version names.
    ///
    /// # Errors
    /// NOT_FOUND; INVALID_ARGUMENT for version 0; FAILED_PRECONDITION for one that has to stay.
    pub async fn drop_version(&self, id: AppId, number: u32) -> Result<(), Failure> {
        self.run_detached(move |s| async move {
            let _deploying = s.deploy_locks.acquire(&id).await;
            let before = s.get(&id)?;
            find(&before, number)?;
            let of = id.clone();
            s.store
                .commit(move |c| {
                    let change = c.update(&of, |app| {
                        may_drop(app.active_version, app.versions.last(), number)?;
                        app.versions.retain(|v| v.number != number);
                        Ok(())
                    })?;
                    Ok((vec![change], ()))
                })
                .await?;
            s.collect(&before).await;
            Ok(())
        })
        .await
    }

    /// Ends the build of the draft and the wait of a publish, if they are under way.
    ///
    /// # Errors
    /// NOT_FOUND for the app.
    pub async fn stop_dev(&self, id: &AppId) -> Result<(), Failure> {
        let app = self.get(id)?;
        drop(self.shared.claims.make(id));
        if let Ok(draft) = draft(&app)
            && let Some(build) = self.shared.builder.under_way(id, draft)
        {
            build.cancel();
            // Its outcome is recorded; this only waits for its end.
            let _ = build.outcome().await;
        }
        Ok(())
    }
}

/// Refuses the removal of a version that is needed: of the newest, the number would be given again.
fn may_drop(active: u32, newest: Option<&Arc<Version>>, number: u32) -> Result<(), Failure> {
    let why = if active == number {
        "is active"
    } else if newest.is_some_and(|v| v.number == number) {
        "is the newest, whose number must not be given again"
    } else {
        return Ok(());
    };
    Err(Failure::new(
        Reason::FailedPrecondition,
        format!("version {number} {why}, so it stays"),
    ))
}
