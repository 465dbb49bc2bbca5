//! Python: `handler.py` with the platform's own server (`server.py`) around it.
//!
//! The requirements are installed in a separate step, which runs again when their list has changed,
//! and not when an index has.

use super::{USER, handler, place_all};
use crate::{
    builder::{Context, Source},
    model::Failure,
};

mod requirements;

/// The server that a container runs.
const SERVER: &str = include_str!("server.py");
/// The file of the handler.
const HANDLER: &str = "handler.py";
/// The list that pip installs.
const REQUIREMENTS: &str = "requirements.txt";
/// Longest list that is parsed; a longer one is installed as if it read other files.
const MAX_REQUIREMENTS: u64 = 1024 * 1024;

/// Settings of Python builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The image that apps are built on; it has `python3`, pip and a shell.
    pub image: String,
    /// The package index; `None` leaves the choice to pip.
    pub index_url: Option<String>,
}

/// The context that builds a source.
///
/// # Errors
/// BUILD_FAILED without a `handler.py` at the root.
pub fn context(source: Source, settings: &Settings) -> Result<Context, Failure> {
    let example = "`def handler(payload: bytes, ctx: dict)`";
    handler(&source, &[HANDLER], example)?;
    let needs = needs(&source);
    let mut context = Context::empty(source, "Dockerfile");
    context.add("Dockerfile", dockerfile(settings, needs), false);
    context.add("server.py", SERVER, false);
    if needs == Needs::List {
        context.place(REQUIREMENTS, REQUIREMENTS);
    }
    place_all(&mut context, "app");
    Ok(context)
}

/// The part of the source that pip needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// There is no list.
    Nothing,
    /// The list alone.
    List,
    /// All of it: the list names files or folders.
    Tree,
}

fn needs(source: &Source) -> Needs {
    if !source.entries().contains_key(REQUIREMENTS) {
        return Needs::Nothing;
    }
    match source.read(REQUIREMENTS, MAX_REQUIREMENTS) {
        Some(text) if !requirements::read_files(&String::from_utf8_lossy(&text)) => Needs::List,
        _ => Needs::Tree,
    }
}

fn dockerfile(settings: &Settings, needs: Needs) -> String {
    let mut lines = vec![
        format!("FROM {}", settings.image),
        "USER 0:0".to_owned(),
        // The file system is read-only, so bytecode could not be written beside the code.
        "ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/home/app".to_owned(),
        "WORKDIR /app".to_owned(),
        r#"ENTRYPOINT ["python3", "/opt/ignite/server.py", "/app"]"#.to_owned(),
        "CMD []".to_owned(),
        "COPY server.py /opt/ignite/server.py".to_owned(),
    ];
    let code = "COPY app/ /app/".to_owned();
    let user = format!("USER {USER}");
    match needs {
        Needs::Nothing => lines.extend([user, code]),
        Needs::List => {
            let list = "/opt/ignite/requirements.txt";
            lines.push(format!("COPY {REQUIREMENTS} {list}"));
            lines.extend([pip(settings, list), user, code]);
        }
        Needs::Tree => lines.extend([code, pip(settings, REQUIREMENTS), user]),
    }
    lines.join("\n") + "\n"
}

/// The step that installs a list of requirements.
fn pip(settings: &Settings, list: &str) -> String {
    // Debian's Python refuses to install outside a virtual environment unless overridden; the image
    // is this app's alone.
    let mut variables = "PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore".to_owned();
    if let Some(url) = &settings.index_url {
        variables.push_str(&format!(" PIP_INDEX_URL={}", quoted(url)));
        // An operator who sets an index without TLS means it.
        if let Some(rest) = url.strip_prefix("http://") {
            let authority = rest.split('/').next().unwrap_or_default();
            let host = authority.rsplit('@').next().unwrap_or_default();
            variables.push_str(&format!(" PIP_TRUSTED_HOST={}", quoted(host)));
        }
    }
    format!(
        "RUN {variables} python3 -m pip install --no-cache-dir --disable-pip-version-check --no-input -r {list}"
    )
}

/// Quotes any text as one word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(index_url: Option<&str>) -> Settings {
        Settings {
            image: "base:1".into(),
            index_url: index_url.map(str::to_owned),
        }
    }

    #[test]
    fn the_list_is_installed_before_the_code_unless_it_needs_the_code() {
        let position = |needs, what: &str| {
            let text = dockerfile(&settings(None), needs);
            text.lines().position(|line| line.starts_with(what))
        };
        assert_eq!(position(Needs::Nothing, "RUN"), None);
        let at = |needs, what| position(needs, what).expect(what);
        assert!(at(Needs::List, "RUN") < at(Needs::List, "COPY app/"));
        assert!(at(Needs::Tree, "RUN") > at(Needs::Tree, "COPY app/"));
        for needs in [Needs::Nothing, Needs::List, Needs::Tree] {
            let text = dockerfile(&settings(None), needs);
            let users: Vec<_> = text.lines().filter(|l| l.starts_with("USER")).collect();
            assert_eq!(users, ["USER 0:0", "USER 65532:65532"], "{text}");
        }
    }

    #[test]
    fn an_index_is_quoted_and_trusted_only_without_tls() {
        let step = pip(&settings(Some("https://i.example/simple?a='b")), "list");
        assert!(step.contains(r"PIP_INDEX_URL='https://i.example/simple?a='\''b'"));
        assert!(!step.contains("TRUSTED"), "{step}");
        let step = pip(&settings(Some("http://u:p@i.example:81/simple")), "list");
        assert!(step.contains("PIP_TRUSTED_HOST='i.example:81'"), "{step}");
    }
}
