//! What differs between an app and what a file says of it.

use serde_json::{Map, Value, json};

use super::super::{Error, output};
use crate::api::proto::v1::{self, code_source::Source, image_source};

/// One difference.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    kind: Kind,
    what: String,
    from: Value,
    to: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Setting,
    Host,
    Code,
}

impl Change {
    /// Code from somewhere; `before` is empty where there was none.
    pub(super) fn code(before: &str, name: &str) -> Self {
        Self {
            kind: Kind::Code,
            what: "code".to_owned(),
            from: before.into(),
            to: name.into(),
        }
    }

    /// A host name that is not there yet.
    pub(super) fn host(name: &str) -> Self {
        Self {
            kind: Kind::Host,
            what: "host".to_owned(),
            from: Value::Null,
            to: name.into(),
        }
    }

    pub(super) fn is_code(&self) -> bool {
        self.kind == Kind::Code
    }

    pub(super) fn is_setting(&self) -> bool {
        self.kind == Kind::Setting
    }

    pub(super) fn for_programs(&self) -> Value {
        json!({ "what": self.what, "from": self.from, "to": self.to })
    }

    /// What, from and to. Values of the environment are not shown: they may be secrets.
    pub(super) fn for_people(&self) -> [String; 3] {
        let text = |value: &Value| match value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            Value::Array(all) if all.is_empty() => String::new(),
            other => other.to_string(),
        };
        [self.what.clone(), text(&self.from), text(&self.to)]
    }
}

/// The settings that an update would change.
///
/// # Errors
/// When the contract does not know the messages, which is a bug.
pub(super) fn settings(
    update: &v1::UpdateAppConfigRequest,
    app: &v1::AppMeta,
) -> Result<Vec<Change>, Error> {
    let json = |name: &str, value: serde_json::Result<Value>| {
        value.map_err(|e| Error::Other(anyhow::Error::new(e).context(format!("{name} as JSON"))))
    };
    let wanted = output::sparse("UpdateAppConfigRequest", update)?;
    let wanted = json("the update", serde_json::to_value(wanted))?;
    let is = json(
        "the app",
        serde_json::to_value(output::sparse("AppMeta", app)?),
    )?;
    let mut changes = Vec::new();
    for (key, to) in wanted.as_object().into_iter().flatten() {
        match (key.as_str(), to) {
            ("organizationName" | "appName", _) => {}
            ("env", Value::Object(env)) => changes.extend(environment(env, &is["env"])),
            ("limits" | "scaling", Value::Object(fields)) => {
                for (field, to) in fields {
                    differs(&mut changes, field, &is[key][field], to);
                }
            }
            ("corsOrigins", Value::Array(all)) if all.as_slice() == [json!("none")] => {
                differs(&mut changes, key, &is[key], &json!([]));
            }
            (clear, Value::Bool(true)) if clear.starts_with("clear") => {
                let mut name = clear.trim_start_matches("clear").to_owned();
                if let Some(first) = name.get_mut(..1) {
                    first.make_ascii_lowercase();
                }
                differs(&mut changes, &name, &is[&name], &Value::Null);
            }
            (key, to) => differs(&mut changes, key, &is[key], to),
        }
    }
    Ok(changes)
}

fn differs(changes: &mut Vec<Change>, what: &str, from: &Value, to: &Value) {
    if from == to || is_default(from) && is_default(to) {
        return;
    }
    changes.push(Change {
        kind: Kind::Setting,
        what: what.to_owned(),
        from: from.clone(),
        to: to.clone(),
    });
}

/// Whether it is what proto3 JSON leaves out.
fn is_default(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "0" || text.ends_with("_UNSPECIFIED"),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::Bool(true) => false,
    }
}

/// The variables that differ, without their values: they may be secrets.
fn environment(wanted: &Map<String, Value>, is: &Value) -> Vec<Change> {
    let nothing = Map::new();
    let is = is.as_object().unwrap_or(&nothing);
    let change = |name: &String, from: Value, to: Value| Change {
        kind: Kind::Setting,
        what: format!("env.{name}"),
        from,
        to,
    };
    let hidden = || Value::from("…");
    let mut changes: Vec<Change> = wanted
        .iter()
        .filter(|(name, value)| is.get(*name) != Some(value))
        .map(|(name, _)| {
            let before = if is.contains_key(name) {
                hidden()
            } else {
                Value::Null
            };
            change(name, before, hidden())
        })
        .collect();
    let gone = is.keys().filter(|name| !wanted.contains_key(*name));
    changes.extend(gone.map(|name| change(name, hidden(), Value::Null)));
    changes
}

/// Whether code that would be sent is that of a version. The server itself recognizes the language of
/// an archive without a Dockerfile, and keeps its bytes.
pub(super) fn same_code(wanted: Option<&v1::CodeSource>, is: Option<&v1::CodeSource>) -> bool {
    let (Some(wanted), Some(is)) = (
        wanted.and_then(|code| code.source.as_ref()),
        is.and_then(|code| code.source.as_ref()),
    ) else {
        return false;
    };
    match (wanted, is) {
        (Source::Image(wanted), Source::Compile(is)) => match &wanted.source {
            Some(image_source::Source::FromCode(code)) => code.archive == is.source_code,
            _ => false,
        },
        (Source::Image(wanted), Source::Image(is)) => {
            let mut wanted = wanted.clone();
            // The default is written out in a version, or not; both mean the same.
            let mut is = is.clone();
            for image in [&mut wanted, &mut is] {
                if let Some(image_source::Source::FromCode(code)) = &mut image.source
                    && code.dockerfile_path == crate::model::code::DEFAULT_DOCKERFILE
                {
                    code.dockerfile_path.clear();
                }
            }
            wanted == is
        }
        (wanted, is) => wanted == is,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_a_change_and_values_of_variables_stay_hidden() {
        let env = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            pairs.collect()
        };
        let app = v1::AppMeta {
            resource_tier: v1::ResourceTier::Small.into(),
            env: env(&[("A", "secret-1"), ("B", "b"), ("GONE", "g")]),
            scaling: Some(v1::ScalingConfig {
                max_replicas: Some(2),
                ..Default::default()
            }),
            ..Default::default()
        };
        let update = v1::UpdateAppConfigRequest {
            resource_tier: Some(v1::ResourceTier::Small.into()),
            description: Some(String::new()),
            mcp_enabled: Some(false),
            env: env(&[("A", "secret-2"), ("B", "b"), ("NEW", "secret-3")]),
            scaling: Some(v1::ScalingConfig {
                max_replicas: Some(3),
                ..Default::default()
            }),
            clear_capabilities: true,
            ..Default::default()
        };
        let changes = settings(&update, &app).unwrap_or_else(|e| panic!("{e:?}"));
        let mut shown: Vec<String> = changes.iter().map(|c| c.for_people().join(" ")).collect();
        shown.sort();
        assert_eq!(
            shown,
            ["env.A … …", "env.GONE … ", "env.NEW  …", "maxReplicas 2 3"]
        );
        let same = v1::UpdateAppConfigRequest {
            env: app.env.clone(),
            ..Default::default()
        };
        assert_eq!(
            settings(&same, &app).unwrap_or_else(|e| panic!("{e:?}")),
            []
        );
    }
}
