//! The catalog: the published apps of an organization, as other organizations may see them.
//!
//! Every method of the contract but HealthCheck needs a token, so the public catalog does too; a
//! token of any organization suffices.

use std::sync::Arc;

use tonic::Request;

use super::{Compute, ForOwner, Refusal};
use crate::{
    api::{convert, pages, proto::v1},
    model::{App, AppId, AppName, Failure, OrgName, Reason, id::PUBLIC_ORG},
};

impl Compute {
    pub(super) async fn catalog(
        &self,
        request: Request<v1::ListCatalogRequest>,
    ) -> Result<v1::ListCatalogResponse, Refusal> {
        self.caller(&request)?;
        let r = request.get_ref();
        let org = convert::org(&r.organization_name)?;
        if org.as_str() != PUBLIC_ORG {
            self.owner(&request, &org)?;
        }
        let (entries, next_cursor) = self.entries(&org, r.limit, &r.cursor).for_owner()?;
        Ok(v1::ListCatalogResponse {
            entries,
            next_cursor,
        })
    }

    pub(super) async fn public_catalog(
        &self,
        request: Request<v1::ListPublicCatalogRequest>,
    ) -> Result<v1::ListPublicCatalogResponse, Refusal> {
        self.caller(&request)?;
        let r = request.get_ref();
        let (entries, next_cursor) = self.entries(&public(), r.limit, &r.cursor)?;
        Ok(v1::ListPublicCatalogResponse {
            entries,
            next_cursor,
        })
    }

    pub(super) async fn public_entry(
        &self,
        request: Request<v1::GetPublicCatalogDetailRequest>,
    ) -> Result<v1::GetPublicCatalogDetailResponse, Refusal> {
        self.caller(&request)?;
        let name: AppName = request
            .get_ref()
            .name
            .parse()
            .map_err(|e| Failure::field("name", format!("{e}")))?;
        let id = AppId {
            org: public(),
            name,
        };
        // Other organizations must not learn of an app that is not published.
        let app = self.apps.get(&id).ok();
        let app = app.filter(|app| app.active_version != 0).ok_or_else(|| {
            Failure::new(
                Reason::NotFound,
                format!(
                    "the public catalog has no app {}; ListPublicCatalog lists what there is",
                    id.name
                ),
            )
        })?;
        Ok(v1::GetPublicCatalogDetailResponse {
            entry: Some(self.entry(&app)),
        })
    }

    fn entries(
        &self,
        org: &OrgName,
        limit: i32,
        cursor: &str,
    ) -> Result<(Vec<v1::CatalogEntry>, String), Failure> {
        let limit = pages::size(limit)?;
        let after = pages::parse_cursor(cursor, "this method")?;
        // One entry more than asked for shows whether there is a next page.
        let found = self.apps.published(org, after.as_ref(), limit + 1);
        let (entries, last) = pages::fill(&found, limit, |app| self.entry(app));
        Ok((entries, pages::next_cursor(last.map(|app| &app.id.name))))
    }

    fn entry(&self, app: &Arc<App>) -> v1::CatalogEntry {
        let s = &app.settings;
        v1::CatalogEntry {
            name: app.id.name.to_string(),
            organization_name: app.id.org.to_string(),
            description: s.description.clone(),
            input_schema: s.input_schema.clone(),
            output_schema: s.output_schema.clone(),
            mcp_enabled: s.mcp_enabled,
            public_urls: self.public_urls(app),
            active_version: app.active_version,
        }
    }
}

fn public() -> OrgName {
    PUBLIC_ORG.parse().expect("the name is a valid one")
}
