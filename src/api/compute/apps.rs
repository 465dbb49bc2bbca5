//! Apps: create, list, configure, publish, delete.

use tonic::Request;

use super::{Compute, ForOwner as _, Refusal};
use crate::{
    api::{
        convert::{self, Patch},
        pages,
        proto::v1,
    },
    model::{App, AppId, catalog::public_urls, settings::Settings},
};

impl Compute {
    pub(in crate::api) fn public_urls(&self, app: &App) -> Vec<String> {
        if app.active_version == 0 {
            return Vec::new();
        }
        self.urls_of(&app.id, &app.settings)
    }

    /// The URLs of an app with these settings once it is published.
    pub(super) fn urls_of(&self, app: &AppId, settings: &Settings) -> Vec<String> {
        public_urls(
            app,
            settings.ports(),
            &self.urls.scheme,
            &self.urls.base_domain,
            self.urls.port,
        )
    }

    pub(super) fn meta(&self, app: &App) -> v1::AppMeta {
        convert::app_to_wire(
            app,
            self.apps.snapshot(&app.id).as_ref(),
            self.public_urls(app),
        )
    }

    pub(super) async fn create(
        &self,
        request: Request<v1::CreateAppRequest>,
    ) -> Result<v1::CreateAppResponse, Refusal> {
        self.caller(&request)?;
        let id = convert::named(
            &request.get_ref().organization_name,
            "name",
            &request.get_ref().name,
        )?;
        self.owner_of(&request, &id)?;
        let mut r = request.into_inner();
        let mut settings = Settings::default();
        Patch::of_create(&mut r).apply(&mut settings)?;
        let source = r.code.map(|c| self.parse_code(Some(c))).transpose()?;
        let app = self.apps.create(id, settings, source).await.for_owner()?;
        Ok(v1::CreateAppResponse {
            app_id: app.id.to_string(),
            deployment_state: v1::DeploymentState::Created.into(),
            applied_tier: convert::tier_to_wire(app.settings.tier).into(),
            applied_limits: Some(convert::applied_limits(&app.settings)),
            draft: self.apps.view(&app).as_ref().map(convert::view_to_wire),
        })
    }

    pub(super) fn list(
        &self,
        request: &Request<v1::ListAppsRequest>,
    ) -> Result<v1::ListAppsResponse, Refusal> {
        self.caller(request)?;
        let r = request.get_ref();
        let org = convert::org(&r.organization_name)?;
        self.owner(request, &org)?;
        let limit = pages::size(r.limit)?;
        let after = pages::parse_cursor(&r.cursor, "this method")?;
        // One entry more than asked for shows whether there is a next page.
        let found = self.apps.page(&org, after.as_ref(), limit + 1);
        let (apps, last) = pages::fill(&found, limit, |a| self.meta(a));
        Ok(v1::ListAppsResponse {
            apps,
            next_cursor: pages::next_cursor(last.map(|app| &app.id.name)),
        })
    }

    pub(super) async fn update(
        &self,
        request: Request<v1::UpdateAppConfigRequest>,
    ) -> Result<v1::UpdateAppConfigResponse, Refusal> {
        let id = self.owned(
            &request,
            &request.get_ref().organization_name,
            &request.get_ref().app_name,
        )?;
        let patch = Patch::of_update(request.into_inner())?;
        let (app, warnings) = self
            .apps
            .update(id, move |settings| patch.apply(settings))
            .await
            .for_owner()?;
        Ok(v1::UpdateAppConfigResponse {
            app: Some(self.meta(&app)),
            warnings,
        })
    }

    pub(super) async fn publish(
        &self,
        request: Request<v1::PublishDraftRequest>,
    ) -> Result<v1::PublishDraftResponse, Refusal> {
        let id = self.owned(
            &request,
            &request.get_ref().organization_name,
            &request.get_ref().app_name,
        )?;
        let checked = !request.get_ref().skip_ready_check;
        let published = self.apps.publish(id, checked).await.for_owner()?;
        let app = &published.app;
        Ok(v1::PublishDraftResponse {
            version: Some(convert::version_to_wire(app, &published.version)),
            public_urls: self.public_urls(app),
            warnings: published.warnings,
        })
    }

    pub(super) async fn delete(
        &self,
        request: Request<v1::DeleteAppRequest>,
    ) -> Result<v1::DeleteAppResponse, Refusal> {
        let id = self.owned(
            &request,
            &request.get_ref().organization_name,
            &request.get_ref().app_name,
        )?;
        let app_id = id.to_string();
        self.apps.delete(id).await.for_owner()?;
        Ok(v1::DeleteAppResponse { app_id })
    }
}
