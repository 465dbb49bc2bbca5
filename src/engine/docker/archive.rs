//! Tar archives of one entry, by which a file is put into an image or a container.

use std::path::Path;

use tar::{Builder, EntryType, Header};

use super::Error;

/// An archive of a file, or of a directory when `kind` says so, owned by root. `call` is the
/// purpose of the archive, as a verb.
///
/// # Errors
/// For a path that an archive cannot hold.
pub(super) fn of_one(
    call: &'static str,
    kind: EntryType,
    path: &Path,
    mode: u32,
    content: &[u8],
) -> Result<Vec<u8>, Error> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(content.len() as u64);
    let mut archive = Builder::new(Vec::new());
    archive
        .append_data(&mut header, path, content)
        .and_then(|()| archive.into_inner())
        .map_err(|cause| Error::Refused {
            call,
            status: 0,
            message: cause.to_string(),
        })
}
