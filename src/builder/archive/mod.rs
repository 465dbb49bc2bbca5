//! Archives: recognized, and unpacked without trusting anything that they claim.
//!
//! Sizes are counted as bytes arrive, never believed. A path is measured before anything is made of
//! it, since each of its folders is an entry. No entry is written through a link: links are
//! remembered until everything else is written, then checked against the whole tree. The formats
//! are read in `untar` and `unzip`; both check before each step whether they were cancelled.

mod untar;
mod unzip;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    time::SystemTime,
};

use tempfile::TempDir;

use super::{
    entries::{Entries, Entry},
    limits::{Limits, TreeCounts},
    source::{Source, check_links, clean},
};
use crate::model::work::{Cancelled, check_cancelled};

/// Archives that unpack to less than this may have any compression ratio.
const RATIO_FROM: u64 = 1024 * 1024;
/// Bytes copied at a time.
const CHUNK: usize = 64 * 1024;

/// The format of code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A zip archive.
    Zip,
    /// A tar archive, gzipped.
    TarGz,
    /// Neither.
    Other,
}

/// Recognizes the format by the first bytes.
pub fn format(bytes: &[u8]) -> Format {
    match bytes {
        // An archive with entries, or an empty one.
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Format::Zip,
        [0x1f, 0x8b, ..] => Format::TarGz,
        _ => Format::Other,
    }
}

/// Unpacks an archive into a fresh folder.
///
/// # Errors
/// A sentence that says what is wrong with the archive, or that the work was cancelled.
pub(super) fn unpack(
    bytes: &[u8],
    limits: Limits,
    into: TempDir,
    cancelled: Cancelled<'_>,
) -> Result<Source, String> {
    let mut unpacker = Unpacker::new(bytes, limits, cancelled);
    unpacker.root = Some(into.path().to_owned());
    let (entries, _) = unpacker.read(bytes)?;
    Ok(Source::written(into, entries))
}

/// The content of an archive.
#[derive(Debug)]
pub struct Listing {
    /// Its entries.
    pub entries: Entries,
    /// The beginnings of the requested files: one byte beyond the request shows that a file is
    /// longer.
    pub contents: BTreeMap<String, Vec<u8>>,
}

/// Reads an archive as [`unpack`] would, and writes nothing. Keeps as many bytes of each file in
/// `wanted` as it says, and one more.
///
/// # Errors
/// As [`unpack`].
pub fn inspect(
    bytes: &[u8],
    limits: Limits,
    wanted: &[(&str, u64)],
    cancelled: Cancelled<'_>,
) -> Result<Listing, String> {
    let mut unpacker = Unpacker::new(bytes, limits, cancelled);
    unpacker.wanted = wanted;
    let (entries, contents) = unpacker.read(bytes)?;
    Ok(Listing { entries, contents })
}

struct Unpacker<'a> {
    limits: Limits,
    packed: u64,
    tally: TreeCounts,
    entries: Entries,
    /// The folder to unpack into; `None` to write nothing.
    root: Option<PathBuf>,
    /// Files whose beginning is kept, and how much of it.
    wanted: &'a [(&'a str, u64)],
    contents: BTreeMap<String, Vec<u8>>,
    cancelled: Cancelled<'a>,
}

impl<'a> Unpacker<'a> {
    fn new(bytes: &[u8], limits: Limits, cancelled: Cancelled<'a>) -> Self {
        Self {
            limits,
            packed: bytes.len() as u64,
            tally: TreeCounts::new(limits),
            entries: Entries::new(),
            root: None,
            wanted: &[],
            contents: BTreeMap::new(),
            cancelled,
        }
    }

    fn read(mut self, bytes: &[u8]) -> Result<(Entries, BTreeMap<String, Vec<u8>>), String> {
        match format(bytes) {
            Format::Zip => unzip::unzip(bytes, &mut self)?,
            Format::TarGz => untar::untar(bytes, &mut self)?,
            Format::Other => {
                return Err(
                    "it is neither a .zip nor a .tar.gz; pack it as one of these".to_owned(),
                );
            }
        }
        self.finish()
    }

    /// The path of an entry; makes its folders. `None` for the root itself.
    fn place(&mut self, name: &str) -> Result<Option<String>, String> {
        check_cancelled(self.cancelled)?;
        self.limits.check_path(name)?;
        let path = clean(name).map_err(|why| format!("its entry {name:?} {why}"))?;
        if path.is_empty() {
            return Ok(None);
        }
        // A known folder has all its parents, so only new ones are made.
        let mut missing = Vec::new();
        for (at, _) in path.rmatch_indices('/') {
            let folder = &path[..at];
            match self.entries.get(folder) {
                Some(Entry::Dir) => break,
                Some(_) => {
                    return Err(format!(
                        "its entry {name:?} is below {folder:?}, which is no folder"
                    ));
                }
                None => missing.push(folder.to_owned()),
            }
        }
        for folder in missing.iter().rev() {
            self.folder(folder)?;
        }
        Ok(Some(path))
    }

