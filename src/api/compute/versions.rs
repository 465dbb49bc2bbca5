//! Published versions: list, get, roll back, and the code of each.

use tonic::Request;

use super::{Compute, ForOwner, Refusal};
use crate::api::{convert, pages, proto::v1};

impl Compute {
    pub(super) async fn list_versions(
        &self,
        request: Request<v1::ListAppVersionsRequest>,
    ) -> Result<v1::ListAppVersionsResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let limit = pages::size(r.limit)?;
        let before = pages::parse_cursor(&r.cursor, "ListAppVersions")?;
        // One entry more than asked for shows whether there is a next page.
        let (app, found) = self.apps.versions(&id, before, limit + 1).for_owner()?;
        let (versions, last) = pages::fill(&found, limit, |v| convert::version_to_wire(&app, v));
        Ok(v1::ListAppVersionsResponse {
            versions,
            next_cursor: pages::next_cursor(last.map(|v| v.number)),
        })
    }

    pub(super) async fn version(
        &self,
        request: Request<v1::GetAppVersionRequest>,
    ) -> Result<v1::GetAppVersionResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let (app, version) = self.apps.version(&id, r.version).for_owner()?;
        let published = convert::published_to_wire(
            &app,
            &version,
            self.apps.snapshot(&id).as_ref(),
            self.urls_of(&id, &version.settings),
        );
        Ok(v1::GetAppVersionResponse {
            version: Some(convert::version_to_wire(&app, &version)),
            app: Some(published),
        })
    }

    pub(super) async fn roll_back(
        &self,
        request: Request<v1::RollbackAppRequest>,
    ) -> Result<v1::RollbackAppResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let (app, previous_version) = self
            .apps
            .roll_back(id, r.version, !r.skip_ready_check)
            .await
            .for_owner()?;
        Ok(v1::RollbackAppResponse {
            active_version: app.active_version,
            previous_version,
        })
    }

    pub(super) async fn code(
        &self,
        request: Request<v1::GetAppCodeRequest>,
    ) -> Result<v1::GetAppCodeResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let code = self.apps.code(&id, r.version).await.for_owner()?;
        Ok(v1::GetAppCodeResponse {
            code_hash: code.hash.clone(),
            code_kind: convert::code_kind(&code.source).into(),
            version: code.version,
            code: Some(convert::code_to_wire(code)),
        })
    }
}
