//! Tar archives, gzipped.
//!
//! Headers that only carry a long name for the next entry (PAX, GNU) are read here, a bounded
//! number of bytes per entry, since the library would read any number of them into memory.

use std::{
    io::{self, Read},
    time::{Duration, SystemTime},
};

use flate2::read::MultiGzDecoder;
use tar::{EntryType, PaxExtensions};

use super::{super::entries::Entry, RATIO_FROM, Unpacker, broken, clean, disk};
use crate::model::work::{CANCELLED, Cancelled};

/// Most bytes of headers before one entry: some thousand file attributes, or a path many times as
/// long as any that is accepted.
const MAX_EXTENSIONS: u64 = 256 * 1024;
/// Bytes of a header.
const BLOCK: u64 = 512;
/// Bytes of headers and padding per entry, beside the content.
const OVERHEAD: u64 = 2048;

/// What the extension headers say of the next entry.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<Vec<u8>>,
    bytes: u64,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Reads one extension header.
    fn read(&mut self, kind: EntryType, size: u64, content: &mut impl Read) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(BLOCK).saturating_add(size);
        if self.bytes > MAX_EXTENSIONS {
            return Err(format!(
                "it has more than {MAX_EXTENSIONS} bytes of headers before one of its entries; pack it without the attributes of files"
            ));
        }
        let mut text = Vec::new();
        content.read_to_end(&mut text).map_err(|e| broken(&e))?;
        if kind.is_pax_local_extensions() {
            for extension in PaxExtensions::new(&text) {
                let extension = extension.map_err(|e| broken(&e))?;
                let value = || Some(extension.value_bytes().to_vec());
                match extension.key_bytes() {
                    b"path" => self.path = value(),
                    b"linkpath" => self.target = value(),
                    b"size" => self.size = value(),
                    _ => {}
                }
            }
        } else {
            if text.last() == Some(&0) {
                text.pop();
            }
            if kind.is_gnu_longname() {
                self.path = Some(text)
            } else {
                self.target = Some(text)
            }
        }
        Ok(())
    }
}

pub(super) fn untar(bytes: &[u8], unpacker: &mut Unpacker<'_>) -> Result<(), String> {
    let limits = unpacker.limits;
    let metered = Metered {
        inner: MultiGzDecoder::new(bytes),
        read: 0,
        most: limits
            .bytes
            .saturating_add(OVERHEAD * (limits.entries as u64 + 2)),
        ratio: limits.ratio.saturating_mul(unpacker.packed),
        cancelled: unpacker.cancelled,
    };
    let mut archive = tar::Archive::new(metered);
    let mut extensions = Extensions::default();
    for entry in archive.entries().map_err(|e| broken(&e))?.raw(true) {
        let mut entry = entry.map_err(|e| broken(&e))?;
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        if kind.is_pax_local_extensions() || kind.is_gnu_longname() || kind.is_gnu_longlink() {
            extensions.read(kind, entry.size(), &mut entry)?;
            continue;
        }
        let Extensions {
            path, target, size, ..
        } = std::mem::take(&mut extensions);
        // An extension gives the size only when the header cannot hold it, which is more than any
        // file may have.
        if size.is_some_and(|size| size != entry.size().to_string().into_bytes()) {
            return Err("an entry's size is given twice, and differs".to_owned());
        }
        let path = path.unwrap_or_else(|| entry.path_bytes().into_owned());
        let name = String::from_utf8(path)
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
            let target = target
                .or_else(|| entry.link_name_bytes().map(|name| name.into_owned()))
                .unwrap_or_default();
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
    if extensions.is_empty() {
        Ok(())
    } else {
        Err(broken(
            &"it ends before the entry that its last header is for",
        ))
    }
}

/// A hard link to an earlier file becomes a separate file here.
fn copy(unpacker: &mut Unpacker<'_>, path: &str, of: &str) -> Result<(), String> {
    unpacker.limits.check_path(of)?;
    let of =
        clean(of).map_err(|why| format!("its entry {path:?} is a second name for what {why}"))?;
    let Some(Entry::File { len, executable }) = unpacker.entries.get(&of).cloned() else {
        return Err(format!(
            "its entry {path:?} is a second name for {of:?}, which is no file before it"
        ));
    };
    let mut content: Box<dyn Read> = match unpacker.on_disk(&of) {
        Some(at) => Box::new(std::fs::File::open(at).map_err(|e| disk(&e))?),
        None => Box::new(io::repeat(0).take(len)),
    };
    unpacker.file(path, executable, None, &mut content)
}

/// Counts what a decoder returns, so that endless headers are noticed as well as endless files, and
/// ends once it is cancelled.
struct Metered<'a, R> {
    inner: R,
    read: u64,
    most: u64,
    ratio: u64,
    cancelled: Cancelled<'a>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.cancelled)() {
            return Err(io::Error::other(CANCELLED));
        }
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
