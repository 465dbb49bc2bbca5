//! The catalog: the published apps of an organization, as other organizations may see them. That of
//! the organization `public` is open to callers without a token.

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
        let org = self.listed_org(&request, &r.organization_name)?;
        let (items, next_cursor) = self
            .items(&org, r.source_type, r.limit, &r.cursor)
            .for_owner()?;
        Ok(v1::ListCatalogResponse { items, next_cursor })
    }

    pub(super) async fn public_catalog(
        &self,
        request: Request<v1::ListPublicCatalogRequest>,
    ) -> Result<v1::ListPublicCatalogResponse, Refusal> {
        let r = request.get_ref();
        let (items, next_cursor) = self.items(&public(), r.source_type, r.limit, &r.cursor)?;
        Ok(v1::ListPublicCatalogResponse { items, next_cursor })
    }

    pub(super) async fn public_item(
        &self,
        request: Request<v1::GetPublicCatalogDetailRequest>,
    ) -> Result<v1::GetPublicCatalogDetailResponse, Refusal> {
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
            item: Some(self.item(&app)),
        })
    }

    /// The organization whose published apps a caller lists: its own, or `public`.
    ///
    /// # Errors
    /// UNAUTHENTICATED, INVALID_ARGUMENT, PERMISSION_DENIED.
    pub(super) fn listed_org<T>(
        &self,
        request: &Request<T>,
        name: &str,
    ) -> Result<OrgName, Failure> {
        self.caller(request)?;
        let org = convert::org(name)?;
        if org.as_str() != PUBLIC_ORG {
            self.owner(request, &org)?;
        }
        Ok(org)
    }

    fn items(
        &self,
        org: &OrgName,
        source_type: i32,
        limit: i32,
        cursor: &str,
    ) -> Result<(Vec<v1::CatalogItem>, String), Failure> {
        let limit = pages::size(limit)?;
        let after = pages::parse_cursor(cursor, "this method")?;
        if !lists_apps(source_type)? {
            return Ok(Default::default());
        }
        // One entry more than asked for shows whether there is a next page.
        let found = self.apps.published(org, after.as_ref(), limit + 1);
        let (items, last) = pages::fill(&found, limit, |app| self.item(app));
        Ok((items, pages::next_cursor(last.map(|app| &app.id.name))))
    }

    fn item(&self, app: &Arc<App>) -> v1::CatalogItem {
        let s = &app.settings;
        let runtime = app.active().map_or("", |v| v.source.runtime_label());
        v1::CatalogItem {
            id: app.id.to_string(),
            name: app.id.name.to_string(),
            description: s.description.clone(),
            created_at_ms: app.created_at_ms,
            source: Some(v1::catalog_item::Source::App(v1::AppCatalogFields {
                runtime: runtime.to_owned(),
                mcp_enabled: s.mcp_enabled,
                ..Default::default()
            })),
            organization_name: app.id.org.to_string(),
            input_schema: s.input_schema.clone(),
            output_schema: s.output_schema.clone(),
            public_urls: self.public_urls(app),
            active_version: app.active_version,
            ..Default::default()
        }
    }
}

fn public() -> OrgName {
    PUBLIC_ORG.parse().expect("the name is a valid one")
}

/// Whether a list of items with this behind them has apps in it.
fn lists_apps(source_type: i32) -> Result<bool, Failure> {
    use v1::CatalogSourceType as T;
    match T::try_from(source_type) {
        Ok(T::CatalogSourceUnspecified | T::CatalogSourceFunction) => Ok(true),
        Ok(T::CatalogSourceModel) => Ok(false),
        Err(_) => Err(Failure::field(
            "source_type",
            format!(
                "{source_type} is no CatalogSourceType; use CATALOG_SOURCE_FUNCTION or CATALOG_SOURCE_MODEL"
            ),
        )),
    }
}
