//! The data directory: makes and locks it, and removes it after an ephemeral run.
//!
//! | file | what |
//! |---|---|
//! | `lock` | held while an `ignite` serves, or works on the store; has its pid |
//! | `instance` | the id in the labels of this directory's containers; a copy is in `store/` |
//! | `holder` | the last process that served from here, and where the directory was then |
//! | `identity/`, `store/` | the signing key; the database |
//! | `tls/`, `certificates/` | the local certificate authority; what containers see of it |
//! | `serve.json` | where this `ignite` listens, for the client on this machine |
//! | `replicas-kept` | the last stop left containers running on purpose |
//! | `ephemeral` | this directory may be wiped: it was made for one run |

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{Read, Seek, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt as _, OpenOptionsExt, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::geteuid;
use tempfile::TempDir;

use self::identity::{HOLDER, INSTANCE};
pub(super) use self::identity::{instance_of, refusal};
use super::machine;
use crate::{
    atomic_file,
    config::{Config, LocalTls, Serving},
    model::{
        InstanceId,
        instance_lease::{Directory, Holder, Record},
    },
};

mod identity;
#[cfg(test)]
mod tests;

const LOCK: &str = "lock";
const KEPT: &str = "replicas-kept";
const EPHEMERAL: &str = "ephemeral";

/// How often, and how long apart, the pid of the lock's holder is read: the holder writes it within
/// microseconds of taking the lock.
const HOLDER_READS: u32 = 10;
const HOLDER_WAIT: Duration = Duration::from_millis(5);

/// A data directory that belongs to this process.
pub(super) struct DataDir {
    path: PathBuf,
    instance: InstanceId,
    /// This process, as others identify it.
    holder: Holder,
    /// The token of this run's lease.
    token: String,
    /// The previous run, as the directory recorded it.
    record: Option<Record>,
    _lock: Lock,
    /// A directory that was made for this run; removed when dropped, also when the start fails.
    _made: Option<TempDir>,
}

impl DataDir {
    /// Makes the directory if need be, locks it, and finds its identity. An ephemeral run gets a
    /// temporary directory unless one is configured. A copy of a directory that still exists is
    /// refused, or gets a new identity with `new_instance`.
    pub(super) async fn lock(config: &Config) -> Result<Self> {
        let made = if config.ephemeral && config.data_dir_is_default() {
            Some(
                tempfile::Builder::new()
                    .prefix("ignite-")
                    .tempdir()
                    .context("a directory for --ephemeral")?,
            )
        } else {
            None
        };
        let path = match &made {
            Some(made) => made.path().to_owned(),
            None => config.data_dir.clone(),
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("data_dir: cannot make {}", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("data_dir: {}", path.display()))?;
        if !config.ephemeral {
            keep_others_out(&path)?;
        }
        let lock = take(&path)?;
        let marker = path.join(EPHEMERAL);
        if config.ephemeral {
            prepare_ephemeral(&path)?;
            keep_others_out(&path)?;
        } else {
            remove_if_there(&marker)
                .with_context(|| format!("data_dir: cannot remove {}", marker.display()))?
        }
        let holder = machine::here(&path)
            .with_context(|| format!("data_dir: cannot inspect {}", path.display()))?;
        let found = identity::find(&path, &holder, config).await?;
        Ok(Self {
            instance: found.instance,
            record: found.record,
            token: identity::token(),
            path,
            holder,
            _lock: lock,
            _made: made,
        })
    }

    /// This process, as others identify it.
    pub(super) fn holder(&self) -> &Holder {
        &self.holder
    }

    /// The token of this run's lease.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// The previous run, as the directory recorded it.
    pub(super) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// Returns a function that records this run, to call once it has claimed the identity.
    pub(super) fn recorder(&self) -> impl FnOnce() -> std::io::Result<()> + Send + 'static {
        let record = Record {
            instance: self.instance.to_string(),
            token: self.token.clone(),
            holder: self.holder.clone(),
        };
        let path = self.path.clone();
        move || identity::remember(&path, &record)
    }

    /// Writes a copy of the identity beside the store, once that exists.
    pub(super) fn back_identity_up(&self) {
        if let Err(error) = identity::copy(&self.path, &self.instance) {
            tracing::warn!(%error, "The copy of the file instance in the store's folder could not be written");
        }
    }

    /// Gives the directory a new identity, for the next start.
    pub(super) fn renew(&self) -> Result<InstanceId> {
        identity::renew(&self.path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// Writes the listeners' addresses for clients on this machine.
    pub(super) fn announce(
        &self,
        http: SocketAddr,
        grpc: SocketAddr,
        tls: Option<LocalTls>,
        engine: String,
        config: &Config,
    ) -> Result<()> {
        let mut serving = Serving::new(http, grpc, &config.default_org, tls);
        serving.engine = Some(engine);
        serving.write(&self.path).context("cannot write serve.json")
    }

    /// Records whether containers are left on purpose, which `ignite prune` then spares.
    pub(super) fn mark_kept(&self, kept: bool) {
        let marker = self.path.join(KEPT);
        let outcome = if kept {
            atomic_file::write(&marker, b"")
        } else {
            remove_if_there(&marker)
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "{} could not be changed", marker.display());
        }
    }

    /// Removes the announcement, and after an ephemeral run the whole directory.
    pub(super) fn close(&self, config: &Config) {
        let outcome = if config.ephemeral {
            fs::remove_dir_all(&self.path)
        } else {
            Serving::remove(&self.path)
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "{} could not be cleaned", self.path.display());
        }
    }
}

/// Inspects the data directory of an instance at its last known path. `holder` is the process that
/// served from it; without one, only a directory that recorded this boot, or one of an older
/// `ignite` beside an engine that `is_local`, counts as the very one.
pub(super) fn inspect(
    data_dir: &Path,
    instance: &str,
    holder: Option<&Holder>,
    is_local: bool,
) -> Directory {
    let is_its = fs::read_to_string(data_dir.join(INSTANCE)).is_ok_and(|t| t.trim() == instance);
    let Ok(here) = machine::here(data_dir) else {
        return Directory::Unknown;
    };
    if !is_its || here.boot.is_empty() {
        return Directory::Unknown;
    }
    let lock = match File::open(data_dir.join(LOCK)) {
        Ok(file) => {
            let looked = file.try_lock_shared();
            drop(Lock(file));
            looked
        }
        Err(_) => return Directory::Unknown,
    };
    let remembered = identity::recall(data_dir);
    let known = holder.or_else(|| remembered.as_ref().map(|r| &r.holder));
    let is_the_one = match known {
        Some(holder) => holder.boot == here.boot && holder.same_directory(&here),
        None => is_local,
    };
    match lock {
        Err(TryLockError::WouldBlock) => Directory::Held,
        Ok(()) if is_the_one => Directory::Free,
        Ok(()) | Err(TryLockError::Error(_)) => Directory::Unknown,
    }
}

/// Whether a server or a command on the store has a data directory locked.
pub(super) fn is_in_use(data_dir: &Path) -> bool {
    let Ok(file) = File::open(data_dir.join(LOCK)) else {
        return false;
    };
    let held = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    drop(Lock(file));
    held
}

/// Whether the last stop of an instance left containers on purpose.
pub(super) fn kept(data_dir: &Path) -> bool {
    data_dir.join(KEPT).try_exists().unwrap_or(true)
}

/// Whether a directory was made for an ephemeral run.
pub(super) fn is_ephemeral(data_dir: &Path) -> bool {
    data_dir.join(EPHEMERAL).exists()
}

/// Makes sure that only its owner can access the directory: a user who can write to it could
/// replace the keys, and the requests stored in it are private.
///
/// Sets the mode of a directory that is this program's, or empty; refuses any other that is open.
fn keep_others_out(path: &Path) -> Result<()> {
    let shown = path.display();
    let of = fs::metadata(path).with_context(|| format!("data_dir: {shown}"))?;
    let (mode, owner, me) = (of.mode() & 0o777, of.uid(), geteuid().as_raw());
    if owner != me {
        bail!(
            "data_dir: {shown} belongs to user {owner}, who could replace the keys in it, and this is user {me}; run ignite as its owner, or `chown {me} {shown}`"
        );
    }
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let is_ours = |name: &OsStr| [LOCK, INSTANCE, HOLDER].iter().any(|ours| name == *ours);
    let (mut any, mut ours) = (false, false);
    for entry in fs::read_dir(path).with_context(|| format!("data_dir: {shown}"))? {
        any = true;
        ours |= is_ours(&entry?.file_name());
    }
    if any && !ours {
        bail!(
            "data_dir: {shown} has mode {mode:03o}, so other users can access its content, and it holds other files; name a separate directory, or run `chmod 700 {shown}`"
        );
    }
    fs::set_permissions(path, Permissions::from_mode(0o700))
        .with_context(|| format!("data_dir: cannot set the mode of {shown} to 700"))?;
    tracing::info!(data_dir = %shown, before = format!("{mode:03o}"), "Other users could access the data directory; it has mode 700 now");
    Ok(())
}

/// The lock that keeps every other `ignite` out of a data directory, until dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that another thread has just forked holds
        // the descriptor until its `exec`.
        let _ = self.0.unlock();
    }
}

