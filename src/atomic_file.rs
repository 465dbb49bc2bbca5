//! Writes files atomically and durably: after a crash a file is there whole or not at all.
//!
//! A temporary file in the same folder is written, synced and renamed, then the folder is synced.
//! Everything outside a database that has to survive a power cut is written here.

use std::{
    fs::{File, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use tempfile::NamedTempFile;

/// The mode of a file that everyone may read.
pub const READABLE: u32 = 0o644;

/// Writes a file that only its owner may read, replacing one that exists.
///
/// # Errors
/// The file system's; an existing file is then unchanged.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder(path)?;
    fresh(folder, bytes)?.persist(path).map_err(|e| e.error)?;
    sync(folder)
}

/// Writes a file that everyone may read from the start, replacing one that exists.
///
/// # Errors
/// The file system's; an existing file is then unchanged.
pub fn write_readable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder(path)?;
    let file = fresh(folder, bytes)?;
    let readable = Permissions::from_mode(READABLE);
    file.as_file().set_permissions(readable)?;
    file.persist(path).map_err(|e| e.error)?;
    sync(folder)
}

/// Writes a file that only its owner may read, unless one exists. Returns whether it wrote.
///
/// # Errors
/// The file system's.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let folder = folder(path)?;
    match fresh(folder, bytes)?.persist_noclobber(path) {
        Ok(_) => sync(folder).map(|()| true),
        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e.error),
    }
}

fn folder(path: &Path) -> io::Result<&Path> {
    path.parent()
        .ok_or_else(|| io::Error::other("the path has no folder"))
}

/// A temporary file has mode 0600 from the start.
fn fresh(folder: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_a_new_one_never_replaces() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        assert!(write_new(&path, b"one").expect("written"));
        assert!(!write_new(&path, b"two").expect("there already"));
        assert_eq!(fs::read(&path).expect("there"), b"one");
        write(&path, b"three").expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"three");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        write_readable(&path, b"four").expect("written");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, READABLE);
        assert_eq!(fs::read(&path).expect("there"), b"four");
        let left = fs::read_dir(dir.path()).expect("lists").count();
        assert_eq!(left, 1, "no temporary file stays");
        // A file that cannot get its name leaves the old one unchanged.
        fs::create_dir(dir.path().join("folder")).expect("made");
        assert!(write(&dir.path().join("folder"), b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 2);
    }
}
