//! Published versions: list, get, roll back, and the code of each.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tonic::Request;

use super::{Compute, ForOwner, Refusal, page_size, pages};
use crate::{
    api::{convert, proto::v1},
    model::Failure,
};

impl Compute {
    pub(super) async fn list_versions(
        &self,
        request: Request<v1::ListAppVersionsRequest>,
    ) -> Result<v1::ListAppVersionsResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let limit = page_size(r.limit)?;
        let before = parse_cursor(&r.cursor)?;
        // One more than asked for tells whether there is a next page.
        let (app, found) = self.apps.versions(&id, before, limit + 1).for_owner()?;
        let (versions, last) = pages::fill(&found, limit, |v| convert::version_to_wire(&app, v));
        let cursor = |last: u32| URL_SAFE_NO_PAD.encode(last.to_string());
        Ok(v1::ListAppVersionsResponse {
            versions,
            next_cursor: last.map_or_else(String::new, |v| cursor(v.number)),
        })
    }

    pub(super) async fn version(
        &self,
        request: Request<v1::GetAppVersionRequest>,
    ) -> Result<v1::GetAppVersionResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let (app, version) = self.apps.version(&id, r.version).for_owner()?;
        Ok(v1::GetAppVersionResponse {
            version: Some(convert::version_to_wire(&app, &version)),
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

fn parse_cursor(cursor: &str) -> Result<Option<u32>, Failure> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let number = URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok());
    number.map(Some).ok_or_else(|| {
        Failure::field(
            "cursor",
            "was not made by ListAppVersions; pass on next_cursor as it came, or leave it out",
        )
    })
}
