//! A copy of the databases to read from: sled writes to whatever it opens, and a store that is
//! checked before a restore must stay unchanged. Body files are not copied: a link leads to them.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{FOLDER, Problem, Report, executions};

/// Folders whose files are only read.
const FILES: &str = "files";
/// Bodies that were still being received; no execution owns them.
const INCOMING: &str = "incoming";

/// The copy, removed on drop.
pub(super) struct Copy {
    dir: TempDir,
    from: PathBuf,
}

/// The files to copy, and their size in bytes.
#[derive(Default)]
struct Plan {
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
    links: Vec<PathBuf>,
    bytes: u64,
}

impl Copy {
    /// Copies the databases of a data directory to the system's folder for temporary files.
    ///
    /// # Errors
    /// The remedy when they cannot be copied.
    pub(super) fn of(data_dir: &Path) -> Result<Self, Problem> {
        let problem = |e: io::Error| Problem {
            path: data_dir.to_owned(),
            what: format!("the databases cannot be copied to be read: {e}"),
            remedy: format!(
                "give a folder with enough room in TMPDIR; it is {} now",
                std::env::temp_dir().display()
            ),
        };
        Self::make(data_dir).map_err(problem)
    }

    fn make(data_dir: &Path) -> io::Result<Self> {
        let from = data_dir.canonicalize()?;
        let mut plan = Plan::default();
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // A rewrite may have left folders beside the catalog.
            let is_catalog = name
                .strip_prefix(FOLDER)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            let is_executions = executions::folder(&from) == entry.path();
            if (is_catalog || is_executions) && entry.file_type()?.is_dir() {
                plan.add(PathBuf::from(name), &from)?;
            }
        }
        let dir = tempfile::Builder::new().prefix("ignite-store-").tempdir()?;
        let space = rustix::fs::statvfs(dir.path())?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < plan.bytes {
            return Err(io::Error::other(format!(
                "they take {} bytes, and {} has {free} bytes left",
                plan.bytes,
                dir.path().display()
            )));
        }
        for folder in &plan.folders {
            fs::create_dir(dir.path().join(folder))?;
        }
        for link in &plan.links {
            symlink(from.join(link), dir.path().join(link))?;
        }
        for file in &plan.files {
            // Shares the blocks where the file system can.
            let mut to = File::create(dir.path().join(file))?;
            io::copy(&mut File::open(from.join(file))?, &mut to)?;
        }
        Ok(Self { dir, from })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Replaces the paths of the copy in a report by those of the original.
    pub(super) fn restore_names(&self, report: &mut Report) {
        self.name_originals(&mut report.problems);
        for leftover in &mut report.leftovers {
            *leftover = self.original(leftover);
        }
        for database in &mut report.databases {
            database.path = self.original(&database.path.to_string_lossy()).into();
        }
    }

    /// As [`Copy::restore_names`], for problems alone.
    pub(super) fn name_originals(&self, problems: &mut [Problem]) {
        for problem in problems {
            problem.path = self.original(&problem.path.to_string_lossy()).into();
            problem.what = self.original(&problem.what);
            problem.remedy = self.original(&problem.remedy);
        }
    }

    fn original(&self, text: &str) -> String {
        let copied = self.dir.path().display().to_string();
        text.replace(&copied, &self.from.display().to_string())
    }
}

impl Plan {
    /// Adds a folder, by its path within the data directory.
    fn add(&mut self, folder: PathBuf, data_dir: &Path) -> io::Result<()> {
        self.folders.push(folder.clone());
        for entry in fs::read_dir(data_dir.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if !entry.file_type()?.is_dir() {
                self.bytes += entry.metadata()?.len();
                self.files.push(path);
            } else if entry.file_name() == FILES {
                self.links.push(path);
            } else if entry.file_name() != INCOMING {
                self.add(path, data_dir)?;
            }
        }
        Ok(())
    }
}
