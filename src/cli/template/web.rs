//! Node, Deno and static files.

use serde_json::Value;

use super::{Found, Live, Program, Recipe, folder::Files, json};

const NODE: &str = "node:22-slim";
const DENO: &str = "denoland/deno:2";
const BUSYBOX: &str = "busybox:stable";
/// The files that a server usually begins in, likeliest first.
const SERVERS: [&str; 8] = [
    "server.js",
    "index.js",
    "app.js",
    "main.js",
    "server.mjs",
    "index.mjs",
    "app.mjs",
    "main.mjs",
];

pub(super) fn node(files: &Files<'_>) -> Result<Option<Found>, String> {
    if !files.has("package.json") || files.has("deno.json") || files.has("deno.jsonc") {
        return Ok(None);
    }
    // A project of Django or a program in Go may have one for its pages.
    let package: Value = serde_json::from_str(&files.text("package.json"))
        .map_err(|e| format!("package.json is not valid: {e}"))?;
    let script = |name: &str| {
        let scripts = package.get("scripts")?;
        Some(scripts.get(name)?.as_str()?.trim().to_owned())
    };
    let main = package.get("main").and_then(Value::as_str);
    let main = main.filter(|main| files.is_file(main)).map(str::to_owned);
    let (why, command) = match (script("start"), main) {
        (Some(start), _) => {
            // Without npm in between, signals reach the program.
            let command = match start.strip_prefix("node ") {
                Some(rest) if is_plain(rest) => {
                    let words = std::iter::once("node").chain(rest.split_whitespace());
                    exec(words)
                }
                _ => exec(["npm", "start"]),
            };
            (format!("package.json starts it with `{start}`"), command)
        }
        (None, Some(main)) => (
            format!("package.json has {main:?} as its main"),
            exec(["node", &main]),
        ),
        (None, None) => match files.first(&SERVERS) {
            Some(file) => (format!("package.json, and {file}"), exec(["node", file])),
            None if script("build").is_some() => {
                return Err(
                    "package.json has a script `build` and nothing that serves: build it and deploy the folder of pages that it makes, or add a script `start`, or a Dockerfile"
                        .to_owned(),
                );
            }
            None => {
                return Err(format!(
                    "package.json has neither a script `start` nor a `main`, and there is none of {}; add one, or a Dockerfile",
                    SERVERS.join(", ")
                ));
            }
        },
    };
    let has = |key: &str| {
        let listed = package.get(key).and_then(Value::as_object);
        listed.is_some_and(|listed| !listed.is_empty())
    };
    let builds = script("build").is_some();
    let mut steps = vec!["WORKDIR /app".to_owned()];
    if has("dependencies") || has("devDependencies") || has("optionalDependencies") {
        let (lists, install) = install(files, builds);
        steps.push(format!("COPY {lists} ./"));
        steps.push(format!("RUN {install}"));
    }
    steps.push("COPY . .".to_owned());
    if builds {
        steps.push("RUN npm run build".to_owned());
    }
    steps.push("ENV NODE_ENV=production".to_owned());
    steps.push(command);
    Ok(Some(Found::Program(Program {
        why,
        base: NODE,
        recipe: Recipe::Steps(steps),
        // What is built is not read as it was written.
        live: (!builds).then_some(Live { path: "/app" }),
    })))
}

/// The files with the dependencies, and the command that installs them. A build needs all of them.
fn install(files: &Files<'_>, builds: bool) -> (&'static str, &'static str) {
    if files.has("pnpm-lock.yaml") {
        let all = "corepack enable && pnpm install --frozen-lockfile";
        return ("package.json pnpm-lock.yaml", all);
    }
    if files.has("yarn.lock") {
        let all = "corepack enable && yarn install --frozen-lockfile";
        return ("package.json yarn.lock", all);
    }
    match (files.has("package-lock.json"), builds) {
        (true, true) => ("package.json package-lock.json", "npm ci"),
        (true, false) => ("package.json package-lock.json", "npm ci --omit=dev"),
        (false, true) => ("package.json", "npm install"),
        (false, false) => ("package.json", "npm install --omit=dev"),
    }
}

