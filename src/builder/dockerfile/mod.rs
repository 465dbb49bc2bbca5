//! What a Dockerfile asks of the engine beyond its own files: images, and URLs to fetch.
//!
//! Lines are joined as the engine does (`lines`), instructions are parsed by `parse-dockerfile`,
//! one at a time, and names are expanded from what the file and the build define (`words`).
//! Anything ambiguous is refused. Whether the engine reads the file alike is checked again while it
//! builds: it prints every instruction as it starts it, see [`Plan::check_step`].

mod lines;
mod steps;
mod words;

use std::{collections::BTreeMap, ops::Range};

use parse_dockerfile::{Flag, FromInstruction, Instruction, Source};

pub(crate) use self::lines::MAX_BYTES;
use self::{
    lines::Lines,
    words::{Args, Sizes},
};

/// Given to the parser before every instruction but `FROM`, because it expects a stage first.
const STAGE: &str = "FROM scratch\n";
/// The name that stands for no image.
const SCRATCH: &str = "scratch";

/// What a Dockerfile asks of the engine.
#[derive(Debug)]
pub(crate) struct Plan {
    lines: Lines,
    /// The images that it names, in order, without its own stages.
    pub(crate) images: Vec<Named>,
    /// The URLs that the engine would fetch.
    pub(crate) urls: Vec<Fetched>,
    /// Bounds on the lengths of its variables.
    sizes: Sizes,
    build_args: BTreeMap<String, String>,
    /// The names of its stages, in lower case; empty for an unnamed one.
    stages: Vec<String>,
    /// The first word of every instruction, in upper case.
    keywords: Vec<String>,
    /// The first words of the instructions that bases' `ONBUILD` add.
    triggers: Vec<String>,
}

/// An image that a Dockerfile names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// Its position, for messages.
    pub(crate) place: String,
    /// Its name, with variables expanded.
    pub(crate) image: String,
    /// Whether a stage begins from it, so that its `ONBUILD` runs.
    pub(crate) is_base: bool,
    /// Whether it is requested for a platform, with `--platform`.
    pub(crate) has_platform: bool,
    /// Whether the engine ignores it: it names a frontend of BuildKit.
    pub(crate) is_hint: bool,
    /// The line in the list and the bytes in it that another name can replace; `None` if none can.
    slot: Option<(usize, Range<usize>)>,
}

/// A URL that a Dockerfile has the engine fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// Its position, for messages.
    pub(crate) place: String,
    /// The URL as written.
    pub(crate) source: String,
}

impl Named {
    /// Whether another name can replace it.
    pub(crate) fn can_be_pinned(&self) -> bool {
        self.slot.is_some()
    }
}

impl Plan {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// A sentence that says where, for text that is not a Dockerfile or is ambiguous.
    pub(crate) fn read(file: &[u8], build_args: &BTreeMap<String, String>) -> Result<Self, String> {
        let lines = Lines::read(file)?;
        let mut plan = Self {
            images: Vec::new(),
            urls: Vec::new(),
            sizes: Sizes::default(),
            build_args: build_args.clone(),
            stages: Vec::new(),
            keywords: Vec::new(),
            triggers: Vec::new(),
            lines: Lines {
                lines: Vec::new(),
                ..lines.clone()
            },
        };
        if !lines.syntax.is_empty() {
            plan.images.push(Named {
                place: "`# syntax=`".to_owned(),
                image: lines.syntax.clone(),
                is_base: false,
                has_platform: false,
                is_hint: true,
                slot: None,
            });
        }
        let mut args = Args::default();
        for (at, line) in lines.lines.iter().enumerate() {
            let place = |what: &str| format!("{what} at line {}", line.number);
            let keyword = first_word(&line.text).to_ascii_uppercase();
            let is_from = keyword == "FROM";
            if has_odd_space(&keyword, &line.text) {
                return Err(format!(
                    "{} has white space that is not ASCII; write spaces",
                    place(&keyword)
                ));
            }
            plan.keywords.push(keyword);
            let (text, shift) = if is_from || plan.stages.is_empty() {
                (line.text.clone(), 0)
            } else {
                (format!("{STAGE}{}", line.text), STAGE.len())
            };
            let parsed = parse(&text, &place("the instruction"))?;
            match parsed {
                Some(Instruction::Arg(arg)) if plan.stages.is_empty() => {
                    let given = |name: &str| build_args.get(name).cloned();
                    args.declare(&arg.arguments.value, lines.escape, given);
                }
                Some(Instruction::From(from)) => {
                    plan.begin_stage(&from, at, (&args, lines.escape), place("FROM"))?;
                }
                Some(instruction) => {
                    let slot = (at, shift);
                    plan.note(&instruction, lines.escape, line.number, Some(slot))?;
                }
                None => {}
            }
        }
        if plan.stages.is_empty() {
            return Err("it has no FROM".to_owned());
        }
        plan.lines = lines;
        Ok(plan)
    }

