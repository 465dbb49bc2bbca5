//! One field of a message: found by name, and parsed from JSON or from text in a URL.

use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor,
    ReflectMessage as _, Value,
};
use serde_json::Value as Json;

/// Refuses unknown fields and enum names instead of dropping them.
pub(super) const STRICT: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(true);

/// Sets the field at a dotted path from its text; a repeated field gains one element.
pub(super) fn set(message: &mut DynamicMessage, path: &str, text: &str) -> Result<(), String> {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    let descriptor = message.descriptor();
    let field = find(&descriptor, name).ok_or_else(|| no_such_field(&descriptor))?;
    if let Some(rest) = rest {
        return match message.get_field_mut(&field) {
            Value::Message(inner) => set(inner, rest, text),
            _ => Err(format!("{name} has no fields of its own")),
        };
    }
    if field.is_map() || matches!(field.kind(), Kind::Message(_)) {
        return Err(
            "cannot be given in a URL; name its fields with dots, or use a body".to_owned(),
        );
    }
    let value = scalar(&descriptor, &field, text)?;
    match (message.get_field_mut(&field), value) {
        (Value::List(all), Value::List(one)) => all.extend(one),
        (slot, value) => *slot = value,
    }
    Ok(())
}

/// A field by its JSON or proto name.
pub(super) fn find(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    descriptor
        .get_field_by_json_name(name)
        .or_else(|| descriptor.get_field_by_name(name))
}

/// The value of a scalar field from its text in a URL, by the rules of JSON.
fn scalar(
    descriptor: &MessageDescriptor,
    field: &FieldDescriptor,
    text: &str,
) -> Result<Value, String> {
    let json = match field.kind() {
        Kind::Bool => text.parse().map(Json::Bool).ok(),
        Kind::Enum(_) => text.parse::<i32>().map(Json::from).ok(),
        _ => None,
    };
    let json = json.unwrap_or_else(|| Json::String(text.to_owned()));
    let json = if field.is_list() {
        Json::Array(vec![json])
    } else {
        json
    };
    parse(descriptor, field, &json)
}

/// The description of a name that a message does not have.
pub(super) fn no_such_field(descriptor: &MessageDescriptor) -> String {
    let known: Vec<String> = descriptor
        .fields()
        .map(|f| f.json_name().to_owned())
        .collect();
    if known.is_empty() {
        format!("unknown field; {} has no fields", descriptor.name())
    } else {
        format!(
            "unknown field; {} has {}",
            descriptor.name(),
            known.join(", ")
        )
    }
}

/// Parses one field by itself.
///
/// # Errors
/// A sentence that says what is wrong with its value.
pub(super) fn parse(
    descriptor: &MessageDescriptor,
    field: &FieldDescriptor,
    value: &Json,
) -> Result<Value, String> {
    if let Kind::Enum(kind) = field.kind() {
        let given = match value {
            Json::Array(all) => all.iter().collect(),
            Json::Object(all) => all.values().collect(),
            one => vec![one],
        };
        for name in given.into_iter().filter_map(Json::as_str) {
            if kind.get_value_by_name(name).is_none() {
                let known: Vec<_> = kind.values().map(|v| v.name().to_owned()).collect();
                return Err(format!(
                    "{name:?} is not a value of {}; it has {}",
                    kind.name(),
                    known.join(", ")
                ));
            }
        }
    }
    let alone = Json::Object(
        [(field.json_name().to_owned(), value.clone())]
            .into_iter()
            .collect(),
    );
    DynamicMessage::deserialize_with_options(descriptor.clone(), alone, &STRICT)
        .map(|mut m| {
            m.take_field(field)
                .unwrap_or_else(|| Value::default_value_for_field(field))
        })
        .map_err(|e| e.to_string())
}
