//! Zip archives.

use std::io::{Cursor, Read as _};

use super::{super::limits::check_entries, Unpacker, broken};

/// The signature of each entry in a zip archive's central directory.
const LISTED: &[u8] = b"PK\x01\x02";

pub(super) fn unzip(bytes: &[u8], unpacker: &mut Unpacker<'_>) -> Result<(), String> {
    let limits = unpacker.limits;
    // The library reads the whole directory into memory. It has no more entries than the bytes have
    // signatures, wherever it is.
    check_entries(listed(bytes, limits.entries), limits)?;
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| broken(&e))?;
    check_entries(archive.len(), limits)?;
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
            // One byte more than allowed, so that an overlong target is not mistaken for its
            // beginning.
            let most = limits.path_bytes as u64 + 1;
            let read = (&mut entry).take(most).read_to_string(&mut target);
            read.map_err(|_| format!("its link {path:?} leads to what is not UTF-8"))?;
            unpacker.link(&path, target)?;
        } else if entry.is_file() {
            // Zip keeps no time zone, so its times are off by hours elsewhere: the build sets its
            // own time.
            unpacker.file(&path, mode & 0o111 != 0, None, &mut entry)?;
        } else {
            return Err(format!(
                "its entry {name:?} is a device or of another kind that source code is not made of; leave it out"
            ));
        }
    }
    Ok(())
}

/// How many directory entries there are at most; the count stops at one more than `most`.
fn listed(bytes: &[u8], most: usize) -> usize {
    let signs = bytes.windows(LISTED.len()).filter(|w| *w == LISTED);
    signs.take(most.saturating_add(1)).count()
}
