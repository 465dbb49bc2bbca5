//! Flask, FastAPI and Django.

use toml::{Table, Value};

use super::{Found, Kind, Live, Program, Recipe, folder::Files};

const BASE: &str = "python:3.12-slim";
const REQUIREMENTS: &str = "requirements.txt";
const PROJECT: &str = "pyproject.toml";
/// The names of modules that usually hold the app, likeliest first.
const USUAL: [&str; 6] = ["app", "main", "wsgi", "asgi", "server", "api"];

/// What an app written with a framework looks like.
struct Framework {
    /// Its package, and the class of an app.
    package: &'static str,
    class: &'static str,
    /// The package of the server.
    server: &'static str,
    /// The command up to the name of the app.
    command: &'static str,
}

const FLASK: Framework = Framework {
    package: "flask",
    class: "Flask",
    server: "gunicorn",
    command: "exec python -m gunicorn --bind 0.0.0.0:$PORT --threads 8",
};
const FASTAPI: Framework = Framework {
    package: "fastapi",
    class: "FastAPI",
    server: "uvicorn",
    command: "exec python -m uvicorn --host 0.0.0.0 --port $PORT",
};

pub(super) fn find(kind: Kind, files: &Files<'_>) -> Result<Option<Found>, String> {
    let framework = match kind {
        Kind::Django => return django(files),
        Kind::FastApi => &FASTAPI,
        _ => &FLASK,
    };
    // A project of Django may use others beside it.
    if files.has("manage.py") {
        return Ok(None);
    }
    let listed = lists(files).find(|(_, names)| names.contains(&framework.package.to_owned()));
    let app = app(files, framework.class);
    let (why, app) = match (listed, app) {
        (None, None) => return Ok(None),
        (Some((list, _)), None) => {
            return Err(format!(
                "{} names {}, and no .py file at the root of the folder, nor in a package there, has a line `app = {}(…)`; add one, or a Dockerfile",
                list, framework.package, framework.class
            ));
        }
        (listed, Some(app)) => {
            let made = format!("{} has `{} = {}(…)`", app.file, app.name, framework.class);
            let why = match listed {
                Some((list, _)) => format!("{list} names {}, and {made}", framework.package),
                None => made,
            };
            (why, app)
        }
    };
    let command = format!("CMD {} {}", framework.command, app.target());
    Ok(Some(Found::Program(program(
        files,
        why,
        framework.package,
        framework.server,
        command,
    )?)))
}

fn django(files: &Files<'_>) -> Result<Option<Found>, String> {
    if !files.has("manage.py") {
        return Ok(None);
    }
    let projects: Vec<&str> = files
        .folders()
        .filter(|folder| files.is_file(&format!("{folder}/wsgi.py")))
        .collect();
    let project = match projects.as_slice() {
        [one] => one,
        [] => {
            return Err(
                "manage.py makes it a Django project, and no folder beside it has a wsgi.py; add one (`django-admin startproject` writes it), or a Dockerfile"
                    .to_owned(),
            );
        }
        several => {
            return Err(format!(
                "manage.py makes it a Django project, and {} have a wsgi.py each; add a Dockerfile that serves the right one",
                several.join(", ")
            ));
        }
    };
    let why = format!("manage.py, and {project}/wsgi.py");
    let command =
        format!("CMD exec python -m gunicorn --bind 0.0.0.0:$PORT --threads 8 {project}.wsgi");
    let program = program(files, why, "django", "gunicorn", command)?;
    Ok(Some(Found::Program(program)))
}

/// The recipe for all of them: requirements first, since they change least.
fn program(
    files: &Files<'_>,
    why: String,
    package: &str,
    server: &str,
    command: String,
) -> Result<Program, String> {
    let mut steps = vec![
        "ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1".to_owned(),
        "WORKDIR /app".to_owned(),
    ];
    let pip = "RUN python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore";
    if files.has(REQUIREMENTS) {
        // Other lists and packages of the folder have to be there.
        let whole = files.text(REQUIREMENTS).lines().any(names_a_file);
        let list = if whole { "." } else { REQUIREMENTS };
        steps.push(format!("COPY {list} ./"));
        steps.push(format!("{pip} -r {REQUIREMENTS} {server}"));
    } else {
        let mut needed = dependencies(files)?;
        for name in [package, server] {
            if !needed.iter().any(|line| package_of(line) == name) {
                needed.push(name.to_owned());
            }
        }
        let quoted: Vec<String> = needed.iter().map(|line| quoted(line)).collect();
        steps.push(format!("{pip} {}", quoted.join(" ")));
    }
    steps.push("COPY . .".to_owned());
    steps.push(command);
    Ok(Program {
        why,
        base: BASE,
        recipe: Recipe::Steps(steps),
        live: Some(Live { path: "/app" }),
    })
}

