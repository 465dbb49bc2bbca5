//! Code: each piece is a file beside the database.
//!
//! A file is written as `<id>.new`, under an id that is never used again, and synced; only then
//! does a record name it, and the file loses its `.new`. So a name shows what a crash cut short:
//! the next start removes a `.new` file, or completes its renaming if a record names it. A file
//! that a record named is removed once no record of its app names it. All other files stay, whether
//! a record names them or not: when the database is lost, they are all that is left.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::report::{Checked, Counts, Problem, Report};
use crate::model::{
    App, Blob, Failure, Reason,
    catalog::Catalog,
    code::{CODE_FOLDER, NEW_CODE},
    hex,
};

/// The folder in the data directory.
pub(super) const FOLDER: &str = CODE_FOLDER;

/// The suffix of a file that no record names yet.
const NEW: &str = NEW_CODE;

/// The code files of a data directory; clones share the folder.
#[derive(Debug, Clone)]
pub struct Blobs {
    folder: Arc<Path>,
}

/// A file that no record names yet; dropping it removes the file.
#[derive(Debug)]
pub struct NewBlob {
    blob: Blob,
    folder: Arc<Path>,
    kept: bool,
}

impl NewBlob {
    /// The blob, for a record to name.
    pub fn blob(&self) -> &Blob {
        &self.blob
    }

    /// Keeps the file, because a record names it from now on.
    pub fn keep(mut self) {
        self.kept = true;
        if let Err(error) = finalize_name(&self.folder, &self.blob.id) {
            // Readers find it under both names.
            tracing::warn!(%error, id = self.blob.id, "Saved code could not be renamed; the next start tries again");
        }
    }
}

impl Drop for NewBlob {
    fn drop(&mut self) {
        if !self.kept {
            // If this fails, the next start removes the file.
            let _ = fs::remove_file(fresh(&self.folder, &self.blob.id));
        }
    }
}

impl Blobs {
    /// Opens the files of a data directory and cleans up the saves that a crash cut short.
    ///
    /// # Errors
    /// When the folder cannot be created or read.
    pub fn open(data_dir: &Path, catalog: &Catalog) -> io::Result<Self> {
        let folder = data_dir.join(FOLDER);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let named: HashSet<&str> = catalog.iter().flat_map(|app| names(app)).collect();
        for entry in fs::read_dir(&folder)? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_suffix(NEW)) else {
                continue;
            };
            let outcome = if named.contains(id) {
                finalize_name(&folder, id)
            } else {
                fs::remove_file(fresh(&folder, id))
            };
            if let Err(error) = outcome {
                tracing::warn!(%error, id, "Code whose saving a crash cut short could not be cleaned up; the next start tries again");
            }
        }
        Ok(Self {
            folder: folder.into(),
        })
    }

    /// Saves code, which is on disk when this returns.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn put(&self, bytes: Bytes) -> Result<NewBlob, Failure> {
        let id = ulid::Ulid::generate().to_string();
        let folder = self.folder.clone();
        in_the_background(move || {
            let new = NewBlob {
                blob: Blob {
                    id,
                    len: bytes.len() as u64,
                    sha256: hex::encode(&Sha256::digest(&bytes)),
                },
                folder: folder.clone(),
                kept: false,
            };
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(fresh(&folder, &new.blob.id))?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            // The folder's entry must survive a power cut too.
            File::open(&folder)?.sync_all()?;
            Ok(new)
        })
        .await
        .map_err(|e| {
            unavailable(format!(
                "the code was not saved ({e}); free disk space on the data directory's volume and save again"
            ))
        })
    }

    /// Reads code and checks its digest.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE when the file is missing, unreadable or changed.
    pub async fn get(&self, blob: &Blob) -> Result<Bytes, Failure> {
        let folder = self.folder.clone();
        let wanted = blob.clone();
        let at = folder.join(&blob.id).display().to_string();
        in_the_background(move || {
            let bytes = read(&folder, &wanted.id)?;
            if hex::encode(&Sha256::digest(&bytes)) == wanted.sha256 {
                Ok(Bytes::from(bytes))
            } else {
                Err(io::Error::other("its content is not what was saved"))
            }
        })
        .await
        .map_err(|e| {
            unavailable(format!(
                "the code cannot be read from {at} ({e}); restore the file from a backup, or save the code again"
            ))
        })
    }

    /// Removes the files that `before` named and `after` does not. Both are the same app, earlier
    /// and now; `after` is `None` when it is deleted.
    pub async fn collect(&self, before: &App, after: Option<&App>) {
        let kept: HashSet<&str> = after.into_iter().flat_map(names).collect();
        let gone: Vec<PathBuf> = names(before)
            .filter(|name| !kept.contains(name))
            .map(|name| self.folder.join(name))
            .collect();
        let removed = in_the_background(move || {
            for path in gone {
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            Ok(())
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, app = %before.id, "Code that nothing names any more could not be removed; `ignite store check` lists it");
        }
    }
}

/// The path of code that no record names yet.
fn fresh(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}{NEW}"))
}

/// Renames new code to its final name, once a record names it.
fn finalize_name(folder: &Path, id: &str) -> io::Result<()> {
    fs::rename(fresh(folder, id), folder.join(id))
}

