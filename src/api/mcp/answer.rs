//! What an app answered → the result of a tool, by its content type.

use axum::http::{HeaderMap, StatusCode, header};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};
use serde_json::Value;

use crate::model::AppId;

/// The result of a call. An answer of 400 or above is an error, with the status before the content.
pub(super) fn of(
    app: &AppId,
    status: StatusCode,
    headers: &HeaderMap,
    body: Bytes,
) -> CallToolResult {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // The type without its parameters.
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    let failed = status.is_client_error() || status.is_server_error();
    let structured = if is_json(&kind) {
        serde_json::from_slice::<Value>(&body).ok()
    } else {
        None
    };
    let mut content = Vec::with_capacity(2);
    if failed {
        let text = format!("the app answered with HTTP status {}", status.as_u16());
        content.push(ContentBlock::text(text));
    }
    content.extend(block(app, &kind, body));
    let mut result = if failed {
        CallToolResult::error(content)
    } else {
        CallToolResult::success(content)
    };
    result.structured_content = structured;
    result
}

fn is_json(kind: &str) -> bool {
    kind == "application/json" || kind.ends_with("+json")
}

/// The body as content; `None` for an empty one.
fn block(app: &AppId, kind: &str, body: Bytes) -> Option<ContentBlock> {
    if body.is_empty() {
        return None;
    }
    let base64 = || BASE64_STANDARD.encode(&body);
    if kind.starts_with("image/") && kind != "image/svg+xml" {
        return Some(ContentBlock::image(base64(), kind));
    }
    if kind.starts_with("audio/") {
        return Some(ContentBlock::audio(base64(), kind));
    }
    if kind.starts_with("text/") {
        return Some(ContentBlock::text(String::from_utf8_lossy(&body)));
    }
    // Untyped bytes are text where they are UTF-8: a Go handler's text is sent as octets.
    Some(match str::from_utf8(&body) {
        Ok(text) => ContentBlock::text(text),
        Err(_) => {
            let resource = ResourceContents::blob(base64(), format!("ignite://{app}"));
            let kind = if kind.is_empty() {
                "application/octet-stream"
            } else {
                kind
            };
            ContentBlock::resource(resource.with_mime_type(kind))
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn result(status: u16, kind: &str, body: &'static [u8]) -> Value {
        let mut headers = HeaderMap::new();
        if !kind.is_empty() {
            headers.insert(header::CONTENT_TYPE, kind.parse().expect("a header"));
        }
        let app = "acme/tool".parse().expect("an app");
        let status = StatusCode::from_u16(status).expect("a status");
        let result = of(&app, status, &headers, Bytes::from_static(body));
        serde_json::to_value(result).expect("JSON")
    }

    #[test]
    fn json_is_structured_and_text_as_well() {
        let answer = result(200, "application/json; charset=utf-8", br#"{"a":1}"#);
        assert_eq!(answer["structuredContent"], json!({ "a": 1 }));
        let text = json!([{ "type": "text", "text": "{\"a\":1}" }]);
        assert_eq!(answer["content"], text);
        assert_eq!(answer["isError"], false);
        let answer = result(200, "application/problem+json", b"[1]");
        assert_eq!(answer["structuredContent"], json!([1]));
        // What only claims to be JSON stays text.
        let answer = result(200, "application/json", b"{");
        assert_eq!(answer.get("structuredContent"), None);
        assert_eq!(answer["content"][0]["text"], "{");
    }

    #[test]
    fn the_content_type_decides_what_else_a_body_is() {
        let of = |kind: &str, body| result(200, kind, body)["content"].clone();
        let text = json!([{ "type": "text", "text": "hi" }]);
        for kind in [
            "text/plain",
            "TEXT/html; charset=utf-8",
            "",
            "application/octet-stream",
        ] {
            assert_eq!(of(kind, b"hi"), text, "{kind}");
        }
        assert_eq!(of("text/plain", b"\xff")[0]["text"], "\u{fffd}");
        let image = json!([{ "type": "image", "data": "AQI=", "mimeType": "image/png" }]);
        assert_eq!(of("image/png", b"\x01\x02"), image);
        assert_eq!(of("audio/wav", b"\x01\x02")[0]["type"], "audio");
        let blob = of("", b"\xff");
        assert_eq!(blob[0]["resource"]["blob"], "/w==");
        assert_eq!(blob[0]["resource"]["mimeType"], "application/octet-stream");
        assert_eq!(blob[0]["resource"]["uri"], "ignite://acme/tool");
        assert_eq!(of("text/plain", b""), json!([]));
    }

    #[test]
    fn an_answer_that_is_an_error_is_one_of_the_tool() {
        let answer = result(500, "application/json", br#"{"error":"boom"}"#);
        assert_eq!(answer["isError"], true);
        let said = "the app answered with HTTP status 500";
        assert_eq!(answer["content"][0]["text"], said);
        assert_eq!(answer["content"][1]["text"], r#"{"error":"boom"}"#);
        assert_eq!(answer["structuredContent"]["error"], "boom");
        assert_eq!(result(302, "", b"")["isError"], false);
    }
}
