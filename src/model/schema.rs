//! Whether a text is a JSON Schema that can be used.

use std::error::Error;

use jsonschema::{Retrieve, Uri};
use serde_json::{Map, Value};

/// Longest schema in bytes: a large one of a real API has a tenth of it.
pub const MAX_SCHEMA_BYTES: usize = 256 * 1024;
/// Most of a complaint that is told: it may quote the schema.
const MAX_COMPLAINT: usize = 300;

/// Stands for every schema that is referred to elsewhere: nothing is fetched, and what is there
/// cannot be judged.
struct Elsewhere;

impl Retrieve for Elsewhere {
    fn retrieve(&self, _: &Uri<String>) -> Result<Value, Box<dyn Error + Send + Sync>> {
        Ok(Value::Bool(true))
    }
}

/// Checks a schema against the meta-schema of its draft (`$schema`; 2020-12 when it names none),
/// and that its references within itself and its patterns can be used.
///
/// # Errors
/// The place as a JSON pointer, and what is wrong there.
pub fn check(text: &str) -> Result<(), String> {
    if text.len() > MAX_SCHEMA_BYTES {
        return Err(format!(
            "is {} bytes long; the limit is {MAX_SCHEMA_BYTES}",
            text.len()
        ));
    }
    let object: Map<String, Value> =
        serde_json::from_str(text).map_err(|e| format!("is not a JSON object: {e}"))?;
    let schema = Value::Object(object);
    let built = jsonschema::options()
        .with_retriever(Elsewhere)
        .build(&schema);
    let Err(error) = built else { return Ok(()) };
    let place = match error.instance_path().as_str() {
        "" => "at its root",
        place => &format!("at {place}"),
    };
    let mut complaint = error.to_string();
    if complaint.len() > MAX_COMPLAINT {
        let end = complaint.floor_char_boundary(MAX_COMPLAINT);
        complaint.truncate(end);
        complaint.push('…');
    }
    Err(format!("is no JSON Schema, {place}: {complaint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_of_every_draft_pass() {
        for good in [
            "{}",
            r#"{"type":"object","properties":{"a":{"type":["string","null"],"pattern":"^a+$"}},"required":["a"]}"#,
            r##"{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"n":{"type":"integer"}},"$ref":"#/definitions/n"}"##,
            r##"{"$defs":{"tree":{"items":{"$ref":"#/$defs/tree"}}},"$ref":"#/$defs/tree"}"##,
            r#"{"$ref":"https://example.com/elsewhere.json"}"#,
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        for (bad, words) in [
            ("", vec!["is not a JSON object"]),
            ("[1]", vec!["is not a JSON object"]),
            (r#"{"type":"object",}"#, vec!["line 1 column"]),
            (r#"{"type":"strng"}"#, vec!["at /type", "strng"]),
            (
                r#"{"properties":{"a":{"minLength":-1}}}"#,
                vec!["at /properties/a/minLength", "-1"],
            ),
            (r#"{"required":"a"}"#, vec!["at /required"]),
            (r#"{"pattern":"("}"#, vec!["at /pattern"]),
            (r##"{"$ref":"#/$defs/none"}"##, vec!["none"]),
            (&format!(r#"{{"enum":{deep}}}"#), vec!["recursion"]),
            (&" ".repeat(MAX_SCHEMA_BYTES + 1), vec!["the limit is"]),
        ] {
            let why = check(bad).expect_err(bad);
            for word in words {
                assert!(why.contains(word), "{bad}: {why}");
            }
        }
    }
}
