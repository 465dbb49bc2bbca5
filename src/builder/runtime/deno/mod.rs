//! Deno: a handler that calls `start` of the import `ignite`, which is the platform's own server
//! (`ignite.ts`).
//!
//! That import and `ignite/store` (`store.ts`) are written into the code's `deno.json`, also where
//! it maps them to files of the platform that the code does not have; nothing else of the code
//! changes. The packages that this file names are fetched in a separate step, before the code is
//! added.

use serde_json::{Map, Value};

use super::{USER, failed, handler, place_all};
use crate::{
    builder::{Context, Source},
    model::Failure,
};

/// The modules that a handler imports from the platform: the name, the file and its text.
const MODULES: [(&str, &str, &str); 2] = [
    ("ignite", "ignite.ts", include_str!("ignite.ts")),
    ("ignite/store", "store.ts", include_str!("store.ts")),
];
/// The possible files that call `start`; the first one found wins. Beside a `main`, a `handler` is
/// just a module of the code.
const HANDLERS: [&str; 4] = ["main.ts", "main.js", "handler.ts", "handler.js"];
/// The possible files of a configuration.
const CONFIGS: [&str; 2] = ["deno.json", "deno.jsonc"];
/// Further files that name packages.
const LISTS: [&str; 3] = ["deno.lock", "package.json", "package-lock.json"];
/// Most bytes of a configuration.
const MAX_CONFIG: u64 = 1024 * 1024;

/// Settings of Deno builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The image that apps are built on; it has `deno` and a shell.
    pub image: String,
}

/// The context that builds a source.
///
/// # Errors
/// BUILD_FAILED without a handler at the root, or with an invalid configuration.
pub fn context(source: Source, settings: &Settings) -> Result<Context, Failure> {
    let entry = handler(
        &source,
        &HANDLERS,
        "`start(handler)` of the import \"ignite\"",
    )?;
    let (at, config, has_packages) = config(&source)?;
    let mut context = Context::empty(source, "Dockerfile");
    place_all(&mut context, "app");
    context.add(&format!("app/{at}"), config.clone(), false);
    for (_, file, text) in MODULES {
        context.add(&format!("sdk/{file}"), text, false);
    }
    if has_packages {
        context.add(&format!("lists/{at}"), config, false);
        for list in LISTS {
            context.place(list, &format!("lists/{list}"));
        }
    }
    let text = dockerfile(settings, entry, has_packages);
    context.add("Dockerfile", text, false);
    Ok(context)
}

/// The file of the imports, the configuration with `ignite` in it, and whether the code names
/// packages elsewhere.
fn config(source: &Source) -> Result<(String, Vec<u8>, bool), Failure> {
    let config = CONFIGS.into_iter().find(|name| source.has_file(name));
    let mut at = config.unwrap_or(CONFIGS[0]).to_owned();
    let mut object = match config {
        Some(name) => read(source, name)?,
        None => Map::new(),
    };
    let own = at.clone();
    // A file of imports replaces those of the configuration.
    if let Some(Value::String(map)) = object.get("importMap") {
        at = map.trim_start_matches("./").to_owned();
        object = read(source, &at)?;
    }
    let imports = object.entry("imports").or_insert_with(|| Map::new().into());
    let Some(imports) = imports.as_object_mut() else {
        return Err(failed(format!("`imports` in {at} is not an object")));
    };
    let is_package = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        text.starts_with("npm:") || text.starts_with("jsr:")
    };
    let has_packages =
        at == own && imports.values().any(is_package) || source.has_file("package.json");
    for (name, file, _) in MODULES {
        imports.insert(name.to_owned(), format!("file:///opt/ignite/{file}").into());
    }
    Ok((at, Value::from(object).to_string().into(), has_packages))
}

