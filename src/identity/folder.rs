//! The folder of keys and accounts below the data directory, as every process on it sees it.
//!
//! The command line changes files here while a server runs, so each file is replaced whole, and
//! a process that changes one holds the folder's lock, which the kernel releases when a process dies.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown},
    path::{Path, PathBuf},
};

use crate::atomic_file;

/// Nothing here is larger than what it can sensibly hold.
const MAX_BYTES: u64 = 16 << 20;

/// The folder's path.
pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("identity")
}

/// Makes a folder that only its owner may enter, with those above it.
pub(super) fn create(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// The right to change the folder's files, until it is dropped.
pub(super) struct Lock(#[allow(dead_code, reason = "held for its lock")] File);

/// Waits for the folder's lock; makes the folder where there is none.
pub(super) fn lock(data_dir: &Path) -> io::Result<Lock> {
    let folder = path(data_dir);
    create(&folder)?;
    let path = folder.join("lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)?;
    give_to_owner(&path)?;
    file.lock()?;
    Ok(Lock(file))
}

/// Writes a file of the folder whole and durably, in folders that exist or are made.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent()
        && !folder.exists()
    {
        create(folder)?;
        give_to_owner(folder)?;
    }
    atomic_file::write(path, bytes)?;
    give_to_owner(path)
}

/// Reads a file; `None` where there is none.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    use io::Read as _;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is over 16 MiB"));
    }
    Ok(Some(bytes))
}

/// Remembers the audience that the server of this folder demands, for the command line.
pub(super) fn remember_audience(data_dir: &Path, audience: Option<&str>) -> io::Result<()> {
    let path = path(data_dir).join("audience");
    let known = read(&path)?;
    match audience {
        Some(audience) if known.as_deref() != Some(audience.as_bytes()) => {
            write(&path, audience.as_bytes())
        }
        None if known.is_some() => fs::remove_file(&path),
        _ => Ok(()),
    }
}

/// The audience that tokens need which are made for the server of this folder, if any.
pub fn audience(data_dir: &Path) -> Option<String> {
    let known = read(&path(data_dir).join("audience")).ok()??;
    String::from_utf8(known).ok()
}

/// Root may run the command line for a server of another user, which has to read what it wrote.
fn give_to_owner(path: &Path) -> io::Result<()> {
    if rustix::process::geteuid().is_root()
        && let Some(folder) = path.parent()
    {
        let owner = fs::metadata(folder)?;
        chown(path, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

/// What the folder's files are, without their content: path, inode, time of the last change, length.
pub(super) type Fingerprint = Vec<(PathBuf, u64, i64, u64)>;

/// The folder's fingerprint, which differs once a file was replaced, added or removed.
pub(super) fn fingerprint(data_dir: &Path) -> Fingerprint {
    let mut all = Vec::new();
    for folder in [path(data_dir), path(data_dir).join("verify")] {
        let Ok(entries) = fs::read_dir(folder) else {
            continue;
        };
        for entry in entries.flatten() {
            if let Ok(meta) = entry.metadata()
                && meta.is_file()
            {
                // Also of a file that was given to another owner.
                let changed = meta.ctime().wrapping_mul(1_000_000_000) + meta.ctime_nsec();
                all.push((entry.path(), meta.ino(), changed, meta.len()));
            }
        }
    }
    all.sort();
    all
}