    /// Records a `FROM`, which is the line `at` of the list: its image, unless that is an earlier
    /// stage, and the name of the stage.
    fn begin_stage(
        &mut self,
        from: &FromInstruction<'_>,
        at: usize,
        (args, escape): (&Args, char),
        place: String,
    ) -> Result<(), String> {
        check_flags(&from.options, escape, &place)?;
        let word = &from.image;
        let image = args
            .expand(&word.value, escape)
            .map_err(|why| format!("the image of {place} {why}"))?;
        if !self.stages.contains(&image.to_lowercase()) && image != SCRATCH {
            self.images.push(Named {
                place,
                image,
                is_base: true,
                has_platform: from.options.iter().any(is_platform),
                is_hint: false,
                slot: Some((at, word.span.clone())),
            });
        }
        let name = from.as_.as_ref().map(|(_, name)| name.value.to_lowercase());
        self.stages.push(name.unwrap_or_default());
        Ok(())
    }

    /// Adds what a base's `ONBUILD` asks for.
    ///
    /// # Errors
    /// As [`Plan::read`].
    pub(crate) fn add_triggers(&mut self, base: &str, triggers: &[String]) -> Result<(), String> {
        for trigger in triggers {
            let of = format!("ONBUILD of {base:?}");
            let lines = Lines::read(trigger.as_bytes()).map_err(|why| format!("{of}: {why}"))?;
            for line in &lines.lines {
                self.triggers
                    .push(first_word(&line.text).to_ascii_uppercase());
                let text = format!("{STAGE}{}", line.text);
                let parsed = parse_dockerfile::parse_iter(&text)
                    .and_then(|all| all.collect::<Result<Vec<_>, _>>())
                    .map_err(|e| format!("{of}: {e}"))?;
                let (images, urls) = (self.images.len(), self.urls.len());
                for instruction in parsed.iter().skip(1) {
                    self.note(instruction, '\\', line.number, None)?;
                }
                let places = self.images[images..].iter_mut().map(|n| &mut n.place);
                for place in places.chain(self.urls[urls..].iter_mut().map(|f| &mut f.place)) {
                    place.clone_from(&of);
                }
            }
        }
        Ok(())
    }

    /// Records an instruction of a stage.
    fn note(
        &mut self,
        instruction: &Instruction<'_>,
        escape: char,
        number: usize,
        slot: Option<(usize, usize)>,
    ) -> Result<(), String> {
        let place = |what: &str| format!("{what} at line {number}");
        let variables = match instruction {
            Instruction::Env(env) => Some(("ENV", &env.arguments.value)),
            Instruction::Arg(arg) => Some(("ARG", &arg.arguments.value)),
            _ => None,
        };
        if let Some((what, text)) = variables {
            let given = |name: &str| self.build_args.get(name).map_or(0, String::len);
            return self
                .sizes
                .declare(text, escape, given)
                .map_err(|why| format!("{} {why}", place(what)));
        }
        match instruction {
            Instruction::Copy(copy) => {
                check_flags(&copy.options, escape, &place("COPY"))?;
                no_here_document(&copy.src, &place("COPY"))?;
                for flag in &copy.options {
                    if unquoted(&flag.name.value).eq_ignore_ascii_case("from")
                        && let Some(value) = &flag.value
                    {
                        let slot = slot.map(|(at, shift)| {
                            let span = &value.span;
                            (at, span.start - shift..span.end - shift)
                        });
                        self.name(&value.value, place("COPY --from"), slot)?;
                    }
                }
                Ok(())
            }
            Instruction::Add(add) => {
                check_flags(&add.options, escape, &place("ADD"))?;
                no_here_document(&add.src, &place("ADD"))?;
                for source in &add.src {
                    let Source::Path(path) = source else { continue };
                    if path.value.starts_with('[') && path.value.contains('"') {
                        return Err(format!(
                            "{} has a list that is not valid JSON",
                            place("ADD")
                        ));
                    }
                    if may_be_url(&path.value, escape) {
                        self.urls.push(Fetched {
                            place: place("ADD"),
                            source: path.value.clone().into_owned(),
                        });
                    }
                }
                Ok(())
            }
            Instruction::Run(run) => {
                check_flags(&run.options, escape, &place("RUN"))?;
                if !run.here_docs.is_empty() {
                    return Err(here_document(&place("RUN")));
                }
                for flag in &run.options {
                    let Some(value) = &flag.value else { continue };
                    let value = unquoted(&value.value);
                    let from = value.split(',').filter_map(|part| {
                        let (key, image) = part.split_once('=')?;
                        key.trim().eq_ignore_ascii_case("from").then_some(image)
                    });
                    for image in from {
                        self.name(image, place("RUN --mount"), None)?;
                    }
                }
                Ok(())
            }
            Instruction::Onbuild(onbuild) => self.note(&onbuild.instruction, escape, number, None),
            _ => Ok(()),
        }
    }

