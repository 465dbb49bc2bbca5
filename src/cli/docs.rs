//! `ignite docs`: the manual, which is part of the binary.
//!
//! The pages are the Markdown files of `src/docs/`, shown as they are but for their comments. A word that
//! is no page may still be the name of something that a table describes, such as a reason of a
//! failure or a setting: then its row is shown.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::{Command, Stdio},
};

use serde_json::json;

use super::{Error, context::Global, output};
use crate::config::{Source, process_env};

/// What to show of the manual.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A page, a setting, a variable, or a reason of a failure; without it, the list of pages.
    topic: Option<String>,
    /// Show the lines of all pages that contain this text.
    #[arg(long, value_name = "WORD", conflicts_with = "topic")]
    search: Option<String>,
}

/// One page of the manual.
struct Page {
    name: &'static str,
    summary: &'static str,
    text: &'static str,
}

macro_rules! pages {
    ($($name:literal: $summary:literal,)*) => {
        /// All pages, in the order in which one would read them.
        const PAGES: &[Page] = &[$(Page {
            name: $name,
            summary: $summary,
            text: include_str!(concat!("../docs/", $name, ".md")),
        },)*];
    };
}

pages! {
    "apps": "what an image has to do, settings of an app, its URL",
    "code": "from a folder or a git repository to an app; `ignite dev`",
    "dev": "from a folder without a Dockerfile to a URL; what `ignite dev` does",
    "python": "handlers in Python",
    "deno": "handlers in TypeScript and JavaScript",
    "rust": "handlers in Rust",
    "go": "handlers in Go",
    "publishing": "the check before a version serves; versions, rollbacks, images",
    "registries": "images of private registries; secrets",
    "calls": "app URLs, Invoke and InvokeAsync; the catalog",
    "app-urls": "HTTP in detail: protocols, headers, CORS; apps that call apps",
    "executions": "asynchronous calls: states, retries, results",
    "mcp": "apps as tools for models",
    "api": "the JSON API, and its description for tools (OpenAPI)",
    "storage": "files that an app keeps; quotas of the disk",
    "home": "the home directory of an app",
    "processes": "the first process, capabilities, system calls, limits of processes",
    "network": "what apps and builds can reach",
    "causes": "what is reported about an app that does not run",
    "errors": "every reason of a failure, with its remedy",
    "command-line": "commands, exit codes, endpoint and token, starting a server",
    "cloud-client": "in place of the cloud's client; where the configuration is",
    "settings": "every setting of the server",
    "install": "packages, containers, CI; upgrades, backup and restore",
    "tls": "certificates, host names, a proxy in front",
    "identity": "tokens, service accounts, issuers elsewhere, the audit log",
    "metrics": "Prometheus, Grafana, alerts",
    "traces": "OpenTelemetry",
    "data-directory": "repair of the store, leftovers, copies in use",
    "copies": "backup and restore: a cold copy",
    "clock": "what happens when the clock is wrong",
    "engine": "how the container engine is found, its credentials and proxies",
    "engines": "what each container engine can do; `ignite doctor`",
    "shares": "how much each organization may take, and who waits",
    "input": "bounds of everything that can be sent",
    "threat-model": "what is promised, and to whom: `sandbox`, `team`, `tenants`",
    "edge-and-leaks": "what is promised at the edge, and about logs and files",
    "how-it-works": "scaling, standby, crashes; where things are in the code",
    "performance": "measurements beside named peers",
    "contributing": "building, testing and changing it",
}

/// Prints the list of pages, a page, a row of a table, or what a search finds.
pub(super) fn run(args: Args, global: &Global) -> Result<(), Error> {
    let format = global.output.unwrap_or_default();
    let structured = format.is_structured();
    if let Some(word) = args.search {
        let found = search(&word)?;
        return if structured {
            let lines = found
                .iter()
                .map(|(page, number, line)| json!({"topic": page, "line": number, "text": line}));
            format.print_value(&lines.collect::<Vec<_>>())
        } else {
            let lines = found
                .iter()
                .map(|(page, number, line)| format!("{page}:{number}: {line}\n"));
            show(&lines.collect::<String>())
        };
    }
    let Some(topic) = args.topic else {
        return if structured {
            let pages = PAGES
                .iter()
                .map(|page| json!({"topic": page.name, "summary": page.summary}));
            format.print_value(&pages.collect::<Vec<_>>())
        } else {
            let mut table = output::table(&["TOPIC", "ABOUT"]);
            for page in PAGES {
                table.add_row([page.name, page.summary]);
            }
            output::columns(table)
        };
    };
    if let Some(page) = page(&topic) {
        let text = without_comments(page.text);
        return if structured {
            format.print_value(&json!({"topic": page.name, "summary": page.summary, "text": text}))
        } else {
            show(&text)
        };
    }
    let Some((page, cells)) = entry(&topic) else {
        return Err(Error::Usage(unknown(&topic)));
    };
    if structured {
        let cells = cells
            .into_iter()
            .map(|(name, cell)| (name.to_owned(), json!(cell)));
        let row: serde_json::Map<_, _> = cells.collect();
        format.print_value(&json!({"topic": page.name, "entry": row}))
    } else {
        let rows: Vec<_> = cells
            .iter()
            .map(|(name, cell)| (*name, (*cell).to_owned()))
            .collect();
        output::columns(output::rows(&rows))?;
        output::line(&format!("\nFrom `ignite docs {}`.", page.name))
    }
}

