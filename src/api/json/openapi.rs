//! The description of the JSON API for tools: OpenAPI 3.1, made of the contract's descriptors.
//!
//! It is made of the same table as the routes, so it has all of them. Texts are the contract's
//! comments; scopes are those that [`super::super::authorization`] checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use axum::{
    Router,
    http::{Method, header},
    routing::get,
};
use bytes::Bytes;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::{
    route::{self, Binding, Render},
    schema::{Schemas, comment},
};
use crate::{
    api::{
        authorization::{Need, need},
        proto::pool,
        status::ERROR_HEADER,
    },
    model::{MAX_NAME_LEN, Reason},
};

/// Where it is served, to anybody: it is the same in every binary.
const PATH: &str = "/openapi.json";
/// How deep fields of messages are listed as parameters of a query.
const QUERY_DEPTH: usize = 3;

/// What names and ids in paths look like; [`crate::model`] checks them.
const PATTERNS: [(&str, &str, usize); 3] = [
    (
        "organization_name",
        "^[a-z0-9]+(-+[a-z0-9]+)*$",
        MAX_NAME_LEN,
    ),
    (
        "app_name",
        r"^[a-z0-9]+(-+[a-z0-9]+|\.[a-z0-9]+)*$",
        MAX_NAME_LEN,
    ),
    ("execution_id", "^exec_[0-7][0-9A-HJKMNP-TV-Z]{25}$", 31),
];

/// The route of the description.
pub(super) fn router() -> Router {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(document().to_string()));
    let answer = || async { ([(header::CONTENT_TYPE, "application/json")], TEXT.clone()) };
    Router::new().route(PATH, get(answer))
}

/// The whole document.
pub(super) fn document() -> Value {
    let mut schemas = Schemas::default();
    let mut paths = Map::new();
    let (mut names, mut services) = (BTreeSet::new(), BTreeMap::new());
    for (path, bindings) in route::by_path(pool()) {
        let mut item = Map::new();
        for binding in &bindings {
            let verb = binding.method.as_str().to_ascii_lowercase();
            item.insert(verb, operation(&path, binding, &mut schemas, &mut names));
            let service = binding.rpc.parent_service().clone();
            services.insert(service.name().to_owned(), service);
        }
        paths.insert(path, item.into());
    }
    let mut components = schemas.into_components();
    components.insert("Error".to_owned(), error());
    let tags = services.values().map(|service| {
        let text = comment(&service.parent_file(), service.path());
        json!({"name": service.name(), "description": text})
    });
    let tags: Vec<_> = tags.collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ignite",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Apps that start with their first request: create, publish and call them. Bodies are proto3 JSON; names are also taken in snake_case, fields at their default are left out of answers, unknown fields are refused. `ignite docs` has the manual.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "tags": tags,
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "`ignite token create --org ORG`, or the token of a service account. An operation lists the scope that it needs.",
                },
            },
            "responses": {"Error": error_response()},
            "schemas": components,
        },
    })
}

fn operation(
    path: &str,
    binding: &Binding,
    schemas: &mut Schemas,
    names: &mut BTreeSet<String>,
) -> Value {
    let rpc = &binding.rpc;
    // A second route of a method needs another name.
    let mut name = rpc.name().to_owned();
    while !names.insert(name.clone()) {
        name.push('2');
    }
    let variables: Vec<&str> = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .collect();
    let input = rpc.input();
    let mut parameters = Vec::new();
    for variable in &variables {
        if let Some(field) = input.get_field_by_name(variable) {
            parameters.push(parameter(variable, "path", &field, schemas));
        }
    }
    if !binding.body {
        query(
            &input,
            "",
            QUERY_DEPTH,
            &variables,
            &mut parameters,
            schemas,
        );
    }
    if rpc.name() == "InvokeAsync" {
        parameters.push(json!({
            "name": "idempotency-key", "in": "header", "schema": {"type": "string", "maxLength": 255},
            "description": "A repeated submit with the same key answers with the first execution.",
        }));
    }
    let text = comment(&rpc.parent_service().parent_file(), rpc.path()).unwrap_or_default();
    let flat = text.replace('\n', " ");
    let summary = flat
        .split(". ")
        .next()
        .unwrap_or_default()
        .trim_end_matches('.');
    let mut operation = json!({
        "operationId": name,
        "tags": [rpc.parent_service().name()],
        "summary": summary,
        "description": text,
        "parameters": parameters,
        "responses": responses(binding, schemas),
    });
    if binding.body {
        let mut schema = schemas.object(&input, &variables);
        // The gateway refuses what it does not know.
        schema["additionalProperties"] = false.into();
        operation["requestBody"] = json!({"content": {"application/json": {"schema": schema}}});
    }
    operation["security"] = match need(binding.uri.path()) {
        Some(Need::Nothing) => json!([]),
        Some(Need::Scope(scope)) => json!([{"token": [scope.as_str()]}]),
        None => json!([{"token": []}]),
    };
    operation
}