    /// Records a name that may be a stage's, or its number. The engine expands nothing in it.
    fn name(
        &mut self,
        raw: &str,
        place: String,
        slot: Option<(usize, Range<usize>)>,
    ) -> Result<(), String> {
        let image = unquoted(raw);
        if image.contains('$') {
            return Err(format!(
                "{place}: {raw:?} has a variable, which the engine does not expand there; name a stage (FROM {raw} AS name) and use its name"
            ));
        }
        let stage = image.to_lowercase();
        // The last one is the stage that the instruction is in.
        let before = &self.stages[..self.stages.len().saturating_sub(1)];
        let is_stage =
            before.contains(&stage) || image.parse::<usize>().is_ok_and(|n| n < before.len());
        if !is_stage && !image.is_empty() && image != SCRATCH {
            self.images.push(Named {
                place,
                image,
                is_base: false,
                has_platform: false,
                is_hint: false,
                slot,
            });
        }
        Ok(())
    }

    /// The Dockerfile with one line per instruction, and each image replaced by its entry in
    /// `pinned`.
    pub(crate) fn pinned(&self, pinned: &BTreeMap<String, String>) -> String {
        let mut lines = self.lines.clone();
        // From the end, so that earlier positions stay valid.
        for named in self.images.iter().rev() {
            if let (Some((at, span)), Some(name)) = (&named.slot, pinned.get(&named.image)) {
                lines.lines[*at].text.replace_range(span.clone(), name);
            }
        }
        lines.canonical()
    }
}

/// The last instruction of a text, which is the one to read: [`STAGE`] may precede it.
fn parse<'a>(text: &'a str, place: &str) -> Result<Option<Instruction<'a>>, String> {
    let unread = |e: parse_dockerfile::Error| {
        let why = e.to_string();
        let why = why.split(" at line").next().unwrap_or_default();
        format!("{place}: {why}")
    };
    let mut parsed = None;
    for instruction in parse_dockerfile::parse_iter(text).map_err(unread)? {
        // The parser reports a missing stage while there are only arguments.
        match instruction {
            Ok(instruction) => parsed = Some(instruction),
            Err(_) if matches!(parsed, Some(Instruction::Arg(_))) => {}
            Err(e) => return Err(unread(e)),
        }
    }
    Ok(parsed)
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// Text without the quotes in it, as the engine takes flags.
fn unquoted(text: &str) -> String {
    text.replace(['"', '\''], "")
}

fn is_platform(flag: &Flag<'_>) -> bool {
    unquoted(&flag.name.value).eq_ignore_ascii_case("platform")
}

/// Refuses flags in a form that the engine and the parser read differently.
fn check_flags(flags: &[Flag<'_>], escape: char, place: &str) -> Result<(), String> {
    for flag in flags {
        let value = flag.value.as_ref().map_or("", |v| v.value.as_ref());
        for text in [flag.name.value.as_ref(), value] {
            let open = |quote: char| text.matches(quote).count() % 2 == 1;
            if text.contains(escape) || open('"') || open('\'') {
                return Err(format!(
                    "the flag --{} of {place} has white space or {escape:?} in it; write it without",
                    flag.name.value
                ));
            }
        }
    }
    Ok(())
}

/// Whether the engine may split flags at white space that the parser does not recognize.
fn has_odd_space(keyword: &str, text: &str) -> bool {
    let counts = match keyword {
        "FROM" | "COPY" | "ADD" | "ONBUILD" => true,
        "RUN" => text.contains("--"),
        _ => false,
    };
    counts && text.contains(|c: char| c.is_whitespace() && !c.is_ascii())
}

fn no_here_document(sources: &[Source<'_>], place: &str) -> Result<(), String> {
    if sources.iter().any(|s| !matches!(s, Source::Path(_))) {
        Err(here_document(place))
    } else {
        Ok(())
    }
}

fn here_document(place: &str) -> String {
    format!(
        "{place} has a here-document, which only BuildKit reads; put the text into a file of the code"
    )
}

/// Whether the source of an `ADD` may expand to a URL: the engine expands variables that only it
/// knows, those of the base among them.
fn may_be_url(source: &str, escape: char) -> bool {
    let plain = unquoted(source).replace(escape, "");
    let certain = plain.split('$').next().unwrap_or_default();
    let is_all = certain.len() == plain.len();
    ["http://", "https://", "git@", "git://", "ssh://"]
        .iter()
        .any(|scheme| {
            let lower = certain.to_ascii_lowercase();
            lower.starts_with(scheme) || !is_all && scheme.starts_with(&lower)
        })
}

#[cfg(test)]
mod tests;