/// Reads a file, even if a record names it and it still has the name of a new one.
fn read(folder: &Path, id: &str) -> io::Result<Vec<u8>> {
    let settled = folder.join(id);
    // It may be renamed between the first read and the second.
    for path in [&settled, &fresh(folder, id)] {
        match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            outcome => return outcome,
        }
    }
    fs::read(settled)
}

/// The files that an app's draft and versions name.
fn named(app: &App) -> impl Iterator<Item = &Blob> {
    let draft = app.draft.iter().map(|d| &d.source);
    let versions = app.versions.iter().map(|v| &v.source);
    let overlays = app.versions.iter().filter_map(|v| v.overlay.as_ref());
    draft
        .chain(versions)
        .filter_map(|source| source.bytes())
        .chain(overlays.map(|overlay| &overlay.files))
}

/// The ids of the files that an app's draft and versions name.
pub(super) fn names(app: &App) -> impl Iterator<Item = &str> {
    named(app).map(|blob| blob.id.as_str())
}

/// Reads every file that a record names, and reports the files that no record names.
pub(super) fn check(data_dir: &Path, catalog: &Catalog, report: &mut Report) {
    let folder = data_dir.join(FOLDER);
    let mut named = HashSet::new();
    let mut rows = Counts(vec![("files", 0)]);
    for app in catalog.iter() {
        for blob in self::named(app) {
            // A version and the draft it was published from share a file.
            if !named.insert(blob.id.clone()) {
                continue;
            }
            let path = folder.join(&blob.id);
            let what = match read(&folder, &blob.id) {
                Ok(bytes) if hex::encode(&Sha256::digest(&bytes)) == blob.sha256 => {
                    rows.add("files");
                    continue;
                }
                Ok(_) => "its content is not what was saved".to_owned(),
                Err(e) => e.to_string(),
            };
            report.problems.push(Problem {
                path,
                what: format!("code of app {}: {what}", app.id),
                remedy: "what is published runs on; restore the file from a backup, or save the code again".to_owned(),
            });
        }
    }
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !named.contains(name.strip_suffix(NEW).unwrap_or(&name)) {
            let path = entry.path();
            report
                .leftovers
                .push(format!("{}: code that nothing names", path.display()));
        }
    }
    if folder.is_dir() {
        report.databases.push(Checked {
            name: "code".to_owned(),
            path: folder,
            rows,
        });
    }
}

async fn in_the_background<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the work on files panicked")))
}

fn unavailable(message: String) -> Failure {
    Failure::new(Reason::StoreUnavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::catalog::Change, store::tests::full_app};

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir.join(FOLDER))
            .expect("a folder")
            .map(|e| {
                e.expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .collect();
        names.sort_unstable();
        names
    }

    #[tokio::test]
    async fn code_is_kept_while_something_names_it_and_not_longer() {
        let dir = tempfile::tempdir().expect("a directory");
        let blobs = Blobs::open(dir.path(), &Catalog::default()).expect("opens");
        let new = blobs.put(Bytes::from_static(b"code")).await.expect("saved");
        let blob = new.blob().clone();
        assert_eq!(blobs.get(&blob).await.expect("there"), "code");
        drop(new);
        assert!(files(dir.path()).is_empty(), "nothing came to name it");

        let new = blobs.put(Bytes::from_static(b"code")).await.expect("saved");
        let blob = new.blob().clone();
        assert_eq!(files(dir.path()), [format!("{}{NEW}", blob.id)]);
        new.keep();
        assert_eq!(files(dir.path()), [blob.id.as_str()]);
        let mut app = full_app("o/a");
        let draft = app.draft.take().expect("a draft");
        let source = draft.source.try_map(|_| Ok::<_, ()>(blob.clone()));
        app.draft = Some(crate::model::Draft {
            source: source.expect("mapped"),
            ..draft
        });
        let mut catalog = Catalog::default();
        catalog.apply(&Change::Put(Arc::new(app.clone())));
        // A crash between record and renaming, and one in the middle of a save.
        let folder = dir.path().join(FOLDER);
        fs::rename(folder.join(&blob.id), fresh(&folder, &blob.id)).expect("renamed");
        assert_eq!(blobs.get(&blob).await.expect("there"), "code");
        fs::write(fresh(&folder, "left"), "x").expect("written");
        let blobs = Blobs::open(dir.path(), &catalog).expect("opens");
        assert_eq!(files(dir.path()), [blob.id.as_str()]);
        // A start with an empty catalog: the code stays until the catalog is restored.
        Blobs::open(dir.path(), &Catalog::default()).expect("opens");
        assert_eq!(blobs.get(&blob).await.expect("still there"), "code");

        fs::write(dir.path().join(FOLDER).join(&blob.id), "cole").expect("written");
        let damaged = blobs.get(&blob).await.expect_err("damaged");
        assert_eq!(damaged.reason, Reason::StoreUnavailable);
        blobs.collect(&app, Some(&app)).await;
        assert_eq!(files(dir.path()).len(), 1);
        blobs.collect(&app, None).await;
        assert!(files(dir.path()).is_empty());
    }
}