fn read(source: &Source, name: &str) -> Result<Map<String, Value>, Failure> {
    let text = source
        .read(name, MAX_CONFIG)
        .ok_or_else(|| failed(format!("{name} is not a file of at most 1 MiB of the code")))?;
    let text = String::from_utf8_lossy(&text);
    match jsonc_parser::parse_to_serde_value(&text, &Default::default()) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(failed(format!("{name} is not a JSON object"))),
        Err(e) => Err(failed(format!("{name} is not valid: {e}"))),
    }
}

fn dockerfile(settings: &Settings, entry: &str, has_packages: bool) -> String {
    let packages = if has_packages {
        "COPY lists/ /app/\nRUN deno install\n"
    } else {
        ""
    };
    // Fetched now and only now: a start must not depend on what others serve.
    format!(
        r#"FROM {image}
USER 0:0
ENV DENO_DIR=/opt/ignite/deno DENO_NO_UPDATE_CHECK=1 NO_COLOR=1 HOME=/home/app
WORKDIR /app
ENTRYPOINT ["deno", "run", "--allow-all", "--cached-only", "/app/{entry}"]
CMD []
COPY sdk/ /opt/ignite/
{packages}COPY app/ /app/
RUN deno cache {entry}
USER {USER}
"#,
        image = settings.image,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{builder::limits::tests::LIMITS, model::work::NEVER};

    /// The result of [`config`] for these files.
    fn made(files: &[(&str, &str)]) -> Result<(String, Value, bool), Failure> {
        let root = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            std::fs::write(root.path().join(name), text).expect("written");
        }
        let source = Source::scan(root, std::path::Path::new(""), LIMITS, NEVER).expect("a tree");
        let (at, text, has_packages) = config(&source)?;
        let value = serde_json::from_slice(&text).expect("JSON");
        Ok((at, value, has_packages))
    }

    #[test]
    fn the_import_is_put_beside_those_of_the_code() {
        let (at, value, has_packages) = made(&[]).expect("made");
        assert_eq!((&*at, has_packages), ("deno.json", false));
        assert_eq!(value["imports"]["ignite"], "file:///opt/ignite/ignite.ts");

        // As public samples have it: neither file is in the code.
        let text = r#"{ "imports": {
            "ignite": "./deno/sdk/ignite/bootstrap.ts",
            "ignite/store": "./deno/sdk/ignite/store.ts"
        } }"#;
        let (_, value, has_packages) = made(&[("deno.json", text)]).expect("made");
        assert_eq!(value["imports"]["ignite"], "file:///opt/ignite/ignite.ts");
        assert_eq!(
            value["imports"]["ignite/store"],
            "file:///opt/ignite/store.ts"
        );
        assert!(!has_packages);

        let text =
            "{ // why\n \"fmt\": {}, \"imports\": { \"a\": \"npm:a@1\", \"ignite\": \"x\" }, }";
        let (at, value, has_packages) = made(&[("deno.jsonc", text)]).expect("made");
        assert_eq!((&*at, has_packages), ("deno.jsonc", true));
        assert_eq!(value["imports"]["a"], "npm:a@1");
        assert_eq!(value["imports"]["ignite"], "file:///opt/ignite/ignite.ts");
        assert!(value["fmt"].is_object(), "{value}");

        let config = ("deno.json", "{ \"importMap\": \"./map.json\" }");
        let map = ("map.json", "{ \"imports\": {} }");
        let (at, _, has_packages) = made(&[config, map]).expect("made");
        assert_eq!((&*at, has_packages), ("map.json", false));
        assert!(
            made(&[("deno.json", "{}"), ("package.json", "{}")])
                .expect("made")
                .2
        );
    }

    #[test]
    fn a_configuration_that_is_none_is_told() {
        for text in [
            "{",
            "[]",
            "{ \"imports\": 1 }",
            "{ \"importMap\": \"./none.json\" }",
            // Nested deeper than a thread's stack allows.
            &"[".repeat(500_000),
            &"{\"a\":".repeat(150_000),
        ] {
            assert!(made(&[("deno.json", text)]).is_err(), "{text:.100}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
        assert!(made(&[("deno.json", &deep)]).is_ok());
    }
}