fn parameter(name: &str, place: &str, field: &FieldDescriptor, schemas: &mut Schemas) -> Value {
    let mut schema = schemas.field(field);
    let description = schema.as_object_mut().and_then(|s| s.remove("description"));
    let mut parameter = json!({"name": name, "in": place, "schema": schema});
    if place == "path" {
        parameter["required"] = true.into();
        let schema = &mut parameter["schema"];
        if let Some((_, pattern, longest)) = PATTERNS.iter().find(|(known, ..)| *known == name) {
            schema["pattern"] = (*pattern).into();
            schema["maxLength"] = (*longest).into();
        } else if schema["type"] == "string" {
            schema["minLength"] = 1.into();
        }
    }
    if let Some(description) = description {
        parameter["description"] = description;
    }
    parameter
}

/// The fields of a message as parameters of a query, those of messages within it with dots.
fn query(
    message: &MessageDescriptor,
    at: &str,
    depth: usize,
    without: &[&str],
    parameters: &mut Vec<Value>,
    schemas: &mut Schemas,
) {
    for field in message.fields().filter(|f| !without.contains(&f.name())) {
        let name = format!("{at}{}", field.json_name());
        match field.kind() {
            _ if field.is_map() => {}
            Kind::Message(_) if field.is_list() || depth == 0 => {}
            Kind::Message(inner) => {
                query(
                    &inner,
                    &format!("{name}."),
                    depth - 1,
                    &[],
                    parameters,
                    schemas,
                );
            }
            _ => parameters.push(parameter(&name, "query", &field, schemas)),
        }
    }
}

fn responses(binding: &Binding, schemas: &mut Schemas) -> Value {
    let output = binding.rpc.output();
    let mut all = Map::new();
    let answer = match binding.render {
        Render::Unary => json!({
            "description": "The answer.",
            "content": {"application/json": {"schema": schemas.reference(&output)}},
        }),
        // A schema would be that of the whole text, and each line is an object.
        Render::Stream => {
            let line = schemas.reference(&output);
            let of = line["$ref"].as_str().unwrap_or_default();
            json!({
                "description": format!("One object of `{of}` a line as it comes, or server-sent events with `Accept: text/event-stream`. A failure after the first is the last object, as `error`."),
                "content": {"application/json": {}, "text/event-stream": {}},
            })
        }
        Render::Invoke => json!({
            "description": "The app's own answer: its status, headers and body. One of the platform has `x-ignite-error`.",
            "content": {"*/*": {}},
        }),
    };
    if binding.render == Render::Invoke {
        all.insert("default".to_owned(), answer);
    } else {
        all.insert("200".to_owned(), answer);
    }
    for status in statuses(binding) {
        all.insert(
            status.to_string(),
            json!({"$ref": "#/components/responses/Error"}),
        );
    }
    all.into()
}

/// The statuses of failures that a method can answer with.
fn statuses(binding: &Binding) -> BTreeSet<u16> {
    let of = |reason: &Reason| {
        use Reason as R;
        match reason {
            // Those of an app's own URL, and of paths and methods that do not exist.
            R::LoopDetected | R::MethodNotAllowed => false,
            R::Unauthenticated | R::PermissionDenied => {
                need(binding.uri.path()) != Some(Need::Nothing)
            }
            R::BodyTooLarge | R::ClientTooSlow => binding.body,
            // What only changes, or what runs an app, can come to.
            R::AlreadyExists | R::Aborted | R::IdempotencyConflict => binding.method != Method::GET,
            R::ReplicaRefused | R::ReplicaBroke => binding.body,
            _ => true,
        }
    };
    Reason::ALL
        .iter()
        .filter(|r| of(r))
        .map(|r| r.http_status())
        .collect()
}

fn error_response() -> Value {
    let reasons: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
    json!({
        "description": "The call failed. The message says what to do; `ignite docs errors` has every reason.",
        "headers": {
            ERROR_HEADER: {
                "description": "Why, for programs; also `reason` of a detail.",
                "schema": {"type": "string", "examples": reasons},
            },
            "Retry-After": {
                "description": "Seconds after which another try makes sense.",
                "schema": {"type": "integer", "minimum": 0},
            },
        },
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    })
}

