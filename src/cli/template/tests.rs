use std::fs;

use super::*;

const FLASK: &str = "from flask import Flask\n\napp = Flask(__name__)\n";
const FASTAPI: &str = "import fastapi\n\napi: fastapi.FastAPI = fastapi.FastAPI(title=\"x\")\n";

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }
    root
}

fn detected(files: &[(&str, &str)]) -> Result<Detected, String> {
    detect(folder(files).path(), &Bases::default())
}

#[track_caller]
fn template(files: &[(&str, &str)]) -> Template {
    match detected(files) {
        Ok(Detected::Template(template)) => template,
        other => panic!("{files:?}: {other:?}"),
    }
}

#[track_caller]
fn refused(files: &[(&str, &str)], words: &[&str]) {
    let why = detected(files).expect_err("refused");
    for word in words {
        assert!(why.contains(word), "no {word:?} in {why}");
    }
}

#[test]
fn each_kind_is_known_by_its_files_and_obeys_the_contract() {
    let go = "package main\n\nfunc main() {\n}\n";
    let rust = "[package]\nname = \"hello\"\n";
    /// Files, what they are, words of the explanation, words of the Dockerfile.
    type Case<'a> = (&'a [(&'a str, &'a str)], Kind, &'a str, &'a str);
    let cases: &[Case<'_>] = &[
        (
            &[("requirements.txt", "Flask>=3\n"), ("app.py", FLASK)],
            Kind::Flask,
            "requirements.txt names flask, and app.py has `app = Flask(…)`",
            "gunicorn --bind 0.0.0.0:$PORT --threads 8 app:app",
        ),
        (
            &[("server.py", FLASK), ("zeta.py", FLASK)],
            Kind::Flask,
            "server.py has",
            "pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore 'flask' 'gunicorn'",
        ),
        (
            &[
                ("requirements.txt", "flask\n-r more.txt"),
                (
                    "shop/__init__.py",
                    "from flask import Flask\ndef create_app():\n    app = Flask('x')\n",
                ),
            ],
            Kind::Flask,
            "shop/__init__.py",
            "COPY . ./\n",
        ),
        (
            &[
                (
                    "pyproject.toml",
                    "[project]\ndependencies = [\"fastapi[standard]>=0.1\"]",
                ),
                ("main.py", FASTAPI),
            ],
            Kind::FastApi,
            "pyproject.toml names fastapi, and main.py has `api = FastAPI(…)`",
            "exec python -m uvicorn --host 0.0.0.0 --port $PORT main:api",
        ),
        (
            &[
                ("manage.py", ""),
                ("shop/wsgi.py", ""),
                ("package.json", "{}"),
            ],
            Kind::Django,
            "shop/wsgi.py",
            "shop.wsgi",
        ),
        (
            &[(
                "package.json",
                r#"{"scripts":{"start":"node src/x.js"},"dependencies":{"a":"1"}}"#,
            )],
            Kind::Node,
            "`node src/x.js`",
            "RUN npm install --omit=dev\nCOPY . .\nENV NODE_ENV=production\nUSER 65532:65532\nCMD [\"node\", \"src/x.js\"]",
        ),
        (
            &[
                (
                    "package.json",
                    r#"{"scripts":{"start":"next start","build":"next build"},"dependencies":{"a":"1"}}"#,
                ),
                ("package-lock.json", "{}"),
            ],
            Kind::Node,
            "next start",
            "RUN npm ci\nCOPY . .\nRUN npm run build\n",
        ),
        (
            &[("package.json", "{}"), ("server.js", "")],
            Kind::Node,
            "server.js",
            "[\"node\", \"server.js\"]",
        ),
        (
            &[("main.ts", "Deno.serve(() => new Response())")],
            Kind::Deno,
            "calls Deno.serve",
            "DENO_SERVE_ADDRESS=tcp:0.0.0.0:$PORT",
        ),
        (
            &[
                ("deno.json", "{}"),
                ("main.ts", "export default { fetch() {} }"),
            ],
            Kind::Deno,
            "exports a `fetch`",
            "deno serve --cached-only --host 0.0.0.0 --port $PORT",
        ),
        (
            &[("go.mod", "module a"), ("go.sum", ""), ("web.go", go)],
            Kind::Go,
            "web.go",
            "go build -trimpath -o /out/app .\n",
        ),
        (
            &[("go.mod", "module a"), ("cmd/web/main.go", go)],
            Kind::Go,
            "cmd/web",
            "/out/app ./cmd/web\n",
        ),
        (
            &[
                ("Cargo.toml", rust),
                ("Cargo.lock", ""),
                ("src/main.rs", "fn main() {}"),
            ],
            Kind::Rust,
            "program is hello",
            "--bin hello",
        ),
        (
            &[("index.html", "<p>")],
            Kind::Static,
            "index.html",
            "COPY . /srv/",
        ),
        (
            &[("README.md", ""), ("public/index.html", "<p>")],
            Kind::Static,
            "public/index.html",
            "COPY public /srv/",
        ),
    ];
    for (files, kind, why, text) in cases {
        let made = template(files);
        assert_eq!(made.kind, *kind, "{files:?}");
        assert!(made.why.contains(why), "no {why:?} in {:?}", made.why);
        let dockerfile = &made.dockerfile;
        assert!(dockerfile.contains(text), "no {text:?} in {dockerfile}");
        let (_, end) = dockerfile
            .split_once("\nUSER 65532:65532\n")
            .expect("a user");
        assert!(
            end.starts_with("CMD ") || end.starts_with("ENTRYPOINT "),
            "{end}"
        );
        assert!(!dockerfile.contains("127.0.0.1"), "{dockerfile}");
    }
}

