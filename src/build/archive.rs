//! Archives: told apart, and unpacked without trust in anything that they say.
//!
//! Sizes are counted as bytes come, never believed. No entry is written through a link: links are
//! kept in mind until everything else is there, then checked against the whole tree.

use std::{
    fs,
    io::{self, Cursor, Read, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use flate2::read::MultiGzDecoder;
use tempfile::TempDir;

use super::source::{Entries, Entry, Limits, Source, check_links, check_size, clean, join};

/// Archives that unpack to less are not looked at for how well they are packed.
const RATIO_FROM: u64 = 1024 * 1024;
/// Longest target of a link, as the kernel has it.
const MAX_TARGET: u64 = 4096;
/// Bytes that are copied at a time.
const CHUNK: usize = 64 * 1024;

/// What bytes of code are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A zip archive.
    Zip,
    /// A tar archive, gzipped.
    TarGz,
    /// Neither.
    Other,
}

/// Tells what bytes are by how they begin.
pub fn format(bytes: &[u8]) -> Format {
    match bytes {
        // An archive with entries, and one without.
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Format::Zip,
        [0x1f, 0x8b, ..] => Format::TarGz,
        _ => Format::Other,
    }
}

/// Unpacks an archive into a fresh folder.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(super) fn unpack(bytes: &[u8], limits: Limits, into: TempDir) -> Result<Source, String> {
    let entries = read(bytes, limits, Some(into.path().to_owned()))?;
    Ok(Source::written(into, entries))
}

/// Goes through an archive as [`unpack`] would, and writes nothing.
///
/// # Errors
/// As [`unpack`].
pub fn look(bytes: &[u8], limits: Limits) -> Result<Entries, String> {
    read(bytes, limits, None)
}

fn read(bytes: &[u8], limits: Limits, root: Option<PathBuf>) -> Result<Entries, String> {
    let mut unpacker = Unpacker {
        limits,
        packed: bytes.len() as u64,
        bytes: 0,
        entries: Entries::new(),
        root,
    };
    match format(bytes) {
        Format::Zip => unzip(bytes, &mut unpacker)?,
        Format::TarGz => untar(bytes, &mut unpacker)?,
        Format::Other => {
            return Err("it is neither a .zip nor a .tar.gz; pack it as one of these".to_owned());
        }
    }
    unpacker.finish()
}

struct Unpacker {
    limits: Limits,
    packed: u64,
    bytes: u64,
    entries: Entries,
    /// `None` only looks.
    root: Option<PathBuf>,
}

impl Unpacker {
    /// The path of an entry; its folders are made. `None` for the root itself.
    fn place(&mut self, name: &str) -> Result<Option<String>, String> {
        let path = clean(name).map_err(|why| format!("its entry {name:?} {why}"))?;
        if path.is_empty() {
            return Ok(None);
        }
        let mut folder = String::new();
        let parts: Vec<&str> = path.split('/').collect();
        for part in &parts[..parts.len() - 1] {
            folder = join(&folder, part);
            self.folder(&folder).map_err(|_| {
                format!("its entry {name:?} is below {folder:?}, which is no folder")
            })?;
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
        let mut chunk = vec![0; CHUNK];
        let mut len = 0;
        loop {
            let n = content.read(&mut chunk).map_err(|e| broken(&e))?;
            if n == 0 {
                break;
            }
            len += n as u64;
            self.bytes += n as u64;
            check_size(self.bytes, self.entries.len(), self.limits)?;
            self.check_ratio(self.bytes)?;
            if let Some(file) = &mut file {
                file.write_all(&chunk[..n]).map_err(|e| disk(&e))?;
            }
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
        self.entries.insert(path.to_owned(), entry);
        check_size(self.bytes, self.entries.len(), self.limits)
    }

    fn on_disk(&self, path: &str) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.join(path))
    }

    fn check_ratio(&self, unpacked: u64) -> Result<(), String> {
        if unpacked > RATIO_FROM && unpacked / self.packed.max(1) > self.limits.ratio {
            return Err(format!(
                "it unpacks to more than {} times its size, as only archives do that are made to fill a disk; raise IGNITE_CODE_MAX_RATIO if this one is not",
                self.limits.ratio
            ));
        }
        Ok(())
    }

    fn finish(self) -> Result<Entries, String> {
        check_links(&self.entries).map_err(|why| format!("its content is refused: {why}"))?;
        if self.root.is_some() {
            for (path, entry) in &self.entries {
                if let (Entry::Link(target), Some(at)) = (entry, self.on_disk(path)) {
                    symlink(target, at).map_err(|e| disk(&e))?;
                }
            }
        }
        Ok(self.entries)
    }
}

