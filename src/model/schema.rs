//! Checks whether a text is a usable JSON Schema.
//!
//! The library compiles a schema to a validator, which takes time and memory that grow
//! exponentially with references among `unevaluated…` and dynamic references. This platform never
//! validates anything. So it compiles a copy without references, which takes time bounded by its
//! size, and resolves references separately. Patterns are compiled by an engine that matches in
//! linear time, within a size that all of them share.

use std::error::Error;

use jsonschema::{Draft, PatternOptions, Registry, Retrieve, Uri};
use serde_json::{Map, Value};

use super::work::{Cancelled, check_cancelled};

/// The longest schema in bytes; a large one of a real API has a tenth of it.
pub const MAX_SCHEMA_BYTES: usize = 256 * 1024;
/// The deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 64;
/// The most values of any kind in one schema.
pub const MAX_VALUES: usize = 20_000;
/// The most patterns in one schema, including the names in `patternProperties`.
pub const MAX_PATTERNS: usize = 256;
/// The longest pattern in bytes.
pub const MAX_PATTERN_BYTES: usize = 4096;
/// The most bytes that all patterns of a schema compile to, together.
const COMPILED_BYTES: usize = 8 * 1024 * 1024;
/// The most bytes that a single pattern compiles to.
const COMPILED_BYTES_OF_ONE: usize = 1024 * 1024;
/// The longest part of an error that is reported, since an error may quote the schema.
const MAX_COMPLAINT: usize = 300;
/// The id of a schema that sets none.
const BASE: &str = "json-schema:///";
/// Keywords that refer to another schema.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

/// Stands in for every external schema: nothing is fetched, and its content cannot be checked.
struct Elsewhere;

impl Retrieve for Elsewhere {
    fn retrieve(&self, _: &Uri<String>) -> Result<Value, Box<dyn Error + Send + Sync>> {
        Ok(Value::Bool(true))
    }
}

/// Checks a schema against the meta-schema of its draft (`$schema`; 2020-12 when it sets none), and
/// that its internal references and its patterns are usable.
///
/// # Errors
/// The position as a JSON pointer and what is wrong there; or the bound that it exceeds; or that
/// the check was cancelled.
pub fn check(text: &str, cancelled: Cancelled<'_>) -> Result<(), String> {
    if text.len() > MAX_SCHEMA_BYTES {
        return Err(format!(
            "is {} bytes long; the limit is {MAX_SCHEMA_BYTES}",
            text.len()
        ));
    }
    let object: Map<String, Value> =
        serde_json::from_str(text).map_err(|e| format!("is not a JSON object: {e}"))?;
    let schema = Value::Object(object);
    let mut tally = SchemaCounts::default();
    let plain = tally.without_references(&schema, 0)?;
    check_cancelled(cancelled)?;
    let of_one = COMPILED_BYTES / tally.patterns.max(1);
    let patterns = PatternOptions::regex()
        .size_limit(of_one.min(COMPILED_BYTES_OF_ONE))
        .dfa_size_limit(of_one.min(COMPILED_BYTES_OF_ONE));
    let built = jsonschema::options()
        .with_retriever(Elsewhere)
        .with_pattern_options(patterns)
        .build(&plain);
    if let Err(error) = built {
        let place = match error.instance_path().as_str() {
            "" => "at its root",
            place => &format!("at {place}"),
        };
        let help = if place.contains("/pattern") {
            "; patterns have neither look-around nor back-references here, and all of them together a bounded size"
        } else {
            ""
        };
        let complaint = short(error.to_string());
        return Err(format!("is no JSON Schema, {place}: {complaint}{help}"));
    }
    check_cancelled(cancelled)?;
    if tally.references == 0 {
        return Ok(());
    }
    look_up(&schema, cancelled).map_err(|why| format!("is no JSON Schema: {}", short(why)))
}

fn short(mut complaint: String) -> String {
    if complaint.len() > MAX_COMPLAINT {
        let end = complaint.floor_char_boundary(MAX_COMPLAINT);
        complaint.truncate(end);
        complaint.push('…');
    }
    complaint
}

/// Counts of what was seen in a schema so far.
#[derive(Default)]
struct SchemaCounts {
    values: usize,
    patterns: usize,
    references: usize,
}

