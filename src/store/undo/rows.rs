//! The file of undo rows, which is also read when a database is opened.
//!
//! The file consists of its kind, the length and CRC-32 of what follows (u64 and u32,
//! little-endian), and rows: key, and the previous value, if there was one. An incomplete record
//! was cut short by a crash before its change was applied.

use std::{collections::BTreeMap, fs::OpenOptions, io, os::unix::fs::FileExt as _, path::Path};

/// The file in the database's folder.
pub(in crate::store) const NAME: &str = "undo";
/// The first bytes of the file: its kind and format.
const KIND: &[u8; 8] = b"ignundo\x01";
pub(in crate::store) const HEADER: usize = KIND.len() + 8 + 4;

/// Rows by key; `None` means that the row does not exist.
pub(in crate::store) type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The undo rows of a change that the last run could not finish; none when it finished every
/// change.
///
/// # Errors
/// When the file cannot be read, or is damaged.
pub(in crate::store) fn pending(folder: &Path) -> io::Result<Rows> {
    let content = match std::fs::read(folder.join(NAME)) {
        Ok(content) => content,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Rows::new()),
        Err(e) => return Err(e),
    };
    if content.len() >= HEADER && !content.starts_with(KIND) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its file `undo` is damaged: restore the folder from a backup; or remove that file, and the last change, if it was refused, may be there",
        ));
    }
    Ok(decode(&content).unwrap_or_default())
}

/// Marks the file empty, once its rows are on disk in the database.
///
/// # Errors
/// The error of the disk.
pub(in crate::store) fn clear(folder: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(folder.join(NAME))?;
    file.write_all_at(&encode(&Rows::new()), 0)?;
    file.sync_data()
}

/// The file's content for these rows; without rows it is marked empty.
pub(in crate::store) fn encode(rows: &Rows) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    let mut put = |bytes: &[u8]| {
        out.extend((bytes.len() as u64).to_le_bytes());
        out.extend(bytes);
    };
    for (key, value) in rows {
        put(key);
        put(&[u8::from(value.is_some())]);
        put(value.as_deref().unwrap_or_default());
    }
    let (len, crc) = (out.len() - HEADER, crc32fast::hash(&out[HEADER..]));
    out[..8].copy_from_slice(KIND);
    out[8..16].copy_from_slice(&(len as u64).to_le_bytes());
    out[16..HEADER].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The rows of a complete record.
fn decode(content: &[u8]) -> Option<Rows> {
    fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (len, rest) = from.split_first_chunk::<8>()?;
        let (bytes, rest) = rest.split_at_checked(u64::from_le_bytes(*len).try_into().ok()?)?;
        *from = rest;
        Some(bytes)
    }
    let (len, rest) = content.strip_prefix(KIND)?.split_first_chunk::<8>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let mut payload = rest.get(..u64::from_le_bytes(*len).try_into().ok()?)?;
    if crc32fast::hash(payload) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut rows = Rows::new();
    while !payload.is_empty() {
        let key = take(&mut payload)?.to_vec();
        let is_there = take(&mut payload)? == [1];
        let value = take(&mut payload)?.to_vec();
        rows.insert(key, is_there.then_some(value));
    }
    Some(rows)
}
