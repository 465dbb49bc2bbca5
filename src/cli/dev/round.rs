//! One round: from the code to a version that serves, by changed files where that is enough, else
//! by a build; and the end of the versions that it supersedes.

use std::collections::HashSet;

use tonic::Code as Status;

use super::{Dev, files::Manifest};
use crate::{
    api::proto::{local::v1 as local, v1},
    cli::{
        Error, build::Lines, code::Code, context::Session, deploy, failure::note, publish,
        template::Live,
    },
};

/// Most versions that are looked through for superseded ones.
const LISTED: i32 = 100;

/// What the rounds so far have learned.
#[derive(Default)]
pub(super) struct State {
    /// What the server allows; `None` until it was asked, and again after it was away.
    support: Option<local::GetDevSupportResponse>,
    /// The newest version before the session; `None` until it is known.
    before: Option<u32>,
    /// The hashes of the code that this session saved.
    saved: HashSet<String>,
    /// The image that serves, when it has live code.
    built: Option<Image>,
}

/// An image, with the files that it was built from.
struct Image {
    id: String,
    files: Manifest,
    live: Live,
}

impl State {
    /// Asks anew what a server that was away may have forgotten.
    pub(super) fn doubt(&mut self) {
        self.support = None;
    }
}

impl Dev<'_> {
    /// From the code to a published version.
    pub(super) async fn round(
        &self,
        code: &Code,
        state: &mut State,
    ) -> Result<v1::PublishDraftResponse, Error> {
        // A new connection each round: a token minted on this machine expires within a working day.
        let session = self.context.connect(&self.app.org).await?;
        let support = match state.support {
            Some(support) => support,
            None => self.begin(&session, state).await?,
        };
        let mut client = session.client();
        let saved = session
            .answer(client.save_draft(code.request.clone()))
            .await?;
        state
            .saved
            .insert(saved.draft.unwrap_or_default().code_hash);
        let published = match self.sync(&session, code, state, support).await? {
            Some(published) => published,
            None => self.build(&session, code, state).await?,
        };
        if support.sync_bytes > 0
            && let Some(version) = &published.version
        {
            self.drop_superseded(&session, state, version.version).await;
        }
        Ok(published)
    }

    /// Creates or configures the app, and asks what the server allows.
    async fn begin(
        &self,
        session: &Session,
        state: &mut State,
    ) -> Result<local::GetDevSupportResponse, Error> {
        let (organization_name, app_name) = self.names();
        let request = local::GetDevSupportRequest {
            organization_name,
            app_name,
        };
        let mut client = session.dev();
        let support = match session.answer(client.get_dev_support(request)).await {
            // An older server, or the cloud.
            Err(e) if e.code() == Some(Status::Unimplemented) => Default::default(),
            asked => asked?,
        };
        let mut new = self.settings.clone();
        if support.opens && !self.closed {
            new.open_unless_said();
        }
        deploy::configure(session, &self.app, &new, &self.settings).await?;
        if state.before.is_none() {
            let newest = self.versions(session, 1).await?;
            state.before = Some(newest.first().map_or(0, |v| v.version));
        }
        state.support = Some(support);
        Ok(support)
    }

    async fn build(
        &self,
        session: &Session,
        code: &Code,
        state: &mut State,
    ) -> Result<v1::PublishDraftResponse, Error> {
        let lines = Some(Lines::Hidden);
        let published =
            publish::build_and_publish(self.context, session, &self.app, lines, false).await?;
        state.built = match (code.live, code.archive(), &published.version) {
            (Some(live), Some(archive), Some(version)) => {
                Manifest::of(archive).ok().map(|files| Image {
                    id: version.image_id.clone(),
                    files,
                    live,
                })
            }
            _ => None,
        };
        Ok(published)
    }

    /// Publishes changed files over the image that serves; `None` where it takes a build.
    async fn sync(
        &self,
        session: &Session,
        code: &Code,
        state: &State,
        support: local::GetDevSupportResponse,
    ) -> Result<Option<v1::PublishDraftResponse>, Error> {
        let (Some(image), Some(archive)) = (&state.built, code.archive()) else {
            return Ok(None);
        };
        if !support.syncs || code.live != Some(image.live) {
            return Ok(None);
        }
        let changes = match image.files.changes(archive) {
            Ok(Some(changes)) if changes.len() as u64 <= support.sync_bytes => changes,
            _ => return Ok(None),
        };
        // A round that was given up may have published after all.
        let active = self.versions(session, LISTED).await?;
        let active = active
            .into_iter()
            .find(|v| v.status() == v1::VersionStatus::Active);
        let Some(active) = active.filter(|v| v.image_id == image.id) else {
            return Ok(None);
        };
        let (organization_name, app_name) = self.names();
        let request = local::SyncDraftRequest {
            organization_name,
            app_name,
            version: active.version,
            path: image.live.path.to_owned(),
            changes: changes.into(),
        };
        match publish::sync(self.context, session, &self.app, request).await {
            Ok(published) => Ok(Some(published)),
            // Somebody else published in between, or the image is gone.
            Err(e) if e.code() == Some(Status::FailedPrecondition) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Removes the versions that this session made before this one. What is left, the next round
    /// tries again.
    async fn drop_superseded(&self, session: &Session, state: &State, live: u32) {
        let Ok(versions) = self.versions(session, LISTED).await else {
            return;
        };
        let before = state.before.unwrap_or(live);
        let is_superseded = |v: &v1::AppVersion| {
            before < v.version && v.version < live && state.saved.contains(&v.code_hash)
        };
        for version in versions.into_iter().filter(is_superseded) {
            let (organization_name, app_name) = self.names();
            let request = local::DropVersionRequest {
                organization_name,
                app_name,
                version: version.version,
            };
            if let Err(error) = session.answer(session.dev().drop_version(request)).await {
                error.print();
                note(&format!("version {} stays for now", version.version));
            }
        }
    }

    /// The newest versions.
    async fn versions(&self, session: &Session, limit: i32) -> Result<Vec<v1::AppVersion>, Error> {
        let (organization_name, app_name) = self.names();
        let request = v1::ListAppVersionsRequest {
            organization_name,
            app_name,
            limit,
            cursor: String::new(),
        };
        let mut client = session.client();
        let listed = session.answer(client.list_app_versions(request)).await?;
        Ok(listed.versions)
    }

    pub(super) fn names(&self) -> (String, String) {
        (self.app.org.to_string(), self.app.name.to_string())
    }
}
