//! Explains a request that did not parse: names every wrong field, off the fast path.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Value as Json, error::Category};

use super::fields::{find, no_such_field, parse};
use crate::model::{Failure, FieldViolation, Reason};

/// Most wrong fields in one response.
const MAX_VIOLATIONS: usize = 20;

/// Why a JSON body was refused. `error` is the parser's own, used when no better cause is found.
pub(super) fn body(
    descriptor: &MessageDescriptor,
    json: &[u8],
    error: &serde_json::Error,
) -> Failure {
    let malformed = |e: &serde_json::Error| {
        Failure::new(
            Reason::MalformedRequest,
            format!("the body is not JSON that this method accepts: {e}"),
        )
    };
    match serde_json::from_slice::<Json>(json) {
        Err(e) => malformed(&e),
        Ok(value) => {
            let mut wrong = Vec::new();
            message(descriptor, &value, "", &mut wrong);
            if wrong.is_empty() || error.classify() != Category::Data {
                malformed(error)
            } else {
                wrong.truncate(MAX_VIOLATIONS);
                failure(wrong)
            }
        }
    }
}

/// INVALID_ARGUMENT with each wrong field and what is wrong with it.
pub(super) fn failure(wrong: Vec<(String, String)>) -> Failure {
    let violation = |(field, description)| FieldViolation { field, description };
    Failure::fields(wrong.into_iter().map(violation).collect())
}

/// Adds the violations within one message, under paths that start with `at`.
fn message(
    descriptor: &MessageDescriptor,
    value: &Json,
    at: &str,
    wrong: &mut Vec<(String, String)>,
) {
    let Json::Object(entries) = value else {
        if !at.is_empty() {
            wrong.push((
                at.to_owned(),
                format!("must be an object, not {}", kind(value)),
            ));
        }
        return;
    };
    for (name, value) in entries {
        let Some(field) = find(descriptor, name) else {
            wrong.push((join(at, name), no_such_field(descriptor)));
            continue;
        };
        let at = join(at, field.name());
        match (field.kind(), value) {
            (_, Json::Null) => {}
            (Kind::Message(inner), _) if !opaque(&field, &inner) => match value {
                Json::Array(all) if field.is_list() => {
                    for (i, element) in all.iter().enumerate() {
                        message(&inner, element, &format!("{at}[{i}]"), wrong);
                    }
                }
                _ if field.is_list() => {
                    wrong.push((at, format!("must be an array, not {}", kind(value))));
                }
                _ => message(&inner, value, &at, wrong),
            },
            _ => {
                if let Err(why) = parse(descriptor, &field, value) {
                    wrong.push((at, why));
                }
            }
        }
    }
}

/// Messages whose JSON is not an object of their fields.
fn opaque(field: &FieldDescriptor, message: &MessageDescriptor) -> bool {
    field.is_map() || message.full_name().starts_with("google.protobuf.")
}

fn join(at: &str, name: &str) -> String {
    match at {
        "" => name.to_owned(),
        _ => format!("{at}.{name}"),
    }
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}
