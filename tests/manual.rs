//! The manual and the README: what is generated from the code is up to date, links lead somewhere, and
//! each command is either run by a test (tests/it/manual.rs) or says why it is not.
//!
//! `BLESS=1 cargo test --workspace --locked --test manual` writes the generated parts again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ignite::{
    config::{Config, Flags},
    model::Reason,
};
use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use syn::{Expr, ExprLit, Fields, Item, Lit, Meta};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The README and all pages, by their paths from the root.
fn files() -> Vec<PathBuf> {
    let pages = fs::read_dir(root().join("src/docs")).expect("the folder is there");
    let pages = pages.map(|page| Path::new("src/docs").join(page.expect("an entry").file_name()));
    let pages = pages.filter(|page| page.extension().is_some_and(|e| e == "md"));
    let mut all: Vec<_> = std::iter::once(PathBuf::from("README.md"))
        .chain(pages)
        .collect();
    all.sort();
    all
}

fn parser(text: &str) -> Parser<'_> {
    Parser::new_ext(text, Options::ENABLE_TABLES)
}

/// Fills a page's blocks between `<!-- NAME: ARGUMENTS -->` and `<!-- /NAME -->`, and compares.
fn check_generated(page: &str, name: &str, mut block: impl FnMut(&str) -> String) {
    let was = read(page);
    let (begin, end) = (format!("<!-- {name}"), format!("<!-- /{name} -->"));
    let mut is = String::new();
    let mut rest = was.as_str();
    while let Some(at) = rest.find(&begin) {
        let (before, from) = rest.split_at(at);
        let (mark, after) = from.split_once("-->").expect("the comment ends");
        let (_, after) = after.split_once(&end).expect("the block ends");
        let arguments = mark[begin.len()..].trim_start_matches(':').trim();
        is += &format!("{before}{mark}-->\n{}\n{end}", block(arguments).trim_end());
        rest = after;
    }
    is += rest;
    if std::env::var_os("BLESS").is_some() {
        fs::write(root().join(page), &is).expect("written");
    } else if is != was {
        let line = is.lines().zip(was.lines()).find(|(is, was)| is != was);
        panic!(
            "{page} is not what the code says, from here on:\n{line:?}\n\
             write it again: BLESS=1 cargo test --workspace --locked --test manual"
        );
    }
}

/// A setting as the doc comment of its field describes it.
struct Setting {
    name: String,
    variable: String,
    meaning: String,
    /// In words, where it is none that could be set.
    default: String,
    /// The default as it would be set.
    literal: Option<String>,
}

fn settings() -> Vec<Setting> {
    let folder = fs::read_dir(root().join("src/config")).expect("the folder is there");
    let mut files: Vec<_> = folder.map(|file| file.expect("an entry").path()).collect();
    files.sort();
    files
        .iter()
        .flat_map(|file| syn::parse_file(&read(file)).expect("Rust").items)
        .filter_map(|item| match item {
            Item::Struct(item) => match item.fields {
                Fields::Named(fields) => Some(fields.named),
                _ => None,
            },
            _ => None,
        })
        .flatten()
        .filter_map(|field| {
            let doc: Vec<String> = field.attrs.iter().filter_map(doc_line).collect();
            setting(&doc.join(" "))
        })
        .collect()
}

fn doc_line(attribute: &syn::Attribute) -> Option<String> {
    match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    }
}

/// Reads "`name`, `VARIABLE`: meaning. Default `literal`: more." and "… Default: in words."
fn setting(doc: &str) -> Option<Setting> {
    let (head, text) = doc.split_once("`: ")?;
    let (name, variable) = head.strip_prefix('`')?.split_once("`, `")?;
    assert!(
        !text.contains("[`"),
        "{name}: the manual cannot link to {text:?}"
    );
    let (meaning, default) = text
        .rsplit_once("Default")
        .unwrap_or_else(|| panic!("{name} says no default"));
    let default = default.trim().trim_end_matches('.');
    let (default, literal) = match default.strip_prefix(':') {
        Some(words) => (words.trim().to_owned(), None),
        None => {
            let (literal, more) = default.split_once(": ").unwrap_or((default, ""));
            let more = if more.is_empty() {
                String::new()
            } else {
                format!(": {more}")
            };
            (more, Some(plain(literal)))
        }
    };
    Some(Setting {
        name: name.to_owned(),
        variable: variable.to_owned(),
        meaning: meaning.trim().trim_end_matches('.').to_owned(),
        default,
        literal,
    })
}

