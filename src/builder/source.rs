//! A checked tree of source files: it has its own folder, and no link in it leads out.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{
    entries::{Entries, Entry},
    limits::{Limits, TreeCounts, check_target},
};
use crate::model::work::{Cancelled, check_cancelled};

/// Source files in a folder that is removed when this value is dropped.
#[derive(Debug)]
pub struct Source {
    root: TempDir,
    /// The tree's path below the folder; empty for the folder itself.
    below: PathBuf,
    entries: Entries,
}

/// How many links are followed in a row, as in the kernel.
const MAX_LINKS: usize = 40;

impl Source {
    /// A tree that was written into `root` entry by entry.
    pub(super) fn written(root: TempDir, entries: Entries) -> Self {
        Self {
            root,
            below: PathBuf::new(),
            entries,
        }
    }

    /// A tree of one file.
    ///
    /// # Errors
    /// The disk's error.
    pub(super) fn of_file(root: TempDir, name: &str, content: &[u8]) -> io::Result<Self> {
        let path = root.path().join(name);
        // The name may have folders, such as `src/main.rs`.
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)?;
        let file = Entry::File {
            len: content.len() as u64,
            executable: false,
        };
        Ok(Self::written(root, [(name.to_owned(), file)].into()))
    }

    /// The tree in a folder below `root`, without anything named `.git`.
    ///
    /// # Errors
    /// A sentence, when the tree is over a limit, has something other than files, folders and links
    /// within it, or the scan was cancelled.
    pub(super) fn scan(
        root: TempDir,
        below: &Path,
        limits: Limits,
        cancelled: Cancelled<'_>,
    ) -> Result<Self, String> {
        let mut walk = Walk {
            limits,
            tally: TreeCounts::new(limits),
            entries: Entries::new(),
            cancelled,
        };
        walk.folder(&root.path().join(below), "")?;
        let entries = walk.entries;
        check_links(&entries, limits, cancelled)?;
        Ok(Self {
            root,
            below: below.to_owned(),
            entries,
        })
    }

    /// The entries of the tree.
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Whether there is a file at this path.
    pub fn has_file(&self, path: &str) -> bool {
        matches!(self.entries.get(path), Some(Entry::File { .. }))
    }

    /// The path of an entry on disk. Links of the tree may be on the way: they stay within.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(&self.below).join(path)
    }

    /// The content of a file; `None` when there is none, or it is over `most` bytes.
    pub fn read(&self, path: &str, most: u64) -> Option<Vec<u8>> {
        if !self.has_file(path) {
            return None;
        }
        let content = self.begin(path, most + 1).ok()?;
        (content.len() as u64 <= most).then_some(content)
    }

    /// The content of a file, if it exists.
    ///
    /// # Errors
    /// A sentence, when the file is over `most` bytes or cannot be read.
    pub(super) fn bounded(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>, String> {
        if !self.has_file(path) {
            return Ok(None);
        }
        let content = self.begin(path, most + 1)?;
        check_len(path, &content, most)?;
        Ok(Some(content))
    }

    /// At most the first `most` bytes of a file.
    pub(super) fn begin(&self, path: &str, most: u64) -> Result<Vec<u8>, String> {
        let mut content = Vec::new();
        let file = File::open(self.path(path));
        let read = file.and_then(|file| file.take(most).read_to_end(&mut content));
        read.map_err(|e| format!("{path:?} cannot be read: {e}"))?;
        Ok(content)
    }
}

/// Refuses a file of which more than `most` bytes were read.
pub(super) fn check_len(path: &str, content: &[u8], most: u64) -> Result<(), String> {
    if content.len() as u64 > most {
        Err(format!("{path} is over {most} bytes long"))
    } else {
        Ok(())
    }
}

/// A walk through a tree on disk, no deeper than the limits allow a path to be.
struct Walk<'a> {
    limits: Limits,
    tally: TreeCounts,
    entries: Entries,
    cancelled: Cancelled<'a>,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path, prefix: &str) -> Result<(), String> {
        let read = |e: io::Error| format!("{prefix:?} cannot be read: {e}");
        for entry in fs::read_dir(folder).map_err(read)? {
            check_cancelled(self.cancelled)?;
            let entry = entry.map_err(read)?;
            let name = entry.file_name();
            if name == ".git" {
                continue;
            }
            let name = name
                .to_str()
                .ok_or_else(|| format!("{name:?} in {prefix:?} is not UTF-8; rename it"))?;
            let path = join(prefix, name);
            self.limits.check_path(&path)?;
            let meta = entry.path().symlink_metadata().map_err(read)?;
            let kind = meta.file_type();
            let found = if kind.is_dir() {
                Entry::Dir
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).map_err(read)?;
                let target = target
                    .to_str()
                    .ok_or_else(|| format!("the link {path:?} leads to what is not UTF-8"))?;
                Entry::Link(target.to_owned())
            } else if kind.is_file() {
                self.tally.bytes(meta.len())?;
                Entry::File {
                    len: meta.len(),
                    executable: meta.permissions().mode() & 0o111 != 0,
                }
            } else {
                return Err(format!(
                    "{path:?} is neither a file nor a folder nor a link"
                ));
            };
            self.tally.entry(&path, &found)?;
            self.entries.insert(path.clone(), found);
            if kind.is_dir() {
                self.folder(&entry.path(), &path)?;
            }
        }
        Ok(())
    }
}