    fn folder(&mut self, path: &str) -> Result<(), String> {
        match self.entries.get(path) {
            Some(Entry::Dir) => Ok(()),
            Some(_) => Err(format!(
                "its entry {path:?} is there twice, once as a folder"
            )),
            None => {
                self.note(path, Entry::Dir)?;
                match self.on_disk(path) {
                    Some(at) => fs::create_dir(at).map_err(|e| disk(&e)),
                    None => Ok(()),
                }
            }
        }
    }

    fn file(
        &mut self,
        path: &str,
        executable: bool,
        modified: Option<SystemTime>,
        content: &mut dyn Read,
    ) -> Result<(), String> {
        if matches!(self.entries.get(path), Some(Entry::Dir | Entry::Link(_))) {
            return Err(format!("its entry {path:?} is there twice, once as a file"));
        }
        let mut file = match self.on_disk(path) {
            Some(at) => Some(fs::File::create(at).map_err(|e| disk(&e))?),
            None => None,
        };
        let wanted = self.wanted.iter().find(|(name, _)| *name == path);
        let keep = wanted.map_or(0, |(_, most)| most + 1);
        let mut kept = Vec::new();
        let mut chunk = vec![0; CHUNK];
        let mut len = 0;
        loop {
            check_cancelled(self.cancelled)?;
            let n = content.read(&mut chunk).map_err(|e| broken(&e))?;
            if n == 0 {
                break;
            }
            len += n as u64;
            self.tally.bytes(n as u64)?;
            self.check_ratio()?;
            let room = usize::try_from(keep).unwrap_or(usize::MAX) - kept.len();
            kept.extend_from_slice(&chunk[..n.min(room)]);
            if let Some(file) = &mut file {
                file.write_all(&chunk[..n]).map_err(|e| disk(&e))?;
            }
        }
        if keep > 0 {
            self.contents.insert(path.to_owned(), kept);
        }
        if let Some(file) = file {
            if executable {
                let may_run = fs::Permissions::from_mode(0o755);
                file.set_permissions(may_run).map_err(|e| disk(&e))?;
            }
            if let Some(modified) = modified {
                file.set_modified(modified).map_err(|e| disk(&e))?;
            }
        }
        self.note(path, Entry::File { len, executable })
    }

    fn link(&mut self, path: &str, target: String) -> Result<(), String> {
        if matches!(
            self.entries.get(path),
            Some(Entry::Dir | Entry::File { .. })
        ) {
            return Err(format!("its entry {path:?} is there twice, once as a link"));
        }
        self.note(path, Entry::Link(target))
    }

    fn note(&mut self, path: &str, entry: Entry) -> Result<(), String> {
        // A repeated entry replaces the earlier one; its number is bounded by the bytes that it
        // takes.
        if !self.entries.contains_key(path) || matches!(entry, Entry::Link(_)) {
            self.tally.entry(path, &entry)?;
        }
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }

    fn on_disk(&self, path: &str) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.join(path))
    }

    fn check_ratio(&self) -> Result<(), String> {
        let unpacked = self.tally.unpacked();
        if unpacked > RATIO_FROM && unpacked / self.packed.max(1) > self.limits.ratio {
            return Err(format!(
                "it unpacks to more than {} times its size, as only archives do that are made to fill a disk; raise IGNITE_CODE_MAX_RATIO if this one is not",
                self.limits.ratio
            ));
        }
        Ok(())
    }

    fn finish(self) -> Result<(Entries, BTreeMap<String, Vec<u8>>), String> {
        check_links(&self.entries, self.limits, self.cancelled)
            .map_err(|why| format!("its content is refused: {why}"))?;
        if self.root.is_some() {
            for (path, entry) in &self.entries {
                if let (Entry::Link(target), Some(at)) = (entry, self.on_disk(path)) {
                    symlink(target, at).map_err(|e| disk(&e))?;
                }
            }
        }
        Ok((self.entries, self.contents))
    }
}

fn broken(error: &dyn std::fmt::Display) -> String {
    format!("the archive is damaged or of a kind that is not known here: {error}")
}

fn disk(error: &io::Error) -> String {
    format!("it cannot be unpacked on this machine: {error}")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
