//! Zip archives.

use std::io::{Cursor, Read as _};

use super::{super::limits::check_entries, Unpacker, broken};

/// What each entry of the list at a zip archive's end begins with.
const LISTED: &[u8] = b"PK\x01\x02";

pub(super) fn unzip(bytes: &[u8], unpacker: &mut Unpacker<'_>) -> Result<(), String> {
    let limits = unpacker.limits;
    // The library reads the whole list into memory. It has no more entries than these signs,
    // wherever it is.
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
            // One more than is taken, so that what is too long is not taken for its beginning.
            let most = limits.path_bytes as u64 + 1;
            let read = (&mut entry).take(most).read_to_string(&mut target);
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

/// How many entries are listed at most, counted until there is one more than `most`.
fn listed(bytes: &[u8], most: usize) -> usize {
    let signs = bytes.windows(LISTED.len()).filter(|w| *w == LISTED);
    signs.take(most.saturating_add(1)).count()
}
