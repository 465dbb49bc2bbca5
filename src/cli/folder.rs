//! A folder of code: which files are sent, and how they are packed.

use std::{
    fs::{self, Metadata},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use flate2::{Compression, write::GzEncoder};

use super::failure::note;
use crate::model::ignorefile::{self, Rules};

/// Names of generated files that a build recreates: never sent, at any depth.
const LEFT_OUT: [&str; 5] = [".git", "node_modules", "__pycache__", "target", ".venv"];
/// The modification time of every packed file, so that equal folders make equal archives: 2 January
/// 1980, because zip tools refuse older times.
const PACKED_AT: u64 = 315_619_200;

/// A folder and what its `.dockerignore` leaves out.
pub(super) struct Folder {
    root: PathBuf,
    rules: Rules,
    /// Sent even when ignored: the builder needs it.
    dockerfile: Option<PathBuf>,
}

impl Folder {
    /// Reads the rules of a folder.
    ///
    /// # Errors
    /// A sentence, when the rules cannot be read or are invalid.
    pub(super) fn open(root: &Path, dockerfile: Option<&str>) -> Result<Self, String> {
        let rules = match fs::read_to_string(root.join(ignorefile::NAME)) {
            Ok(text) => Rules::parse(&text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Rules::default(),
            Err(e) => return Err(format!("{} cannot be read: {e}", ignorefile::NAME)),
        };
        let dockerfile = dockerfile.map(|path| path.trim_start_matches("./").into());
        Ok(Self {
            root: root.to_owned(),
            rules,
            dockerfile,
        })
    }

    /// Packs the folder as .tar.gz, with these files in place of its own. Equal folders give equal
    /// bytes.
    pub(super) fn pack(&self, more: &[(&str, &str)]) -> io::Result<Vec<u8>> {
        let gz = GzEncoder::new(Vec::new(), Compression::fast());
        let mut archive = tar::Builder::new(gz);
        self.walk(Path::new(""), &mut |path, meta| {
            let replaced = more.iter().any(|(name, _)| path == Path::new(name));
            if replaced {
                Ok(())
            } else {
                self.add(&mut archive, path, meta)
            }
        })?;
        for (name, content) in more {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(PACKED_AT);
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, content.as_bytes())?;
        }
        archive.into_inner()?.finish()
    }

    /// The newest modification time of the files that are sent.
    pub(super) fn changed_at(&self) -> io::Result<SystemTime> {
        let mut newest = SystemTime::UNIX_EPOCH;
        self.walk(Path::new(""), &mut |_, meta| {
            if meta.is_file() {
                newest = newest.max(meta.modified()?);
            }
            Ok(())
        })?;
        Ok(newest)
    }

    /// Visits everything that is sent, in name order.
    fn walk(
        &self,
        below: &Path,
        visit: &mut impl FnMut(&Path, &Metadata) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut names = fs::read_dir(self.root.join(below))?
            .map(|entry| entry.map(|e| e.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        for name in names {
            let path = below.join(&name);
            if is_left_out(Path::new(&name)) {
                continue;
            }
            let meta = self.root.join(&path).symlink_metadata()?;
            let ignored = self.ignores(&path);
            if !ignored {
                visit(&path, &meta)?;
            }
            if meta.is_dir()
                && (!ignored || self.rules.has_exceptions() || self.holds_dockerfile(&path))
            {
                self.walk(&path, visit)?;
            }
        }
        Ok(())
    }

    fn ignores(&self, path: &Path) -> bool {
        let needed =
            path == Path::new(ignorefile::NAME) || Some(path) == self.dockerfile.as_deref();
        !needed && path.to_str().is_some_and(|path| self.rules.ignores(path))
    }

    /// Whether the Dockerfile is below this folder.
    fn holds_dockerfile(&self, folder: &Path) -> bool {
        self.dockerfile
            .as_ref()
            .is_some_and(|d| d.starts_with(folder))
    }

    fn add<W: io::Write>(
        &self,
        archive: &mut tar::Builder<W>,
        path: &Path,
        meta: &Metadata,
    ) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let on_disk = self.root.join(path);
        let mut header = tar::Header::new_gnu();
        header.set_mtime(PACKED_AT);
        header.set_mode(match meta.permissions().mode() & 0o111 {
            0 if meta.is_file() => 0o644,
            _ => 0o755,
        });
        if meta.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            archive.append_data(&mut header, path, io::empty())
        } else if meta.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, path, fs::read_link(&on_disk)?)
        } else if meta.is_file() {
            // Read first: an editor may be writing, and the size in the metadata need not match the
            // content.
            let content = fs::read(&on_disk)?;
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, &content[..])
        } else {
            note(&format!(
                "{} is not a regular file and is left out",
                on_disk.display()
            ));
            Ok(())
        }
    }
}