impl SchemaCounts {
    /// A copy without references, as long as the schema is within its bounds. A value that only
    /// looks like a reference, in a constant for example, is dropped too, which does not affect
    /// validity.
    fn without_references(&mut self, value: &Value, depth: usize) -> Result<Value, String> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(format!("has more than {MAX_VALUES} values in it"));
        }
        if depth > MAX_DEPTH {
            return Err(format!(
                "has more than {MAX_DEPTH} arrays and objects within each other"
            ));
        }
        Ok(match value {
            Value::Array(all) => {
                let all = all.iter().map(|v| self.without_references(v, depth + 1));
                Value::Array(all.collect::<Result<_, _>>()?)
            }
            Value::Object(all) => {
                let mut copy = Map::new();
                for (key, value) in all {
                    match (key.as_str(), value) {
                        (key, Value::String(_)) if REFERENCES.contains(&key) => {
                            self.references += 1;
                            self.values += 1;
                            continue;
                        }
                        ("pattern", Value::String(pattern)) => self.pattern(pattern)?,
                        ("patternProperties", Value::Object(all)) => {
                            all.keys().try_for_each(|pattern| self.pattern(pattern))?;
                        }
                        _ => {}
                    }
                    copy.insert(key.clone(), self.without_references(value, depth + 1)?);
                }
                Value::Object(copy)
            }
            plain => plain.clone(),
        })
    }

    fn pattern(&mut self, pattern: &str) -> Result<(), String> {
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS {
            return Err(format!("has more than {MAX_PATTERNS} patterns"));
        }
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(format!(
                "has a pattern of {} bytes; the limit is {MAX_PATTERN_BYTES}",
                pattern.len()
            ));
        }
        Ok(())
    }
}

