//! The data directory: made, locked, and cleaned when it was for one run only.
//!
//! | file | what |
//! |---|---|
//! | `lock` | held while an `ignite` serves, or works on the store; has its pid |
//! | `instance` | the id in the labels of this directory's containers |
//! | `identity/`, `store/` | the signing key; the database |
//! | `serve.json` | where this `ignite` listens, for the client on this machine |
//! | `replicas-kept` | the last stop left containers running on purpose |
//! | `ephemeral` | this directory may be wiped: it was made for one run |

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{
    config::{Config, Serving},
    model::InstanceId,
};

const LOCK: &str = "lock";
const INSTANCE: &str = "instance";
const KEPT: &str = "replicas-kept";
const EPHEMERAL: &str = "ephemeral";

/// How often, and how long apart, the holder of the lock is looked for: it writes its pid within
/// microseconds of taking it.
const HOLDER_LOOKS: u32 = 10;
const HOLDER_WAIT: Duration = Duration::from_millis(5);

/// A data directory that belongs to this process.
pub(super) struct DataDir {
    path: PathBuf,
    instance: InstanceId,
    /// The lock goes with the file.
    _lock: File,
    /// A directory that was made for this run goes with it, also when the start fails.
    _made: Option<TempDir>,
}

impl DataDir {
    /// Makes the directory if need be and locks it. An ephemeral run whose directory was not
    /// chosen gets one of its own.
    pub(super) fn lock(config: &Config) -> Result<Self> {
        let made = match config.ephemeral && config.data_dir_is_default() {
            true => Some(
                tempfile::Builder::new()
                    .prefix("ignite-")
                    .tempdir()
                    .context("a directory for --ephemeral")?,
            ),
            false => None,
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
        let lock = take(&path)?;
        let marker = path.join(EPHEMERAL);
        match config.ephemeral {
            true => prepare_ephemeral(&path)?,
            // What is written from here on is to stay, though a run that was killed made the directory.
            false => remove_if_there(&marker)
                .with_context(|| format!("data_dir: cannot remove {}", marker.display()))?,
        }
        let instance = instance(&path)?;
        Ok(Self {
            path,
            instance,
            _lock: lock,
            _made: made,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// Tells clients on this machine where to go.
    pub(super) fn announce(
        &self,
        http: SocketAddr,
        grpc: SocketAddr,
        config: &Config,
    ) -> Result<()> {
        Serving::new(http, grpc, &config.default_org)
            .write(&self.path)
            .context("cannot write serve.json")
    }

    /// Remembers whether containers were left on purpose, which `ignite prune` then spares.
    pub(super) fn mark_kept(&self, kept: bool) {
        let marker = self.path.join(KEPT);
        let outcome = match kept {
            true => fs::write(&marker, ""),
            false => remove_if_there(&marker),
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "{} could not be changed", marker.display());
        }
    }

    /// Takes back the announcement, and everything when it was for one run only.
    pub(super) fn close(&self, config: &Config) {
        let outcome = match config.ephemeral {
            true => fs::remove_dir_all(&self.path),
            false => Serving::remove(&self.path),
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "{} could not be cleaned", self.path.display());
        }
    }
}

/// Whether an `ignite` serves from the data directory of an instance now. Another instance that
/// was started there since is none of its.
pub(super) fn in_use(data_dir: &Path, instance: &str) -> bool {
    may_be_of(data_dir, instance)
        && match File::open(data_dir.join(LOCK)) {
            Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
            // What another user keeps from being read may be held all the same.
            Err(e) => !is_gone(&e),
        }
}

/// Whether a data directory is still that of an instance and not for one run only, or is in use.
pub(super) fn can_serve(data_dir: &Path, instance: &str) -> bool {
    may_be_of(data_dir, instance) && (in_use(data_dir, instance) || !is_ephemeral(data_dir))
}

/// Whether the last stop of an instance left containers on purpose.
pub(super) fn kept(data_dir: &Path, instance: &str) -> bool {
    may_be_of(data_dir, instance) && data_dir.join(KEPT).try_exists().unwrap_or(true)
}

/// Whether a data directory is no more that of an instance, or was for one run only.
pub(super) fn is_forgotten(data_dir: &Path, instance: &str) -> bool {
    !may_be_of(data_dir, instance) || is_ephemeral(data_dir)
}

/// Whether a data directory is that of an instance, as far as it can be read.
fn may_be_of(data_dir: &Path, instance: &str) -> bool {
    match fs::read_to_string(data_dir.join(INSTANCE)) {
        Ok(text) => text.trim() == instance,
        Err(e) => !is_gone(&e),
    }
}

fn is_ephemeral(data_dir: &Path) -> bool {
    data_dir.join(EPHEMERAL).exists()
}

/// Whether an error says that there is no such file, and not that it is out of sight.
fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

/// Keeps every other `ignite` out of a data directory that is there, for as long as the file lives.
pub(super) fn hold(data_dir: &Path) -> Result<File> {
    take(data_dir)
}

fn take(path: &Path) -> Result<File> {
    let name = path.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .with_context(|| format!("data_dir: cannot open {}", name.display()))?;
    match file.try_lock() {
        Ok(()) => {}
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
            return Err(e).with_context(|| format!("data_dir: cannot lock {}", name.display()));
        }
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// The pid in a lock file that is held. One who has only just taken it may not have written yet.
fn holder(file: &mut File) -> String {
    let mut pid = String::new();
    for _ in 0..HOLDER_LOOKS {
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
        if entry.file_name() == INSTANCE || entry.file_name() == EPHEMERAL {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::write(path.join(EPHEMERAL), "")?;
    Ok(())
}

fn instance(path: &Path) -> Result<InstanceId> {
    let name = path.join(INSTANCE);
    match fs::read_to_string(&name) {
        Ok(text) => text.trim().parse().with_context(|| {
            format!(
                "{} is damaged; remove it and run `ignite prune`",
                name.display()
            )
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let id = InstanceId::from_random(ulid::Ulid::generate().random() as u64);
            fs::write(&name, format!("{id}\n"))
                .with_context(|| format!("cannot write {}", name.display()))?;
            Ok(id)
        }
        Err(e) => Err(e).with_context(|| format!("cannot read {}", name.display())),
    }
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{default_data_dir, process_env};

    fn config(path: &Path) -> Config {
        Config::defaults(path.to_owned())
    }

    #[test]
    fn a_second_process_is_refused_with_the_pid_of_the_first() {
        let dir = tempfile::tempdir().expect("temp dir");
        let first = DataDir::lock(&config(dir.path())).expect("free");
        let error = DataDir::lock(&config(dir.path()))
            .err()
            .expect("taken")
            .to_string();
        assert!(
            error.contains(&std::process::id().to_string()) && error.contains("--data-dir"),
            "{error}"
        );
        let id = first.instance().clone();
        assert!(in_use(dir.path(), id.as_str()));
        assert!(
            !in_use(dir.path(), "another"),
            "an instance that was there before is gone"
        );
        drop(first);
        assert!(!in_use(dir.path(), id.as_str()));
        assert_eq!(
            *DataDir::lock(&config(dir.path()))
                .expect("free again")
                .instance(),
            id
        );
    }

    #[test]
    fn an_ephemeral_run_never_wipes_what_it_did_not_make() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("thesis.tex"), "x").expect("writes");
        let ephemeral = Config {
            ephemeral: true,
            ..config(dir.path())
        };
        let error = DataDir::lock(&ephemeral)
            .err()
            .expect("refused")
            .to_string();
        assert!(error.contains("not empty"), "{error}");
        assert!(dir.path().join("thesis.tex").exists());

        let own = dir.path().join("own");
        let ephemeral = Config {
            ephemeral: true,
            ..config(&own)
        };
        // Left as by a kill: the next run takes it over, with the same instance.
        let id = DataDir::lock(&ephemeral).expect("fresh").instance().clone();
        fs::create_dir(own.join("store")).expect("makes");
        let again = DataDir::lock(&ephemeral).expect("marked");
        assert_eq!(*again.instance(), id);
        assert!(!own.join("store").exists());
        again.close(&ephemeral);
        assert!(!own.exists());
    }

    #[test]
    fn what_is_served_for_longer_is_ephemeral_no_more() {
        let dir = tempfile::tempdir().expect("temp dir");
        let ephemeral = Config {
            ephemeral: true,
            ..config(dir.path())
        };
        // Left as by a kill.
        let id = DataDir::lock(&ephemeral).expect("fresh").instance().clone();
        assert!(is_forgotten(dir.path(), id.as_str()));
        let lasting = DataDir::lock(&config(dir.path())).expect("taken over");
        assert_eq!(*lasting.instance(), id);
        drop(lasting);
        assert!(!is_forgotten(dir.path(), id.as_str()));
        assert!(can_serve(dir.path(), id.as_str()));
        assert!(DataDir::lock(&ephemeral).is_err(), "it is not to be wiped");
    }

    #[test]
    fn a_directory_made_for_one_run_goes_when_the_start_fails() {
        let ephemeral = Config {
            ephemeral: true,
            ..config(&default_data_dir(&process_env).expect("a home"))
        };
        let data = DataDir::lock(&ephemeral).expect("made");
        let path = data.path().to_owned();
        assert!(path.join(INSTANCE).exists());
        drop(data);
        assert!(!path.exists());
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_gone() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert!(!in_use(dir.path(), "a") && !kept(dir.path(), "a"));
        assert!(is_forgotten(dir.path(), "a") && !can_serve(dir.path(), "a"));
        // As unreadable as another user's, also for root.
        for name in [INSTANCE, LOCK, KEPT] {
            std::os::unix::fs::symlink(name, dir.path().join(name)).expect("links");
        }
        assert!(in_use(dir.path(), "a") && kept(dir.path(), "a"));
        assert!(!is_forgotten(dir.path(), "a") && can_serve(dir.path(), "a"));
    }
}
