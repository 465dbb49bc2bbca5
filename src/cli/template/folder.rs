//! The view of a folder that detection reads: names at its root, and small files.

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

/// Most bytes of a file that are read.
const MAX: u64 = 256 << 10;
/// Most folders and files that are looked at for a list of Dockerfiles.
const MAX_LOOKED: usize = 200;

pub(super) struct Files<'a> {
    root: &'a Path,
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
}

impl<'a> Files<'a> {
    pub(super) fn of(root: &'a Path) -> Result<Self, String> {
        let cannot =
            |e: std::io::Error| format!("the folder {} cannot be read: {e}", root.display());
        let (mut files, mut folders) = (BTreeSet::new(), BTreeSet::new());
        for entry in fs::read_dir(root).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if entry.path().is_dir() {
                folders.insert(name);
            } else {
                files.insert(name);
            }
        }
        Ok(Self {
            root,
            files,
            folders,
        })
    }

    pub(super) fn root(&self) -> &Path {
        self.root
    }

    /// Whether the root has this file.
    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains(name)
    }

    /// The first of these files that the root has.
    pub(super) fn first(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|name| self.has(name))
    }

    /// The files at the root that end so.
    pub(super) fn ending(&self, end: &str) -> impl Iterator<Item = &str> {
        let end = end.to_owned();
        let files = self.files.iter().map(String::as_str);
        files.filter(move |name| name.ends_with(&end))
    }

    /// The folders at the root, except hidden ones.
    pub(super) fn folders(&self) -> impl Iterator<Item = &str> {
        let all = self.folders.iter().map(String::as_str);
        all.filter(|name| !name.starts_with('.'))
    }

    /// Whether this path is a file.
    pub(super) fn is_file(&self, path: &str) -> bool {
        self.root.join(path).is_file()
    }

    /// The beginning of a text file, or nothing.
    pub(super) fn text(&self, path: &str) -> String {
        let mut bytes = Vec::new();
        if let Ok(file) = fs::File::open(self.root.join(path)) {
            // What cannot be read says nothing.
            let _ = file.take(MAX).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The names of the folders in a folder.
    pub(super) fn folders_in(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }

    /// Files below the root that look like Dockerfiles, a few of them.
    pub(super) fn dockerfiles(&self) -> Vec<String> {
        let below = self.folders().flat_map(|folder| {
            let entries = fs::read_dir(self.root.join(folder)).into_iter().flatten();
            let paths = entries.flatten().take(MAX_LOOKED).map(|e| e.path());
            paths.collect::<Vec<PathBuf>>()
        });
        let at_root = self.files.iter().map(|name| self.root.join(name));
        let named = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.contains("Dockerfile")
        };
        let shown = |path: PathBuf| {
            let path = path.strip_prefix(self.root).ok()?;
            Some(path.display().to_string())
        };
        at_root
            .chain(below)
            .take(MAX_LOOKED)
            .filter(named)
            .filter_map(shown)
            .take(3)
            .collect()
    }
}