fn untar(bytes: &[u8], unpacker: &mut Unpacker) -> Result<(), String> {
    let metered = Metered {
        inner: MultiGzDecoder::new(bytes),
        read: 0,
        // Headers and padding come on top of the content.
        most: unpacker
            .limits
            .bytes
            .saturating_add(2048 * (unpacker.limits.entries as u64 + 2)),
        ratio: unpacker.limits.ratio.saturating_mul(unpacker.packed),
    };
    let mut archive = tar::Archive::new(metered);
    for entry in archive.entries().map_err(|e| broken(&e))? {
        let mut entry = entry.map_err(|e| broken(&e))?;
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        let name = String::from_utf8(entry.path_bytes().into_owned())
            .map_err(|e| format!("its entry {:?} is not UTF-8", e.to_string()))?;
        let Some(path) = unpacker.place(&name)? else {
            continue;
        };
        if kind.is_dir() {
            unpacker.folder(&path)?;
        } else if kind.is_file() || kind.is_contiguous() {
            let executable = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
            let modified = entry.header().mtime().ok();
            let modified =
                modified.and_then(|s| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s)));
            unpacker.file(&path, executable, modified, &mut entry)?;
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            let target = String::from_utf8(target)
                .map_err(|_| format!("its link {path:?} leads to what is not UTF-8"))?;
            if kind.is_symlink() {
                unpacker.link(&path, target)?;
            } else {
                copy(unpacker, &path, &target)?;
            }
        } else {
            return Err(format!(
                "its entry {name:?} is a device, a pipe or of another kind that source code is not made of; leave it out"
            ));
        }
    }
    Ok(())
}

/// A second name for a file that came before: a file of its own here.
fn copy(unpacker: &mut Unpacker, path: &str, of: &str) -> Result<(), String> {
    let of =
        clean(of).map_err(|why| format!("its entry {path:?} is a second name for what {why}"))?;
    let Some(Entry::File { len, executable }) = unpacker.entries.get(&of).cloned() else {
        return Err(format!(
            "its entry {path:?} is a second name for {of:?}, which is no file before it"
        ));
    };
    let mut content: Box<dyn Read> = match unpacker.on_disk(&of) {
        Some(at) => Box::new(fs::File::open(at).map_err(|e| disk(&e))?),
        None => Box::new(io::repeat(0).take(len)),
    };
    unpacker.file(path, executable, None, &mut content)
}

fn unzip(bytes: &[u8], unpacker: &mut Unpacker) -> Result<(), String> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| broken(&e))?;
    check_size(0, archive.len(), unpacker.limits)?;
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(|e| broken(&e))?;
        let name = entry.name().map_err(|e| broken(&e))?.into_owned();
        let Some(path) = unpacker.place(&name)? else {
            continue;
        };
        let mode = entry.unix_mode().unwrap_or(0o644);
        if entry.is_dir() {
            unpacker.folder(&path)?;
        } else if entry.is_symlink() {
            let mut target = String::new();
            let read = (&mut entry).take(MAX_TARGET).read_to_string(&mut target);
            read.map_err(|_| format!("its link {path:?} leads to what is not UTF-8"))?;
            unpacker.link(&path, target)?;
        } else if entry.is_file() {
            // Zip keeps no time zone, and is off by hours elsewhere: the build sets its own time.
            unpacker.file(&path, mode & 0o111 != 0, None, &mut entry)?;
        } else {
            return Err(format!(
                "its entry {name:?} is a device or of another kind that source code is not made of; leave it out"
            ));
        }
    }
    Ok(())
}

fn broken(error: &dyn std::fmt::Display) -> String {
    format!("the archive is damaged or of a kind that is not known here: {error}")
}

fn disk(error: &io::Error) -> String {
    format!("it cannot be unpacked on this machine: {error}")
}

/// Counts what a decoder gives, so that headers without end are noticed as well as files.
struct Metered<R> {
    inner: R,
    read: u64,
    most: u64,
    ratio: u64,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read += n as u64;
        if self.read > self.most
            || (self.read > RATIO_FROM.saturating_mul(4) && self.read > self.ratio)
        {
            return Err(io::Error::other(
                "it unpacks to more than IGNITE_CODE_MAX_UNPACKED_BYTES and IGNITE_CODE_MAX_RATIO allow",
            ));
        }
        Ok(n)
    }
}

#[cfg(test)]
#[path = "archive/tests.rs"]
mod tests;
