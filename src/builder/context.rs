//! What is sent to the engine for one build: files, and which of them is the Dockerfile.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    path::PathBuf,
    time::UNIX_EPOCH,
};

use bytes::Bytes;

use super::{
    archive,
    entries::{Entries, Entry},
    failure::failed,
    limits::Limits,
    recognize::{Recognized, recognize},
    source::{Source, check_len, clean},
};
use crate::model::{
    Failure,
    code::DEFAULT_DOCKERFILE,
    ignorefile::{self, Rules},
    work::{CANCELLED, Cancelled},
};

/// Longest Dockerfile in bytes: some hundred times the usual length.
pub const MAX_DOCKERFILE: u64 = 1024 * 1024;
/// Longest `.dockerignore` in bytes.
const MAX_IGNOREFILE: u64 = ignorefile::MAX_BYTES as u64;
/// Longest line of a Dockerfile in bytes that the engine's builder reads.
pub const MAX_DOCKERFILE_LINE: usize = 64 * 1024 - 1;

/// The argument that sets the label of stages. Its value differs between apps, so that one build
/// does not remove stages that another one needs.
pub(super) const STAGE_ARG: &str = "IGNITE_STAGE";

/// A build context.
#[derive(Debug)]
pub struct Context {
    pieces: BTreeMap<String, Piece>,
    /// The path of the Dockerfile in it.
    pub dockerfile: String,
    /// Values for the Dockerfile's `ARG`s.
    pub build_args: BTreeMap<String, String>,
    /// Whether it has stages labelled with the value of the argument [`STAGE_ARG`].
    pub has_stages: bool,
    /// Whether the platform wrote its Dockerfile, over images that the operator chose.
    pub is_managed: bool,
    /// Keeps the files on disk.
    source: Source,
}

#[derive(Debug)]
enum Piece {
    Dir,
    File { from: PathBuf, executable: bool },
    Bytes { content: Bytes, executable: bool },
    Link(String),
}

impl Context {
    /// All of a source except what its `.dockerignore` leaves out, with the source's own Dockerfile
    /// at this path.
    ///
    /// # Errors
    /// BUILD_FAILED when the Dockerfile or the `.dockerignore` is invalid or over a bound, or when
    /// the read was cancelled.
    pub(super) fn whole(
        source: Source,
        dockerfile: &str,
        cancelled: Cancelled<'_>,
    ) -> Result<Self, Failure> {
        let read = |path: &str, most| source.bounded(path, most).map_err(failed);
        if let Some(text) = read(dockerfile, MAX_DOCKERFILE)? {
            check_dockerfile(dockerfile, &text).map_err(failed)?;
        }
        let rules = match read(ignorefile::NAME, MAX_IGNOREFILE)? {
            Some(text) => Rules::parse(&String::from_utf8_lossy(&text)).map_err(failed)?,
            None => Rules::default(),
        };
        // The engine needs these two, and leaves them out of the image where they are ignored.
        let needed = [dockerfile, ignorefile::NAME];
        let all = source.entries().keys().map(String::as_str);
        let others = all.filter(|path| !needed.contains(path));
        let kept = rules.kept(others, cancelled).map_err(failed)?;
        let kept: Vec<String> = kept.into_iter().map(str::to_owned).collect();
        let mut context = Self::empty(source, dockerfile);
        for path in kept.iter().map(String::as_str).chain(needed) {
            context.place(path, path);
        }
        Ok(context)
    }

    /// An empty context; files of the source can be placed in it.
    pub fn empty(source: Source, dockerfile: &str) -> Self {
        Self {
            pieces: BTreeMap::new(),
            dockerfile: dockerfile.to_owned(),
            build_args: BTreeMap::new(),
            has_stages: false,
            is_managed: false,
            source,
        }
    }

    /// The source of its files.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Puts an entry of the source at `to`; a missing one is left out.
    pub fn place(&mut self, from: &str, to: &str) {
        let piece = match self.source.entries().get(from) {
            Some(Entry::Dir) => Piece::Dir,
            Some(Entry::File { executable, .. }) => Piece::File {
                from: self.source.path(from),
                executable: *executable,
            },
            Some(Entry::Link(target)) => Piece::Link(target.clone()),
            None => return,
        };
        self.pieces.insert(to.to_owned(), piece);
    }

    /// The source's own Dockerfile, up to `most` bytes.
    pub(super) fn brought(&self, most: u64) -> Option<Vec<u8>> {
        self.source.read(&self.dockerfile, most)
    }

    /// Puts a file of the platform's own at `path`.
    pub fn add(&mut self, path: &str, content: impl Into<Bytes>, executable: bool) {
        let piece = Piece::Bytes {
            content: content.into(),
            executable,
        };
        self.pieces.insert(path.to_owned(), piece);
    }

