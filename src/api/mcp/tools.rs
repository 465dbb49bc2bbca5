//! The tools of a caller: listed from the apps, called as `Invoke` calls them.

use std::sync::Arc;

use axum::http::{HeaderValue, header, request::Parts};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use prost::Message as _;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
        JsonObject, ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig,
        Tool,
    },
    service::RequestContext,
};
use serde_json::{Value, json};

use super::answer;
use crate::{
    api::{
        buffers::Reserved,
        compute::Compute,
        pages,
        proto::v1::{self, HttpContext, InvokeRequest},
    },
    gateway::body::AppBody,
    identity::{Caller, lacks_scope},
    model::{App, AppId, Failure, OrgName, Reason, Scope},
};

/// Most tools in one answer.
const PAGE_TOOLS: usize = 100;
/// Bytes of tools after which an answer has enough.
const PAGE_BYTES: usize = 1 << 20;

/// The instructions that clients get with the handshake.
const INSTRUCTIONS: &str = "Each tool is an app that runs on demand: the first call after a pause takes longer, since the app is started for it. Arguments are sent to the app as JSON, and what it answers is the result.";

/// The server of one request; the request has the caller.
#[derive(Clone)]
pub(super) struct Tools {
    compute: Compute,
}

/// What the endpoint has added to a request, and its trace header.
struct Asked {
    caller: Arc<Caller>,
    reserved: Arc<Reserved>,
    trace: Option<HeaderValue>,
}

impl Asked {
    fn of(context: &RequestContext<RoleServer>) -> Result<Self, ErrorData> {
        let found = context.extensions.get::<Parts>().and_then(|parts| {
            Some(Self {
                caller: parts.extensions.get::<Arc<Caller>>()?.clone(),
                reserved: parts.extensions.get::<Arc<Reserved>>()?.clone(),
                trace: parts.headers.get("traceparent").cloned(),
            })
        });
        found.ok_or_else(|| ErrorData::internal_error("the request has no caller", None))
    }
}

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().build();
        let server = Implementation::new("ignite", env!("CARGO_PKG_VERSION"));
        let mut info = ServerConfig::new(capabilities).with_instructions(INSTRUCTIONS);
        info.server_info = server.with_title("Ignite");
        info
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let asked = Asked::of(&context)?;
        let cursor = request.and_then(|r| r.cursor).unwrap_or_default();
        let after = pages::parse_cursor::<AppId>(&cursor, "tools/list")
            .map_err(|failure| ErrorData::invalid_params(failure.message, None))?;
        let (tools, last) = self.page(&asked.caller, after);
        // A token may open some of the organization's apps only.
        let may_call = |tool: &v1::McpToolDefinition| {
            let app = tool.app_id.parse::<AppId>();
            app.is_ok_and(|app| asked.caller.grants.allow(Scope::InvokeApp, &app))
        };
        let tools = tools.into_iter().filter(may_call);
        let tools = tools.filter_map(to_tool).collect();
        let mut page = ListToolsResult::with_all_items(tools);
        page.next_cursor = last.map(|last| pages::next_cursor(Some(last)));
        Ok(page)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let asked = Asked::of(&context)?;
        let app = self.compute.tool_app(&request.name);
        let app = app.filter(|app| asked.caller.owns(&app.id.org));
        let app = app.ok_or_else(|| unknown(&request.name))?;
        if !asked.caller.grants.allow(Scope::InvokeApp, &app.id) {
            let failure = lacks_scope(Scope::InvokeApp, Some(&format!("app {}", app.id)));
            return Err(ErrorData::invalid_request(failure.message, None));
        }
        let call = self.call(&app, request.arguments.unwrap_or_default(), &asked);
        // Dropping the call disconnects the app when the client leaves.
        let outcome = context.ct.run_until_cancelled(call).await;
        let outcome = outcome.ok_or_else(|| ErrorData::internal_error("cancelled", None))?;
        // The caller owns the app and may read details.
        let result = outcome.unwrap_or_else(|failure| {
            let reason = failure.reason.as_str();
            let text = format!("{reason}: {}", failure.text(true));
            CallToolResult::error(vec![ContentBlock::text(text)])
        });
        Ok(result.into())
    }
}

impl Tools {
    pub(super) fn new(compute: Compute) -> Self {
        Self { compute }
    }

