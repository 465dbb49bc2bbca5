//! The commands of the README and of the manual work: each page's are run, one after another, against a
//! server of its own.
//!
//! Blocks of `sh` are run, and the lines with a prompt of `console`. `<!-- not run: WHY -->` before a block
//! leaves it out, and `<!-- first: COMMANDS -->` prepares what a page takes for granted. The ports of
//! the manual stand for those of the test, and `ignite serve` only checks its flags and settings:
//! the server runs already. The form of pages is checked in tests/manual.rs.

use std::{fs, os::unix::fs::symlink, path::Path, process::Stdio};

use bollard::query_parameters::TagImageOptions;
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use tokio::{process::Command, time::timeout};

use crate::support::{HANGS, base_image, code, engine, ignite::Ignite, probe};

/// The image of the manual's examples.
const IMAGE: (&str, &str) = ("registry.example/you/hello", "1");

/// `ignite serve` ends at once, and `curl` fails with what it asks for.
const BEGIN: &str = r#"set -euo pipefail
ignite() {
    if [ "$1" = serve ]; then command ignite "$@" --dump-config; else command ignite "$@"; fi
}
curl() { command curl --fail-with-body -sS "$@"; }
"#;
/// A failure of what runs in the background counts, too.
const END: &str = r#"
for job in $(jobs -p); do wait "$job"; done
"#;

/// The commands of a page; `None` when it has none.
fn commands(text: &str) -> Option<String> {
    let mut script = String::new();
    let mut comment = String::new();
    let mut block: Option<String> = None;
    let mut any = false;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Html(html) => {
                comment = html.to_string();
                if let Some(first) = comment.trim().strip_prefix("<!-- first:") {
                    script += first.trim_end_matches("-->").trim();
                    script.push('\n');
                }
            }
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                let runs =
                    matches!(&*language, "sh" | "console") && !comment.starts_with("<!-- not run:");
                block = runs.then(|| language.to_string());
                comment.clear();
            }
            Event::Text(lines) => {
                for line in lines.lines() {
                    let command = match block.as_deref() {
                        Some("console") => line.strip_prefix("$ "),
                        Some(_) => Some(line),
                        None => None,
                    };
                    if let Some(command) = command {
                        any = true;
                        script += command;
                        script.push('\n');
                    }
                }
            }
            Event::End(TagEnd::CodeBlock) => block = None,
            _ => {}
        }
    }
    any.then_some(script)
}

async fn run(file: &Path, script: &str, python: &str) {
    let server = Ignite::builder()
        .env("IGNITE_PYTHON_BASE", python)
        .start()
        .await;
    let home = tempfile::tempdir().expect("a directory");
    let folder = home.path();
    // What the pages take for the reader's own.
    let dockerfile = code::dockerfile("1").await;
    code::write(
        &folder.join("hello"),
        &[("Dockerfile", dockerfile.as_bytes())],
    );
    symlink(server.data_dir(), folder.join("ignite")).expect("a link");

    let script = script
        .replace(":8080", &format!(":{}", server.http_addr().port()))
        .replace(":50051", &format!(":{}", server.grpc_addr().port()));
    let binary = Path::new(env!("CARGO_BIN_EXE_ignite"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", binary.parent().expect("a folder").display());
    let run = Command::new("bash")
        .args(["-c", &format!("{BEGIN}{script}{END}")])
        .current_dir(folder)
        .env_clear()
        .envs([("PATH", path.as_str()), ("LANG", "C.UTF-8")])
        .envs(std::env::var_os("DOCKER_HOST").map(|host| ("DOCKER_HOST", host)))
        .env("HOME", folder)
        .env("RUNNER_TEMP", folder)
        .env("IGNITE_DATA_DIR", server.data_dir())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(HANGS, run).await;
    let output = output.unwrap_or_else(|_| panic!("{}: the commands hang", file.display()));
    let output = output.expect("bash runs");
    assert!(
        output.status.success(),
        "{}: {}\n{}{}",
        file.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn the_commands_of_every_page_work() {
    let docker = engine::docker().await;
    let tag = TagImageOptions {
        repo: Some(IMAGE.0.to_owned()),
        tag: Some(IMAGE.1.to_owned()),
    };
    let image = probe::image().await;
    docker.tag_image(&image, Some(tag)).await.expect("a tag");
    let python = base_image("python").await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("src/docs")).expect("the folder is there");
    let pages = pages.map(|page| page.expect("an entry").path());
    let mut files: Vec<_> = std::iter::once(root.join("README.md"))
        .chain(pages)
        .collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "md"));
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).expect("text");
        if let Some(script) = commands(&text) {
            run(&file, &script, &python).await;
        }
    }
}