    /// Writes a tar archive in which nothing but times depends on this machine.
    ///
    /// # Errors
    /// The disk's error, or that it was cancelled.
    pub(super) fn pack(&self, to: impl Write, cancelled: Cancelled<'_>) -> io::Result<()> {
        let mut archive = tar::Builder::new(to);
        for (path, piece) in &self.pieces {
            check_cancelled(cancelled)?;
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            match piece {
                Piece::Dir => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_size(0);
                    archive.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Piece::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_size(0);
                    archive.append_link(&mut header, path, target)?;
                }
                Piece::Bytes {
                    content,
                    executable,
                } => {
                    header.set_mode(mode(*executable));
                    header.set_size(content.len() as u64);
                    archive.append_data(&mut header, path, &content[..])?;
                }
                Piece::File { from, executable } => {
                    let file = File::open(from)?;
                    let meta = file.metadata()?;
                    header.set_mode(mode(*executable));
                    header.set_size(meta.len());
                    let since = meta.modified()?.duration_since(UNIX_EPOCH);
                    header.set_mtime(since.unwrap_or_default().as_secs());
                    let file = Until { file, cancelled };
                    archive.append_data(&mut header, path, file)?;
                }
            }
        }
        archive.into_inner()?.flush()
    }
}

/// A file whose reading ends when it is cancelled.
struct Until<'a> {
    file: File,
    cancelled: Cancelled<'a>,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check_cancelled(self.cancelled)?;
        self.file.read(buffer)
    }
}

fn check_cancelled(cancelled: Cancelled<'_>) -> io::Result<()> {
    if cancelled() {
        Err(io::Error::other(CANCELLED))
    } else {
        Ok(())
    }
}

fn mode(executable: bool) -> u32 {
    if executable { 0o755 } else { 0o644 }
}

/// How code becomes an image.
#[derive(Debug)]
pub(super) enum Recipe {
    /// By the Dockerfile at this path.
    Dockerfile(String),
    /// As a handler.
    Handler(Recognized),
}

/// How code is built: by the Dockerfile at `path`, or, where no path was given and there is none at
/// [`DEFAULT_DOCKERFILE`], as the handler that its files make it.
///
/// # Errors
/// A sentence that says what was looked for.
pub(super) fn recipe(path: &str, entries: &Entries) -> Result<Recipe, String> {
    dockerfile_in(path, entries).map(Recipe::Dockerfile).or_else(|missing| {
        if !path.is_empty() {
            return Err(missing);
        }
        recognize(entries).map(Recipe::Handler).map_err(|why| {
            format!(
                "{missing}; without one, {why}. Add a Dockerfile, or name the handler's runtime (code.compile, `--runtime`); builds by Cloud Native Buildpacks are the cloud's alone"
            )
        })
    })
}

/// Refuses an archive that no build could use.
///
/// # Errors
/// The wrong field, `archive` or `dockerfile_path`, and a sentence that says what is wrong with it,
/// or that the check was cancelled.
pub fn check_context(
    archive: &[u8],
    dockerfile: &str,
    limits: Limits,
    cancelled: Cancelled<'_>,
) -> Result<(), (&'static str, String)> {
    let in_archive = |why| ("archive", why);
    let named = clean(match dockerfile {
        "" => DEFAULT_DOCKERFILE,
        path => path,
    });
    let wanted = [
        (ignorefile::NAME, MAX_IGNOREFILE),
        // A wrong path is reported once the archive is known to be valid.
        (named.as_deref().unwrap_or_default(), MAX_DOCKERFILE),
    ];
    let listing = archive::inspect(archive, limits, &wanted, cancelled).map_err(in_archive)?;
    let entries = &listing.entries;
    let recipe = recipe(dockerfile, entries).map_err(|why| ("dockerfile_path", why))?;
    let Recipe::Dockerfile(path) = recipe else {
        return Ok(());
    };
    if let Some(text) = listing.contents.get(&path) {
        check_len(&path, text, MAX_DOCKERFILE).map_err(in_archive)?;
        check_dockerfile(&path, text).map_err(in_archive)?;
    }
    if let Some(text) = listing.contents.get(ignorefile::NAME) {
        check_len(ignorefile::NAME, text, MAX_IGNOREFILE).map_err(in_archive)?;
        Rules::parse(&String::from_utf8_lossy(text)).map_err(in_archive)?;
    }
    Ok(())
}

/// Refuses a Dockerfile with a line that the engine's builder would not read.
fn check_dockerfile(path: &str, text: &[u8]) -> Result<(), String> {
    let mut lines = text.split(|byte| *byte == b'\n');
    match lines.position(|line| line.len() > MAX_DOCKERFILE_LINE) {
        Some(at) => Err(format!(
            "line {} of the Dockerfile {path:?} is over {MAX_DOCKERFILE_LINE} bytes long",
            at + 1
        )),
        None => Ok(()),
    }
}

/// The Dockerfile's path, if there is one.
///
/// # Errors
/// A sentence that says where Dockerfiles are, if there are any.
fn dockerfile_in(path: &str, entries: &Entries) -> Result<String, String> {
    let path = match path {
        "" => DEFAULT_DOCKERFILE,
        path => path,
    };
    let cleaned = clean(path).map_err(|why| format!("the Dockerfile's path {path:?} {why}"))?;
    if matches!(entries.get(&cleaned), Some(Entry::File { .. })) {
        return Ok(cleaned);
    }
    let is_one = |p: &&str| {
        let name = p.rsplit('/').next();
        name.is_some_and(|n| n.contains(DEFAULT_DOCKERFILE))
    };
    let all = entries.keys().map(String::as_str);
    let others: Vec<&str> = all.filter(is_one).take(3).collect();
    Err(match others.as_slice() {
        [] => format!("there is no Dockerfile at {cleaned:?}, nor anywhere else"),
        others => format!(
            "there is no Dockerfile at {cleaned:?}; give dockerfile_path: there is {}",
            others.join(", ")
        ),
    })
}