    /// A page of the caller's tools after `after`, ordered by organization and app, and the last tool
    /// of it if there may be more.
    fn page(
        &self,
        caller: &Caller,
        after: Option<AppId>,
    ) -> (Vec<v1::McpToolDefinition>, Option<AppId>) {
        let mut orgs: Vec<&OrgName> = caller.orgs.iter().collect();
        orgs.sort();
        orgs.dedup();
        let mut page: Vec<v1::McpToolDefinition> = Vec::new();
        let from = after.as_ref().map(|after| &after.org);
        for org in orgs
            .into_iter()
            .filter(|org| from.is_none_or(|f| *org >= f))
        {
            let after = after.as_ref().filter(|a| a.org == *org).map(|a| &a.name);
            let bytes: usize = page.iter().map(|tool| tool.encoded_len()).sum();
            if page.len() >= PAGE_TOOLS || bytes >= PAGE_BYTES {
                let last = page.last().and_then(|tool| tool.app_id.parse().ok());
                return (page, last);
            }
            let (tools, last) = self.compute.tools_of(org, after, PAGE_TOOLS - page.len());
            page.extend(tools);
            if let Some(name) = last {
                let org = org.clone();
                return (page, Some(AppId { org, name }));
            }
        }
        (page, None)
    }

    async fn call(
        &self,
        app: &App,
        arguments: JsonObject,
        asked: &Asked,
    ) -> Result<CallToolResult, Failure> {
        let body = Bytes::from(Value::Object(arguments).to_string());
        asked.reserved.grow(body.len())?;
        let json = "application/json".to_owned();
        let envelope = InvokeRequest {
            http: Some(HttpContext {
                headers: [(header::CONTENT_TYPE.as_str().to_owned(), json)].into(),
                ..Default::default()
            }),
            body,
            ..Default::default()
        };
        let outbound = self.compute.outbound(envelope)?;
        let trace = asked.trace.as_ref();
        let (response, _) = self.compute.send(&app.id, true, outbound, trace).await?;
        let (head, body) = response.into_parts();
        let most = self.compute.limits.max_body_bytes;
        let body = collect(body, most, &asked.reserved).await?;
        Ok(answer::of(&app.id, head.status, &head.headers, body))
    }
}

/// The whole answer of an app.
async fn collect(mut body: AppBody, most: usize, reserved: &Reserved) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if whole.len() + data.len() > most {
            return Err(Failure::new(
                Reason::BodyTooLarge,
                format!(
                    "the app answered with more than {most} bytes (IGNITE_MAX_BODY_BYTES), which is too much for the result of a tool"
                ),
            ));
        }
        reserved.grow(data.len())?;
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

fn unknown(name: &str) -> ErrorData {
    let message =
        format!("there is no tool {name:?} for this token; tools/list has those that there are");
    ErrorData::invalid_params(message, None)
}

/// Converts a tool to the protocol; `None` if its input schema describes no object, since clients
/// send objects only.
fn to_tool(definition: v1::McpToolDefinition) -> Option<Tool> {
    let schema = |text: &str| serde_json::from_str::<JsonObject>(text).ok();
    let mut input = schema(&definition.input_schema)?;
    if input.entry("type").or_insert(json!("object")) != "object" {
        return None;
    }
    let mut tool = Tool::new(definition.name, definition.description, input);
    tool.output_schema = schema(&definition.output_schema).map(Arc::new);
    Some(tool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_takes_an_object() {
        let tool = |input: &str, output: &str| {
            to_tool(v1::McpToolDefinition {
                name: "ignite_a_b".to_owned(),
                input_schema: input.to_owned(),
                output_schema: output.to_owned(),
                ..Default::default()
            })
        };
        let plain = tool("{}", "").expect("a tool");
        assert_eq!(plain.input_schema["type"], "object");
        assert_eq!(plain.output_schema, None);
        let full = tool(
            r#"{"type":"object","required":["a"]}"#,
            r#"{"type":"object"}"#,
        );
        let full = full.expect("a tool");
        assert_eq!(full.input_schema["required"][0], "a");
        assert_eq!(full.output_schema.expect("one")["type"], "object");
        assert_eq!(tool(r#"{"type":"array"}"#, ""), None);
        assert_eq!(tool("", ""), None);
    }
}