/// A page by its name, also as it stands in links.
fn page(topic: &str) -> Option<&'static Page> {
    let name = topic.to_ascii_lowercase();
    let name = name.rsplit('/').next().unwrap_or_default();
    let name = name.strip_suffix(".md").unwrap_or(name);
    PAGES.iter().find(|page| page.name == name)
}

/// A page without its comments, which are for those who change it.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !line.starts_with("<!--")) {
        // Blank lines around a comment become one.
        if line.is_empty() && (out.is_empty() || out.ends_with("\n\n")) {
            continue;
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// The lines that contain a text, in upper or lower case: page, number, line.
fn search(word: &str) -> Result<Vec<(&'static str, usize, String)>, Error> {
    let wanted = word.trim().to_lowercase();
    if wanted.is_empty() {
        return Err(Error::Usage(
            "--search takes a text to search for".to_owned(),
        ));
    }
    let mut found = Vec::new();
    for page in PAGES {
        for (number, line) in without_comments(page.text).lines().enumerate() {
            if line.to_lowercase().contains(&wanted) {
                found.push((page.name, number + 1, line.trim().to_owned()));
            }
        }
    }
    if found.is_empty() {
        return Err(Error::Usage(format!(
            "no page of the manual contains {word:?}; `ignite docs` lists the pages"
        )));
    }
    Ok(found)
}

/// A row of a table, as pairs of its header and its cell.
type Row = Vec<(&'static str, &'static str)>;

/// The row of the first table that has the word as its first cell, or a variable as its second.
fn entry(word: &str) -> Option<(&'static Page, Row)> {
    let wanted = format!("`{word}`");
    PAGES.iter().find_map(|page| {
        let mut header = Vec::new();
        for (line, next) in page.text.lines().zip(page.text.lines().skip(1)) {
            if next.starts_with("|---") || next.starts_with("| ---") {
                header = cells(line);
            }
            let row = if line.starts_with('|') {
                cells(line)
            } else {
                Vec::new()
            };
            let named = row
                .iter()
                .take(2)
                .any(|cell| cell.eq_ignore_ascii_case(&wanted));
            if named && row.len() == header.len() && header.len() > 2 {
                return Some((page, header.into_iter().zip(row).collect()));
            }
        }
        None
    })
}

fn cells(line: &'static str) -> Vec<&'static str> {
    line.trim_matches('|').split(" | ").map(str::trim).collect()
}

/// What to say of a topic that does not exist.
fn unknown(topic: &str) -> String {
    const ALIKE: f64 = 0.7;
    let wanted = topic.to_ascii_lowercase();
    let alike = |page: &Page| strsim::jaro_winkler(page.name, &wanted);
    let nearest = PAGES.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    let hint = match nearest.filter(|page| alike(page) > ALIKE) {
        Some(page) => format!("did you mean `ignite docs {}`", page.name),
        None => "`ignite docs` lists the pages".to_owned(),
    };
    format!(
        "the manual has no page {topic:?}; {hint}; `ignite docs --search WORD` searches in all of them"
    )
}

/// Prints a text through the pager of a terminal.
///
/// `PAGER` is a command line for the shell; empty or `cat`, it is none, and unset it is `less`.
fn show(text: &str) -> Result<(), Error> {
    const LESS: &str = "command -v less >/dev/null || exit 127; exec less -FRX";
    if io::stdout().is_terminal() {
        let pager = Source::get(&process_env, "PAGER").unwrap_or_else(|| LESS.to_owned());
        if !matches!(pager.trim(), "" | "cat") && paged(&pager, text)? {
            return Ok(());
        }
    }
    output::raw(text.as_bytes())
}

/// Whether the pager exists and has shown the text.
fn paged(pager: &str, text: &str) -> Result<bool, Error> {
    /// By which a shell says that there is no such program.
    const NO_PROGRAM: i32 = 127;
    let mut child = Command::new("sh")
        .args(["-c", pager])
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A pager that is left before the end closes the pipe.
        let _ = stdin.write_all(text.as_bytes());
    }
    let status = child.wait()?;
    Ok(status.code() != Some(NO_PROGRAM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_page() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/docs");
        let files = std::fs::read_dir(folder).unwrap();
        let names = files.filter_map(|file| file.unwrap().file_name().into_string().ok());
        let mut names: Vec<_> = names
            .filter_map(|name| Some(name.strip_suffix(".md")?.to_owned()))
            .collect();
        names.sort();
        let mut pages: Vec<_> = PAGES.iter().map(|page| page.name).collect();
        pages.sort_unstable();
        assert_eq!(pages, names);
    }

    #[test]
    fn words_lead_to_pages_and_rows() {
        assert_eq!(page("TLS").unwrap().name, "tls");
        assert_eq!(page("src/docs/tls.md").unwrap().name, "tls");
        for (word, topic) in [
            ("NO_ROOM", "errors"),
            ("no_room", "errors"),
            ("memory_budget", "settings"),
            ("IGNITE_MEMORY_BUDGET", "settings"),
        ] {
            let (page, row) = entry(word).unwrap_or_else(|| panic!("{word}"));
            assert_eq!(page.name, topic, "{word}");
            assert!(
                row.iter()
                    .all(|(name, cell)| !name.is_empty() && !cell.is_empty()),
                "{row:?}"
            );
        }
        assert!(entry("nothing").is_none());
        assert!(unknown("storag").contains("`ignite docs storage`"));
        assert!(unknown("zzzz").contains("lists the pages"));
    }

    #[test]
    fn comments_are_not_shown() {
        let text = "# A\n\n<!-- bench:x -->\n\nB\n<!-- /bench -->\n\nC\n";
        assert_eq!(without_comments(text), "# A\n\nB\n\nC\n");
    }
}
