//! JSON Schemas of the contract's messages, in the spelling of proto3 JSON.

use std::collections::BTreeMap;

use prost_reflect::{EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

/// The schemas that others refer to, by name; made as they are first needed.
#[derive(Default)]
pub(super) struct Schemas {
    done: BTreeMap<String, Value>,
}

impl Schemas {
    /// A reference to a message.
    pub(super) fn reference(&mut self, message: &MessageDescriptor) -> Value {
        let name = name_of(message.full_name());
        if !self.done.contains_key(&name) {
            // Set first, since a message may contain itself.
            self.done.insert(name.clone(), Value::Null);
            let schema = self.object(message, &[]);
            self.done.insert(name.clone(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// A message without the fields that have these names.
    pub(super) fn object(&mut self, message: &MessageDescriptor, without: &[&str]) -> Value {
        let mut properties = Map::new();
        for field in message.fields().filter(|f| !without.contains(&f.name())) {
            properties.insert(field.json_name().to_owned(), self.field(&field));
        }
        let mut schema = json!({"type": "object", "properties": properties});
        if let Some(text) = comment(&message.parent_file(), message.path()) {
            schema["description"] = text.into();
        }
        schema
    }

    /// The schema of one field.
    pub(super) fn field(&mut self, field: &FieldDescriptor) -> Value {
        let mut schema = if field.is_map() {
            let value = match field.kind() {
                Kind::Message(entry) => self.kind(&entry.map_entry_value_field().kind()),
                _ => json!({}),
            };
            json!({"type": "object", "additionalProperties": value})
        } else if field.is_list() {
            json!({"type": "array", "items": self.kind(&field.kind())})
        } else {
            self.kind(&field.kind())
        };
        if let Some(text) = comment(&field.parent_message().parent_file(), field.path()) {
            schema["description"] = text.into();
        }
        schema
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Float | Kind::Double => json!({"type": "number"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({"type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX})
            }
            Kind::Uint32 | Kind::Fixed32 => {
                json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": u32::MAX})
            }
            // JSON numbers lose digits beyond 53 bits in many languages, so these are text.
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,18}$"})
            }
            Kind::Uint64 | Kind::Fixed64 => {
                json!({"type": "string", "format": "uint64", "pattern": "^[0-9]{1,19}$"})
            }
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "format": "byte", "contentEncoding": "base64"}),
            Kind::Message(message) => self.reference(message),
            Kind::Enum(kind) => self.enumeration(kind),
        }
    }

    fn enumeration(&mut self, kind: &EnumDescriptor) -> Value {
        let name = name_of(kind.full_name());
        let values: Vec<_> = kind.values().map(|v| v.name().to_owned()).collect();
        let mut schema = json!({"type": "string", "enum": values});
        let mut text = comment(&kind.parent_file(), kind.path()).unwrap_or_default();
        for value in kind.values() {
            if let Some(meaning) = comment(&kind.parent_file(), value.path()) {
                text += &format!("\n- `{}`: {meaning}", value.name());
            }
        }
        if !text.is_empty() {
            schema["description"] = text.trim().into();
        }
        self.done.insert(name.clone(), schema);
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// All schemas that were referred to.
    pub(super) fn into_components(self) -> Map<String, Value> {
        self.done.into_iter().collect()
    }
}

/// The name of a type among the components: without the package of the contract, and with that of
/// this platform's own part, where names may repeat.
fn name_of(full_name: &str) -> String {
    let name = full_name.strip_prefix("dodil.ignite.v1.");
    let name = name.map(str::to_owned).or_else(|| {
        let local = full_name.strip_prefix("dodil.ignite.local.v1.")?;
        Some(format!("local.{local}"))
    });
    name.unwrap_or_else(|| full_name.to_owned())
}

/// The comment before a definition in the contract.
pub(super) fn comment(file: &FileDescriptor, path: &[i32]) -> Option<String> {
    let info = file.file_descriptor_proto().source_code_info.as_ref()?;
    let location = info.location.iter().find(|l| l.path == path)?;
    let text = location.leading_comments();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let text = lines.join("\n").trim().to_owned();
    (!text.is_empty()).then_some(text)
}