/// A literal without quotes, a number without the commas for readers.
fn plain(literal: &str) -> String {
    let literal = literal.trim_matches('`');
    if literal.chars().all(|c| c.is_ascii_digit() || c == ',') {
        literal.replace(',', "")
    } else {
        literal.to_owned()
    }
}

fn loaded(flags: &Flags) -> Result<Config, String> {
    let vars = |name: &str| (name == "HOME").then(|| "/home/u".to_owned());
    Config::load(&vars, None, flags).map_err(|e| e.to_string())
}

#[test]
fn the_settings_are_those_of_the_code() {
    let defaults = loaded(&Flags::default()).expect("the defaults are valid");
    let shown: toml::Table = defaults.to_toml().parse().expect("TOML");
    let settings = settings();
    let mut rows = BTreeMap::new();
    for setting in &settings {
        let name = &setting.name;
        let mut default = setting.default.clone();
        if let Some(literal) = &setting.literal {
            let literal = match name.ends_with("_secs") {
                true => seconds(literal),
                false => literal.clone(),
            };
            let mut flags = Flags::default();
            flags.set(name, Some(&literal), name);
            let set = loaded(&flags).unwrap_or_else(|e| panic!("the default of {name}: {e}"));
            assert!(
                set == defaults,
                "{name} is documented as {literal} and is another"
            );
            let value = shown
                .get(name)
                .unwrap_or_else(|| panic!("{name} is not set by default"));
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            default = format!("`{value}`{default}");
        }
        let row = format!(
            "| `{name}` | `{}` | {default} | {} |\n",
            setting.variable, setting.meaning
        );
        assert!(
            rows.insert(name.clone(), row).is_none(),
            "{name} is documented twice"
        );
    }
    // What is unset stands in a comment.
    for line in defaults.to_toml().lines() {
        let name = line
            .trim_start_matches("# ")
            .split(' ')
            .next()
            .unwrap_or_default();
        assert!(
            rows.contains_key(name),
            "{name} has no doc comment of the usual form"
        );
    }
    let mut left: BTreeSet<String> = rows.keys().cloned().collect();
    check_generated("src/docs/settings.md", "settings", |names| {
        let mut table = "| setting | variable | default | what |\n|---|---|---|---|\n".to_owned();
        for pattern in names.split_whitespace() {
            let of = |name: &str| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == pattern,
            };
            // In the order of the code.
            let chosen: Vec<_> = settings
                .iter()
                .filter(|s| of(&s.name) && left.contains(&s.name))
                .collect();
            assert!(
                !chosen.is_empty(),
                "settings.md: {pattern} is no setting, or stands twice"
            );
            for setting in chosen {
                left.remove(&setting.name);
                table += &rows[&setting.name];
            }
        }
        table
    });
    assert!(
        left.is_empty(),
        "settings.md: name these in one of its blocks: {left:?}"
    );
}

/// Whole seconds of a time in words, as `600 s`.
fn seconds(words: &str) -> String {
    let span = ignite::config::parse_duration(words).unwrap_or_else(|e| panic!("{words}: {e}"));
    span.as_secs().to_string()
}