/// Whether a path within a folder is never sent: generated by a tool, or an editor's temporary
/// file.
pub(super) fn is_left_out(path: &Path) -> bool {
    path.components().any(|part| {
        let name = part.as_os_str().to_string_lossy();
        let dotted = name.starts_with('.');
        LEFT_OUT.contains(&&*name)
            || name.ends_with('~')
            || name.starts_with(".#")
            || name.len() > 1 && name.starts_with('#') && name.ends_with('#')
            || dotted && [".swp", ".swx", ".swo"].iter().any(|end| name.ends_with(end))
            // Vim creates this file to test whether it can write to a folder.
            || name == "4913"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, names: &[&str]) {
        for name in names {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, name).expect("written");
        }
    }

    fn pack(dir: &Path, dockerfile: Option<&str>) -> Vec<u8> {
        let folder = Folder::open(dir, dockerfile).expect("valid rules");
        folder.pack(&[]).expect("packs")
    }

    fn names(packed: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed));
        let name = |entry: io::Result<tar::Entry<'_, _>>| {
            let entry = entry.expect("an entry");
            entry.path().expect("a path").display().to_string()
        };
        archive.entries().expect("an archive").map(name).collect()
    }

    #[test]
    fn equal_folders_pack_to_equal_bytes_without_what_tools_have_made() {
        let fill = |dir: &Path| {
            write(
                dir,
                &[
                    "b",
                    "a/x",
                    ".git/config",
                    "a/node_modules/m/i.js",
                    "target/t",
                    "a/__pycache__/p",
                    ".b.swp",
                    "b~",
                    "#b#",
                    ".#b",
                ],
            );
            std::os::unix::fs::symlink("a/x", dir.join("l")).expect("made");
            pack(dir, None)
        };
        let (one, two) = (tempfile::tempdir(), tempfile::tempdir());
        let (one, two) = (one.expect("a directory"), two.expect("a directory"));
        let packed = fill(one.path());
        // Same content, different order and modification time.
        fs::write(two.path().join("b"), "other").expect("written");
        fs::File::open(one.path().join("b"))
            .and_then(|f| f.set_modified(SystemTime::UNIX_EPOCH))
            .expect("set");
        assert_eq!(packed, fill(two.path()));
        assert_eq!(names(&packed), ["a", "a/x", "b", "l"]);
    }

    #[test]
    fn what_is_ignored_is_not_sent_but_for_what_the_builder_needs() {
        let dir = tempfile::tempdir().expect("a directory");
        write(
            dir.path(),
            &[
                "docker/Mine",
                "docker/more",
                "data/big",
                "data/keep",
                "a.log",
                "x",
            ],
        );
        fs::write(dir.path().join(".dockerignore"), "*\n!x\n!data/keep\n").expect("written");
        let packed = pack(dir.path(), Some("./docker/Mine"));
        assert_eq!(
            names(&packed),
            [".dockerignore", "data/keep", "docker/Mine", "x"]
        );
        fs::write(dir.path().join(".dockerignore"), "[").expect("written");
        assert!(Folder::open(dir.path(), None).is_err());
    }
}