/// Whether the shell would take these words as they are.
fn is_plain(words: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || " -_./=:@".contains(c);
    words.chars().all(plain)
}

fn exec<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(json).collect();
    format!("CMD [{}]", words.join(", "))
}

pub(super) fn deno(files: &Files<'_>) -> Result<Option<Found>, String> {
    let entry = files.first(&[
        "main.ts",
        "main.js",
        "server.ts",
        "server.js",
        "mod.ts",
        "index.ts",
    ]);
    let config = files.first(&["deno.json", "deno.jsonc"]);
    let handler = files.first(&["handler.ts", "handler.js"]);
    if config.is_none() && (files.has("package.json") || entry.is_none() && handler.is_none()) {
        return Ok(None);
    }
    let text = entry.map(|file| files.text(file)).unwrap_or_default();
    let serves = text.contains("Deno.serve");
    let exports = text.contains("export default") && text.contains("fetch");
    let is_handler = text.contains("\"ignite\"") || text.contains("'ignite'");
    match (entry, handler) {
        (Some(entry), _) if is_handler => {
            Ok(Some(Found::Handler(format!("{entry} imports \"ignite\""))))
        }
        (Some(entry), _) if serves || exports => {
            let command = if serves {
                // Deno's server takes its address from there.
                format!(
                    "ENTRYPOINT DENO_SERVE_ADDRESS=tcp:0.0.0.0:$PORT exec deno run --cached-only --allow-net --allow-env --allow-read {entry}"
                )
            } else {
                format!(
                    "ENTRYPOINT exec deno serve --cached-only --host 0.0.0.0 --port $PORT --allow-net --allow-env --allow-read {entry}"
                )
            };
            let what = if serves {
                "calls Deno.serve"
            } else {
                "exports a `fetch`"
            };
            let why = match config {
                Some(config) => format!("{config}, and {entry} {what}"),
                None => format!("{entry} {what}"),
            };
            let steps = vec![
                "ENV DENO_DIR=/deno DENO_NO_UPDATE_CHECK=1".to_owned(),
                "WORKDIR /app".to_owned(),
                "COPY . .".to_owned(),
                // Fetched now: a start must not depend on what others serve.
                format!("RUN deno cache {entry}"),
                // Deno's image has an entry point of its own.
                command,
            ];
            Ok(Some(Found::Program(Program {
                why,
                base: DENO,
                recipe: Recipe::Steps(steps),
                live: None,
            })))
        }
        (_, Some(handler)) => Ok(Some(Found::Handler(handler.to_owned()))),
        (Some(entry), None) if config.is_some() || entry == "main.ts" => Err(format!(
            "{entry} neither calls Deno.serve, nor exports a `fetch`, nor imports `start` from \"ignite\"; do one of these, or add a Dockerfile"
        )),
        // A script of a page, or a program for Node without a package.json.
        (Some(_), None) => Ok(None),
        (None, None) => Err(format!(
            "{} makes it Deno's, and there is no main.ts or main.js beside it; add one that calls Deno.serve, or a Dockerfile",
            config.unwrap_or_default()
        )),
    }
}

/// Static files: pages at the root, or in a folder of usual name.
pub(super) fn files(files: &Files<'_>) -> Option<Found> {
    let folders = ["public", "dist", "build", "site", "_site", "www"];
    let folder = if files.has("index.html") {
        "."
    } else {
        *folders
            .iter()
            .find(|folder| files.is_file(&format!("{folder}/index.html")))?
    };
    let why = match folder {
        "." => "index.html".to_owned(),
        folder => format!("{folder}/index.html"),
    };
    Some(Found::Program(Program {
        why,
        base: BUSYBOX,
        recipe: Recipe::Steps(vec![
            format!("COPY {folder} /srv/"),
            // Where the platform asks whether the app is up.
            "RUN [ -e /srv/healthz ] || echo ok >/srv/healthz".to_owned(),
            "CMD exec busybox httpd -f -p 0.0.0.0:$PORT -h /srv".to_owned(),
        ]),
        live: (folder == ".").then_some(Live { path: "/srv" }),
    }))
}