/// Resolves every reference within the schema.
fn look_up(schema: &Value, cancelled: Cancelled<'_>) -> Result<(), String> {
    let draft = Draft::default().detect(schema);
    let root = draft.create_resource_ref(schema);
    let base = root.id().unwrap_or(BASE).to_owned();
    let registry = Registry::new()
        .retriever(Elsewhere)
        .draft(draft)
        .add(&base, root)
        .and_then(|registry| registry.prepare())
        .map_err(|e| e.to_string())?;
    let base = jsonschema::uri::from_str(base.trim_end_matches('#')).map_err(|e| e.to_string())?;
    let mut todo = vec![(schema, draft, registry.resolver(base))];
    while let Some((schema, draft, above)) = todo.pop() {
        check_cancelled(cancelled)?;
        let draft = draft.detect(schema);
        let resolver = above
            .in_subresource(draft.create_resource_ref(schema))
            .map_err(|e| e.to_string())?;
        for keyword in REFERENCES {
            let Some(reference) = schema.get(keyword).and_then(Value::as_str) else {
                continue;
            };
            // External schemas are unknown, and so is what they contain.
            if reference.starts_with('#') {
                let found = resolver.lookup(reference);
                found.map_err(|e| format!("its {keyword} {reference:?} leads nowhere: {e}"))?;
            }
        }
        let below = draft.subresources_of(schema);
        todo.extend(below.map(|schema| (schema, draft, resolver.clone())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::work::NEVER, *};

    fn check(text: &str) -> Result<(), String> {
        super::check(text, NEVER)
    }

    #[test]
    fn schemas_of_every_draft_pass() {
        for good in [
            "{}",
            r#"{"type":"object","properties":{"a":{"type":["string","null"],"pattern":"^a+$"}},"required":["a"]}"#,
            r##"{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"n":{"type":"integer"}},"$ref":"#/definitions/n"}"##,
            r##"{"$defs":{"tree":{"items":{"$ref":"#/$defs/tree"}}},"$ref":"#/$defs/tree"}"##,
            r#"{"$ref":"https://example.com/elsewhere.json"}"#,
            r#"{"$ref":"https://example.com/elsewhere.json#/definitions/a"}"#,
            r#"{"$schema":"https://example.com/own","type":"object"}"#,
            r##"{"$defs":{"a":{"$id":"a.json","$defs":{"b":{"$anchor":"b"}},"items":{"$ref":"#b"}}},"$ref":"#/$defs/a"}"##,
            r##"{"$id":"https://example.com/s","$dynamicAnchor":"n","items":{"$dynamicRef":"#n"},"unevaluatedItems":false}"##,
            r##"{"$schema":"https://json-schema.org/draft/2019-09/schema","$recursiveAnchor":true,"items":{"$recursiveRef":"#"}}"##,
            r##"{"$schema":"http://json-schema.org/draft-07/schema#","$id":"http://example.com/root.json#","items":{"$ref":"#"}}"##,
            r##"{"const":{"$ref":"#/none"},"enum":[{"pattern":"("}],"properties":{"$ref":{"type":"string"},"pattern":{}}}"##,
            r#"{"pattern":"^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\\.\\w{2,63}$"}"#,
            r#"{"pattern":"^\\p{L}{1,64}$"}"#,
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
            (
                r#"{"pattern":"(?=a)b"}"#,
                vec!["at /pattern", "look-around"],
            ),
            (r##"{"$ref":"#/$defs/none"}"##, vec!["$ref", "none"]),
            (
                r##"{"items":{"$dynamicRef":"#none"}}"##,
                vec!["$dynamicRef", "none"],
            ),
            (r#"{"$ref":1}"#, vec!["at /$ref"]),
            (&format!(r#"{{"enum":{deep}}}"#), vec!["recursion"]),
            (&" ".repeat(MAX_SCHEMA_BYTES + 1), vec!["the limit is"]),
        ] {
            let why = check(bad).expect_err(bad);
            for word in words {
                assert!(why.contains(word), "{bad}: {why}");
            }
        }
    }

    /// Each of these froze a thread for seconds to minutes, or took gigabytes.
    #[test]
    fn what_compiles_to_too_much_is_refused_or_does_no_harm() {
        let nested = |open: &str, close: &str, n: usize| open.repeat(n) + "1" + &close.repeat(n);
        let pattern = |pattern: &str| format!(r#"{{"pattern":"{pattern}"}}"#);
        let patterns = |n: usize, pattern: &str| {
            let all: Vec<_> = (0..n)
                .map(|i| format!(r#"{{"pattern":"{pattern}{i}"}}"#))
                .collect();
            format!(r#"{{"allOf":[{}]}}"#, all.join(","))
        };
        for (bad, words) in [
            (
                format!(r#"{{"enum":{}}}"#, nested("[", "]", 70)),
                "64 arrays and objects",
            ),
            (
                format!(r#"{{"enum":[{}1]}}"#, "1,".repeat(30_000)),
                "20000 values",
            ),
            (pattern(&"a?".repeat(100_000)), "a pattern of 200000 bytes"),
            (patterns(8000, "a"), "256 patterns"),
            (pattern("(a{1000}){1000}"), "at /pattern"),
            (pattern(&nested("(", ")", 2000)), "at /pattern"),
            // Each pattern alone is fine.
            (patterns(250, r"^\\p{L}{1,20}"), "all of them together"),
        ] {
            let why = check(&bad).expect_err(words);
            assert!(why.contains(words), "no {words:?} in {why:?}");
            assert!(why.len() < 600, "{} bytes of complaint", why.len());
        }
        // Compiling would be exponential in the number of definitions.
        let each = |definition: &dyn Fn(usize) -> String| {
            let all: Vec<_> = (0..60)
                .map(|i| format!(r#""d{i}":{}"#, definition(i)))
                .collect();
            format!(r##"{{"$defs":{{{}}},"$ref":"#/$defs/d0"}}"##, all.join(","))
        };
        for harmless in [
            each(&|i| {
                let next = format!(r##"{{"$ref":"#/$defs/d{}"}}"##, (i + 1) % 60);
                format!(r#"{{"unevaluatedProperties":false,"allOf":[{next},{next}]}}"#)
            }),
            each(&|i| {
                let (a, b) = ((i + 1) % 60, (i * 7 + 3) % 60);
                format!(
                    r##"{{"$id":"http://x/{i}","$dynamicAnchor":"a","anyOf":[{{"$dynamicRef":"#a"}},{{"$ref":"http://x/{a}"}},{{"$ref":"http://x/{b}"}}]}}"##
                )
            }),
        ] {
            assert_eq!(check(&harmless), Ok(()));
        }
        assert!(super::check("{}", &|| true).is_err());
    }
}