/// Whether a line of requirements names a file or folder; a doubtful one may.
fn names_a_file(line: &str) -> bool {
    let line = line.trim();
    let is_option = [
        "-r",
        "-c",
        "-e",
        "--requirement",
        "--constraint",
        "--editable",
    ]
    .iter()
    .any(|option| line.starts_with(option));
    let is_path = line.starts_with(['.', '/']) || line.contains("file:");
    is_option || is_path || line.ends_with(".whl")
}

/// Quotes a requirement as a word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Where an app is.
struct App {
    file: String,
    /// The variable, or the function that makes it.
    name: String,
    is_factory: bool,
}

impl App {
    /// The app as servers take it.
    fn target(&self) -> String {
        let module = self.file.trim_end_matches(".py").replace('/', ".");
        let module = module.trim_end_matches(".__init__");
        if self.is_factory {
            format!("'{module}:{}()'", self.name)
        } else {
            format!("{module}:{}", self.name)
        }
    }
}

/// The app of this class, in the likeliest file.
fn app(files: &Files<'_>, class: &str) -> Option<App> {
    let mut roots: Vec<&str> = files.ending(".py").collect();
    roots.sort_by_key(|file| {
        let at = USUAL
            .iter()
            .position(|name| Some(*name) == file.strip_suffix(".py"));
        (at.unwrap_or(USUAL.len()), *file)
    });
    let in_packages = files.folders().flat_map(|folder| {
        ["__init__.py", "main.py", "app.py"].map(|file| format!("{folder}/{file}"))
    });
    let all = roots.into_iter().map(str::to_owned).chain(in_packages);
    let mut factory = None;
    for file in all {
        let text = files.text(&file);
        if let Some(name) = text.lines().find_map(|line| assigned(line, class)) {
            return Some(App {
                file,
                name,
                is_factory: false,
            });
        }
        // Flask's own convention; gunicorn calls it.
        let makes = class == "Flask" && text.contains("Flask(");
        if makes && text.lines().any(|line| line.starts_with("def create_app(")) {
            factory.get_or_insert_with(|| App {
                file,
                name: "create_app".to_owned(),
                is_factory: true,
            });
        }
    }
    factory
}

/// The variable of a line such as `app = Flask(__name__)` or `app: FastAPI = FastAPI()`.
fn assigned(line: &str, class: &str) -> Option<String> {
    let (left, right) = line.split_once('=')?;
    let right = right.trim_start();
    let call = right.split_once('(')?.0.trim_end();
    if call.rsplit('.').next() != Some(class) {
        return None;
    }
    let name = left.split(':').next()?.trim_end();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!name.is_empty() && name.chars().all(is_name)).then(|| name.to_owned())
}

/// The lists of dependencies, and the names of the packages in them.
fn lists<'a>(files: &'a Files<'_>) -> impl Iterator<Item = (&'static str, Vec<String>)> + 'a {
    let read = |list: &'static str| {
        let lines: Vec<String> = if list == REQUIREMENTS {
            files.text(list).lines().map(str::to_owned).collect()
        } else {
            dependencies(files).unwrap_or_default()
        };
        (list, lines.iter().map(|line| package_of(line)).collect())
    };
    [REQUIREMENTS, PROJECT]
        .into_iter()
        .filter(|list| files.has(list))
        .map(read)
}

/// The dependencies in `[project]` of `pyproject.toml`; none without the file.
fn dependencies(files: &Files<'_>) -> Result<Vec<String>, String> {
    if !files.has(PROJECT) {
        return Ok(Vec::new());
    }
    let table: Table = files
        .text(PROJECT)
        .parse()
        .map_err(|e| format!("{PROJECT} is not valid: {e}"))?;
    if let Some(list) = table.get("project").and_then(|p| p.get("dependencies")) {
        let texts = list.as_array().into_iter().flatten();
        return Ok(texts.filter_map(Value::as_str).map(str::to_owned).collect());
    }
    match table.get("tool").and_then(|tool| tool.get("poetry")) {
        Some(_) => Err(format!(
            "{PROJECT} lists dependencies in Poetry's own form; write them to {REQUIREMENTS} (`poetry export -o {REQUIREMENTS}`), or add a Dockerfile"
        )),
        None => Ok(Vec::new()),
    }
}

/// The package that a requirement names, in lower case.
fn package_of(requirement: &str) -> String {
    let end = requirement.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
    let name = &requirement[..end.unwrap_or(requirement.len())];
    name.to_ascii_lowercase().replace('_', "-")
}