/// Locks a data directory that exists.
pub(super) fn hold(data_dir: &Path) -> Result<Lock> {
    take(data_dir)
}

/// As [`hold`], without writing to the directory. One without a lock file was never served from, or
/// is a backup; `None` then.
pub(super) fn hold_unchanged(data_dir: &Path) -> Result<Option<Lock>> {
    let name = data_dir.join(LOCK);
    let file = match File::open(&name) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => {
            return Err(e).with_context(|| format!("data_dir: cannot open {}", name.display()));
        }
    };
    lock(file, data_dir).map(Some)
}

fn take(path: &Path) -> Result<Lock> {
    let name = path.join(LOCK);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .with_context(|| format!("data_dir: cannot open {}", name.display()))?;
    let mut lock = lock(file, path)?;
    lock.0.set_len(0)?;
    lock.0.rewind()?;
    writeln!(lock.0, "{}", std::process::id())?;
    Ok(lock)
}

fn lock(mut file: File, path: &Path) -> Result<Lock> {
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => {
            let pid = holder(&mut file);
            let who = if pid.trim().is_empty() {
                "another ignite process".to_owned()
            } else {
                format!("the ignite process {}", pid.trim())
            };
            bail!(
                "the data directory {} is in use by {who}; stop it, or give another --data-dir",
                path.display()
            );
        }
        Err(TryLockError::Error(e)) => {
            let name = path.join(LOCK);
            Err(e).with_context(|| format!("data_dir: cannot lock {}", name.display()))
        }
    }
}

/// The pid in a lock file that is held. A process that has only just locked it may not have written
/// it yet.
fn holder(file: &mut File) -> String {
    let mut pid = String::new();
    for _ in 0..HOLDER_READS {
        // What cannot be read stays empty; the refusal is the same without the number.
        let _ = file.rewind().and_then(|()| file.read_to_string(&mut pid));
        if !pid.trim().is_empty() {
            break;
        }
        std::thread::sleep(HOLDER_WAIT);
    }
    pid
}

/// An ephemeral run wipes its directory at the end, so it takes only an empty one, or one that
/// such a run has left.
fn prepare_ephemeral(path: &Path) -> Result<()> {
    let marked = path.join(EPHEMERAL).exists();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        if !marked {
            bail!(
                "--ephemeral removes its data directory at the end, and {} is not empty; give an empty one, or none",
                path.display()
            );
        }
        // The containers of a run that was killed are found by its id.
        if [INSTANCE, HOLDER, EPHEMERAL]
            .iter()
            .any(|name| entry.file_name() == *name)
        {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?
        } else {
            fs::remove_file(entry.path())?
        }
    }
    atomic_file::write(&path.join(EPHEMERAL), b"")?;
    Ok(())
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