/// The form of a failure: a `google.rpc.Status`.
fn error() -> Value {
    json!({
        "type": "object",
        "description": "A google.rpc.Status.",
        "required": ["code", "message", "details"],
        "properties": {
            "code": {"type": "integer", "description": "The number of the code in google.rpc.Code."},
            "message": {"type": "string"},
            "details": {
                "type": "array",
                "description": "A google.rpc.ErrorInfo with `reason`; for wrong fields a google.rpc.BadRequest with `fieldViolations`; a google.rpc.RetryInfo with `retryDelay` where another try makes sense.",
                "items": {
                    "type": "object",
                    "required": ["@type"],
                    "properties": {
                        "@type": {"type": "string"},
                        "reason": {"type": "string", "enum": Reason::ALL.iter().map(|r| r.as_str()).collect::<Vec<_>>()},
                        "domain": {"type": "string"},
                        "fieldViolations": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "field": {"type": "string"},
                                    "description": {"type": "string"},
                                },
                            },
                        },
                        "retryDelay": {"type": "string"},
                    },
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, into: &mut BTreeSet<String>) {
        match value {
            Value::Object(all) => {
                if let Some(Value::String(to)) = all.get("$ref") {
                    into.insert(to.clone());
                }
                all.values().for_each(|value| references(value, into));
            }
            Value::Array(all) => all.iter().for_each(|value| references(value, into)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_described_and_every_reference_leads_somewhere() {
        let document = document();
        let mut all = BTreeSet::new();
        references(&document, &mut all);
        for to in &all {
            let pointer = to.strip_prefix('#').unwrap();
            assert!(
                document.pointer(pointer).is_some_and(Value::is_object),
                "{to}"
            );
        }
        let mut ids = BTreeSet::new();
        for (path, bindings) in route::by_path(pool()) {
            for binding in bindings {
                let verb = binding.method.as_str().to_ascii_lowercase();
                let operation = &document["paths"][&path][&verb];
                let id = operation["operationId"]
                    .as_str()
                    .unwrap_or_else(|| panic!("{verb} {path}"));
                assert!(ids.insert(id.to_owned()), "{id}");
                assert!(
                    !operation["summary"].as_str().unwrap().is_empty(),
                    "{id} has no comment"
                );
                for part in path.split('/').filter(|part| part.starts_with('{')) {
                    let name = part.trim_matches(['{', '}']);
                    let mut parameters = operation["parameters"].as_array().unwrap().iter();
                    assert!(
                        parameters.any(|p| p["name"] == name && p["in"] == "path"),
                        "{id}: {name}"
                    );
                }
                assert_eq!(binding.body, operation.get("requestBody").is_some(), "{id}");
            }
        }
    }

    #[test]
    fn the_patterns_are_those_of_the_model() {
        fn agrees<T: std::str::FromStr>(name: &str, samples: &[&str]) {
            let (_, pattern, longest) = PATTERNS.iter().find(|(known, ..)| *known == name).unwrap();
            let schema = json!({"type": "string", "pattern": pattern, "maxLength": longest});
            for sample in samples {
                let valid = sample.parse::<T>().is_ok();
                assert_eq!(
                    jsonschema::is_valid(&schema, &json!(sample)),
                    valid,
                    "{name}: {sample:?}"
                );
            }
        }
        let long = "a".repeat(MAX_NAME_LEN);
        let longer = format!("{long}a");
        let names = [
            "a", "a-b", "a--b", "0", "", "-a", "a-", "A", "a.b", "a..b", "a.-b", "a-.b", ".a",
            "a b", "\u{e4}", &long, &longer,
        ];
        agrees::<crate::model::OrgName>("organization_name", &names);
        agrees::<crate::model::AppName>("app_name", &names);
        let ids = [
            "exec_01M8NT6BZA2A4X8A64ED65RB3S",
            "exec_01M8NT6BZA2A4X8A64ED65RB3U",
            "exec_01M8NT6BZA2A4X8A64ED65RB3",
            "01M8NT6BZA2A4X8A64ED65RB3S",
        ];
        agrees::<crate::model::ExecutionId>("execution_id", &ids);
    }

    #[test]
    fn fields_are_spelled_as_they_are_sent() {
        let document = document();
        let app = &document["components"]["schemas"]["AppMeta"]["properties"];
        assert!(
            app.get("appName").is_some() || app.get("name").is_some(),
            "{app}"
        );
        let list = &document["paths"]["/v1/ignite/app/{organization_name}"]["get"];
        let names: Vec<_> = list["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| &p["name"])
            .collect();
        assert_eq!(names, ["organization_name", "limit", "cursor"]);
        assert_eq!(list["security"], json!([{"token": ["ListApps"]}]));
        let health = &document["paths"]["/v1/ignite/health"]["get"];
        assert_eq!(health["security"], json!([]));
        assert!(health["responses"].get("401").is_none());
    }
}
