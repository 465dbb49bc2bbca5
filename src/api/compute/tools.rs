//! Apps as tools of the Model Context Protocol (MCP): which apps are tools, and their definitions.

use std::sync::Arc;

use tonic::Request;

use super::{Compute, ForOwner, Refusal};
use crate::{
    api::{pages, proto::v1},
    model::{App, AppId, AppName, Failure, OrgName, Reason},
};

/// What the names of tools start with.
const PREFIX: &str = "ignite";

impl Compute {
    pub(super) async fn tool(
        &self,
        request: Request<v1::GetMcpToolDefinitionRequest>,
    ) -> Result<v1::GetMcpToolDefinitionResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let app = self.apps.get(&id).for_owner()?;
        let tool = definition(&app).ok_or_else(|| no_tool(&app)).for_owner()?;
        Ok(v1::GetMcpToolDefinitionResponse { tool: Some(tool) })
    }

    pub(super) async fn list_tools(
        &self,
        request: Request<v1::ListMcpToolsRequest>,
    ) -> Result<v1::ListMcpToolsResponse, Refusal> {
        let r = request.get_ref();
        let org = self.listed_org(&request, &r.organization_name)?;
        let limit = pages::size(r.limit).for_owner()?;
        let after = pages::parse_cursor(&r.cursor, "this method").for_owner()?;
        let (tools, last) = self.tools_of(&org, after.as_ref(), limit);
        Ok(v1::ListMcpToolsResponse {
            tools,
            next_cursor: pages::next_cursor(last.as_ref()),
        })
    }

    /// A page of the tools of an organization, those after `after`, and the last app on it if there
    /// are more.
    pub(in crate::api) fn tools_of(
        &self,
        org: &OrgName,
        after: Option<&AppName>,
        limit: usize,
    ) -> (Vec<v1::McpToolDefinition>, Option<AppName>) {
        // The number of apps of an organization is bounded.
        let published = self.apps.published(org, after, usize::MAX);
        let tools = published.iter().filter(|app| is_tool(app)).cloned();
        let found: Vec<_> = tools.take(limit.saturating_add(1)).collect();
        let (tools, last) = pages::fill(&found, limit, |app| definition(app).unwrap_or_default());
        (tools, last.map(|app| app.id.name.clone()))
    }

    /// The app that a tool stands for.
    pub(in crate::api) fn tool_app(&self, name: &str) -> Option<Arc<App>> {
        let app = self.apps.get(&app_of(name)?).ok()?;
        is_tool(&app).then_some(app)
    }
}

/// The name of an app's tool.
fn tool_name(app: &AppId) -> String {
    format!("{PREFIX}_{}_{}", app.org, app.name)
}

/// Parses the name of a tool. Names of organizations and apps have no `_`.
fn app_of(tool: &str) -> Option<AppId> {
    let (org, name) = tool
        .strip_prefix(PREFIX)?
        .strip_prefix('_')?
        .split_once('_')?;
    Some(AppId {
        org: org.parse().ok()?,
        name: name.parse().ok()?,
    })
}

fn is_tool(app: &App) -> bool {
    lacks(app).next().is_none()
}

/// What an app lacks to be a tool.
fn lacks(app: &App) -> impl Iterator<Item = &'static str> {
    let s = &app.settings;
    [
        (!s.mcp_enabled, "`mcp_enabled`"),
        (s.description.is_empty(), "a description"),
        (s.input_schema.is_empty(), "an input schema"),
        (app.active_version == 0, "a published version"),
    ]
    .into_iter()
    .filter_map(|(lacks, what)| lacks.then_some(what))
}

fn no_tool(app: &App) -> Failure {
    let lacks: Vec<_> = lacks(app).collect();
    Failure::new(
        Reason::FailedPrecondition,
        format!(
            "app {} is no MCP tool, since it has not {}; a tool has mcp_enabled, a description and an input schema (UpdateAppConfig), and is published (PublishDraft)",
            app.id,
            lacks.join(", nor ")
        ),
    )
}

/// The definition of an app's tool; `None` if the app is no tool.
fn definition(app: &App) -> Option<v1::McpToolDefinition> {
    let version = app.active().filter(|_| is_tool(app))?;
    let s = &app.settings;
    Some(v1::McpToolDefinition {
        name: tool_name(&app.id),
        description: s.description.clone(),
        input_schema: s.input_schema.clone(),
        output_schema: s.output_schema.clone(),
        app_id: app.id.to_string(),
        version: version.number,
        runtime: version.source.runtime_label().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_tool_leads_back_to_its_app() {
        for id in ["acme-corp/search-knowledge-base", "a/b.c", "mcp/tools"] {
            let id: AppId = id.parse().expect("valid");
            assert_eq!(app_of(&tool_name(&id)), Some(id));
        }
        let name = tool_name(&"acme-corp/search-knowledge-base".parse().expect("valid"));
        assert_eq!(name, "ignite_acme-corp_search-knowledge-base");
        for none in [
            "",
            "ignite",
            "ignite_",
            "ignite_a",
            "ignite_a_B",
            "x_a_b",
            "ignite_a_b_c",
        ] {
            assert_eq!(app_of(none), None, "{none}");
        }
    }
}