#[test]
fn the_reasons_are_those_of_the_code() {
    check_generated("src/docs/errors.md", "reasons", |_| {
        let mut table =
            "| reason | HTTP | gRPC | what happened | remedy |\n|---|---|---|---|---|\n".to_owned();
        for reason in Reason::ALL {
            table += &format!(
                "| `{}` | {} | {} | {} | {} |\n",
                reason.as_str(),
                reason.http_status(),
                reason.code().name(),
                reason.meaning().trim_end_matches('.'),
                reason.remedy(),
            );
        }
        table
    });
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut heading: Option<String> = None;
    for event in parser(text) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let title = heading.take().unwrap_or_default().to_lowercase();
                let kept = title
                    .chars()
                    .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
                assert!(all.insert(anchor), "two headings {title:?}");
            }
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    *heading += &text;
                }
            }
            _ => {}
        }
    }
    all
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for file in files() {
        let text = read(&file);
        for event in parser(&text) {
            let (Event::Start(Tag::Link { dest_url, .. })
            | Event::Start(Tag::Image { dest_url, .. })) = event
            else {
                continue;
            };
            if dest_url.contains("://") {
                continue;
            }
            let (path, anchor) = match dest_url.split_once('#') {
                Some((path, anchor)) => (path, Some(anchor)),
                None => (&*dest_url, None),
            };
            let target = match path {
                "" => file.clone(),
                path => file.parent().expect("a file").join(path),
            };
            if !root().join(&target).exists() {
                broken.push(format!("{}: no file {dest_url}", file.display()));
            } else if anchor.is_some_and(|anchor| !anchors(&read(&target)).contains(anchor)) {
                broken.push(format!("{}: no heading {dest_url}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let readme = read("README.md");
    let lines = readme.lines().count();
    assert!(
        lines <= 250,
        "{lines} lines: the README is for newcomers, put the rest into src/docs"
    );
    for command in ["./scripts/demo.sh", "./scripts/test.sh"] {
        assert!(
            readme.lines().any(|line| line.starts_with(command)),
            "no line with {command}"
        );
        assert!(root().join(command).exists(), "{command}");
    }
    for page in files().iter().skip(1) {
        let page = page.display().to_string();
        assert!(readme.contains(&format!("]({page}")), "no link to {page}");
    }
}

#[test]
fn pages_have_one_title_and_commands_say_how_they_are_tested() {
    for file in files() {
        let (text, name) = (read(&file), file.display());
        let titles = parser(&text).filter(|event| {
            matches!(
                event,
                Event::Start(Tag::Heading {
                    level: HeadingLevel::H1,
                    ..
                })
            )
        });
        assert_eq!(titles.count(), 1, "{name}: one title");
        let mut comment = String::new();
        for event in parser(&text) {
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Indented)) => {
                    panic!("{name}: a block of code is fenced and names its language")
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    assert!(!language.is_empty(), "{name}: a block without a language");
                    assert!(
                        !matches!(&*language, "shell" | "bash"),
                        "{name}: commands are in blocks of `sh`, sessions in blocks of `console`"
                    );
                    if let Some(why) = comment.trim().strip_prefix("<!-- not run:") {
                        let why = why.trim_end_matches("-->").trim();
                        assert!(why.len() > 10, "{name}: say why a block is not run");
                    }
                    comment.clear();
                }
                Event::Html(html) => comment = html.to_string(),
                _ => {}
            }
        }
    }
}

/// What `ignite docs` prints, and its exit code.
fn docs(arguments: &[&str]) -> (String, String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_ignite"))
        .arg("docs")
        .args(arguments)
        // Not for a pipe.
        .env("PAGER", "false")
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        text(output.stdout),
        text(output.stderr),
        output.status.code(),
    )
}

#[test]
fn the_binary_shows_the_manual() {
    let (list, _, code) = docs(&["-o", "json"]);
    assert_eq!(code, Some(0));
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list.len(), files().len() - 1, "all but the README");
    for page in &list {
        let topic = page["topic"].as_str().expect("a name");
        let (text, _, code) = docs(&[topic]);
        assert_eq!(code, Some(0), "{topic}");
        let title = read(format!("src/docs/{topic}.md"));
        let title = title.lines().next().expect("a title");
        assert!(text.starts_with(title), "{topic}: {text}");
        let shown = text.lines().find(|line| line.starts_with("<!--"));
        assert_eq!(shown, None, "{topic} shows a comment");
    }
    let (row, _, _) = docs(&["NO_ROOM"]);
    assert!(
        row.contains("429") && row.contains("memory_budget"),
        "{row}"
    );
    let (row, _, _) = docs(&["IGNITE_MEMORY_BUDGET", "-o", "json"]);
    let row: serde_json::Value = serde_json::from_str(&row).expect("JSON");
    assert_eq!(row["entry"]["setting"], "`memory_budget`");
    let (found, _, _) = docs(&["--search", "noexec_is_nowhere"]);
    assert_eq!(found, "");
    let (found, _, _) = docs(&["--search", "Scale to Zero"]);
    assert!(
        found.lines().any(|line| line.starts_with("storage:")),
        "{found}"
    );
    let (out, err, code) = docs(&["storag"]);
    assert_eq!((out.as_str(), code), ("", Some(2)));
    assert!(err.contains("`ignite docs storage`"), "{err}");
}