/// Joins two parts of a path.
pub(super) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

/// A path in the form of [`Entries`]; empty for the root itself.
///
/// # Errors
/// A phrase, for a path that is absolute, leads up, or is not text.
pub(super) fn clean(path: &str) -> Result<String, &'static str> {
    if path.starts_with('/') {
        return Err("is an absolute path; paths are relative to the root");
    }
    if path.contains('\0') {
        return Err("has a NUL in it");
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err("leads up with \"..\"; paths stay below the root"),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Refuses links that lead out of the tree, through however many other links.
///
/// # Errors
/// A sentence with the link, or that following all of them is too much work or was cancelled.
pub(super) fn check_links(
    entries: &Entries,
    limits: Limits,
    cancelled: Cancelled<'_>,
) -> Result<(), String> {
    // Each link may lead through others, and those through more, so the sum is bounded.
    let mut steps = limits.link_steps();
    for (path, entry) in entries {
        if let Entry::Link(target) = entry {
            check_cancelled(cancelled)?;
            check_target(path, target, limits)?;
            follow(entries, path, &mut steps)
                .map_err(|why| format!("the link {path:?} to {target:?} {why}"))?;
        }
    }
    Ok(())
}

/// Resolves a path as the kernel would, step by step, within the entries. Subtracts its steps from
/// `steps`.
fn follow(entries: &Entries, path: &str, steps: &mut usize) -> Result<(), &'static str> {
    let mut todo: Vec<&str> = path.rsplit('/').collect();
    let mut at = String::new();
    let mut links = 0;
    while let Some(part) = todo.pop() {
        *steps = steps
            .checked_sub(1)
            .ok_or("is one of too many links that lead through each other; have fewer of them, or raise IGNITE_CODE_MAX_LINKS")?;
        let before = at.len();
        match part {
            "" | "." => continue,
            ".." if at.is_empty() => return Err("leads out of the tree"),
            ".." => {
                at.truncate(at.rfind('/').unwrap_or(0));
                continue;
            }
            part => {
                if !at.is_empty() {
                    at.push('/');
                }
                at.push_str(part);
            }
        }
        if let Some(Entry::Link(target)) = entries.get(&at) {
            links += 1;
            if links > MAX_LINKS {
                return Err("leads in a circle");
            }
            if target.starts_with('/') {
                return Err("is absolute; links stay within the tree");
            }
            at.truncate(before);
            todo.extend(target.rsplit('/'));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{builder::limits::tests::LIMITS, model::work::NEVER};

    fn links(all: &[(&str, &str)]) -> Result<(), String> {
        let mut entries: Entries = all
            .iter()
            .map(|(path, target)| ((*path).to_owned(), Entry::Link((*target).to_owned())))
            .collect();
        entries.insert("d/e/f".into(), Entry::Dir);
        check_links(&entries, LIMITS, NEVER)
    }

    #[test]
    fn links_within_are_fine_and_links_out_are_not_however_they_are_laid() {
        assert_eq!(
            links(&[("a", "d/e/f"), ("d/e/b", "../../a/./.."), ("c", "none")]),
            Ok(())
        );
        for bad in [
            &[("a", "/etc/passwd")][..],
            &[("a", "..")],
            &[("d/a", "../../x")],
            &[("a", "a")],
            // Read as text the second stays within; resolved through the first it does not.
            &[("d/e/c", "../.."), ("x", "d/e/c/../..")],
        ] {
            assert!(links(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_file_may_have_its_place_in_a_folder() {
        for name in ["handler.py", "src/main.rs"] {
            let root = TempDir::new().expect("a folder");
            let source = Source::of_file(root, name, b"code").expect("written");
            assert_eq!(source.read(name, 10).as_deref(), Some(&b"code"[..]));
        }
    }

    #[test]
    fn paths_are_cleaned_or_refused() {
        assert_eq!(clean("./a//b/").as_deref(), Ok("a/b"));
        assert_eq!(clean("./").as_deref(), Ok(""));
        for bad in ["/a", "a/../b", "..", "a\0"] {
            assert!(clean(bad).is_err(), "{bad}");
        }
    }
}