#[test]
fn handlers_are_left_to_the_server_and_a_dockerfile_comes_first() {
    for files in [
        &[
            ("handler.py", "def handler(p, c): pass"),
            ("requirements.txt", "flask"),
        ][..],
        &[("main.ts", "import { start } from \"ignite\";")],
        &[
            ("deno.json", "{}"),
            ("handler.ts", ""),
            ("main.ts", "import { start } from 'ignite';"),
        ],
        &[("go.mod", "module a"), ("handler.go", "package handler\n")],
        &[(
            "main.go",
            "package main\n\nimport (\n\t\"ignite\"\n)\n\nfunc main() {}\n",
        )],
        &[
            ("Cargo.toml", "[package]\nname = \"a\""),
            ("src/lib.rs", "#[ignite::main]"),
        ],
    ] {
        let found = detected(files);
        assert!(
            matches!(found, Ok(Detected::Handler(_))),
            "{files:?}: {found:?}"
        );
    }
    let own = [("Dockerfile", "FROM x"), ("app.py", FLASK)];
    assert_eq!(detected(&own), Ok(Detected::Dockerfile));
    let bases = Bases {
        base: Some("mine:1".to_owned()),
        ..Bases::default()
    };
    let root = folder(&own[1..]);
    let Ok(Detected::Template(made)) = detect(root.path(), &bases) else {
        panic!("a template");
    };
    assert!(
        made.dockerfile.contains("\nFROM mine:1\n"),
        "{}",
        made.dockerfile
    );
}

#[test]
fn a_folder_that_says_nothing_or_too_much_is_refused_with_the_way_out() {
    refused(
        &[("README.md", "x"), ("docker/Dockerfile", "FROM x")],
        &[
            "Add a Dockerfile",
            "--runtime",
            "docker/Dockerfile, which --dockerfile-path names",
            "Flask: requirements.txt",
            "Go: go.mod",
            "static files: index.html",
        ],
    );
    refused(
        &[("app.py", FLASK), ("package.json", "{}"), ("index.js", "")],
        &[
            "Flask (app.py has",
            "or Node (package.json, and index.js)",
            "--template flask|node",
        ],
    );
    refused(
        &[("requirements.txt", "flask")],
        &["requirements.txt names flask", "app = Flask(…)"],
    );
    refused(&[("manage.py", "")], &["wsgi.py"]);
    refused(
        &[("package.json", r#"{"scripts":{"build":"vite build"}}"#)],
        &["deploy the folder of pages"],
    );
    refused(&[("package.json", "{")], &["package.json is not valid"]);
    refused(&[("Cargo.toml", "[workspace]")], &["no [package]"]);
    refused(&[("go.mod", "module a")], &["func main()"]);
    refused(
        &[
            ("pyproject.toml", "[tool.poetry]\nname = \"a\""),
            ("app.py", FLASK),
        ],
        &["poetry export"],
    );
    let root = folder(&[("app.py", FLASK), ("package.json", "{}"), ("index.js", "")]);
    let chosen = |kind| {
        let bases = Bases {
            template: Some(kind),
            ..Bases::default()
        };
        detect(root.path(), &bases)
    };
    assert!(matches!(chosen(Kind::Node), Ok(Detected::Template(t)) if t.kind == Kind::Node));
    let why = chosen(Kind::Go).expect_err("there is none");
    assert!(
        why.contains("--template go") && why.contains("go.mod"),
        "{why}"
    );
}
