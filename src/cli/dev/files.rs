//! The files of sent code, and which of them differ from those in the image that was built.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    path::PathBuf,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use sha2::{Digest as _, Sha256};
use tar::{Archive, Builder, EntryType};

use crate::cli::template::Live;

/// The files of an archive, each with a digest of all that is kept of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest(BTreeMap<PathBuf, [u8; 32]>);

impl Manifest {
    /// Reads the archive, which the client packed itself.
    pub(super) fn of(archive: &[u8]) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for entry in Archive::new(GzDecoder::new(archive)).entries()? {
            let mut entry = entry?;
            let mut digest = Sha256::new();
            let header = entry.header();
            digest.update([header.entry_type().as_byte()]);
            digest.update(header.mode()?.to_be_bytes());
            if let Some(target) = entry.link_name_bytes() {
                digest.update(&target);
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            digest.update(&content);
            files.insert(entry.path()?.into_owned(), digest.finalize().into());
        }
        Ok(Self(files))
    }

    /// The files of `archive` that differ from these, as .tar.gz; `None` where files are gone or
    /// changed in a way that a build alone brings into the image.
    pub(super) fn changes(&self, archive: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let now = Self::of(archive)?;
        let differs = |path: &PathBuf| self.0.get(path) != now.0.get(path);
        let is_gone = self.0.keys().any(|path| !now.0.contains_key(path));
        let mut changed = now.0.keys().filter(|path| differs(path));
        if is_gone || changed.clone().any(|path| Live::needs_build(path)) {
            return Ok(None);
        }
        let mut out = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        if changed.next().is_some() {
            for entry in Archive::new(GzDecoder::new(archive)).entries()? {
                let mut entry = entry?;
                let path = entry.path()?.into_owned();
                if !differs(&path) {
                    continue;
                }
                // A link over a file, or the other way round, is not replaced everywhere.
                let (mut header, kind) = (entry.header().clone(), entry.header().entry_type());
                match kind {
                    EntryType::Regular => out.append_data(&mut header, &path, &mut entry)?,
                    EntryType::Directory => out.append_data(&mut header, &path, io::empty())?,
                    _ => return Ok(None),
                }
            }
        }
        out.into_inner()?.finish().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::folder::Folder;

    #[test]
    fn changed_and_new_files_are_sent_and_what_only_a_build_can_do_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let write =
            |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
        let pack = || {
            let folder = Folder::open(dir.path(), None).expect("valid rules");
            folder.pack(&[]).expect("packed")
        };
        write("app.py", "one");
        write("same.py", "same");
        write("requirements.txt", "flask");
        let built = Manifest::of(&pack()).expect("read");
        let changes = || built.changes(&pack()).expect("read");
        let names = |archive: &[u8]| {
            let all = Manifest::of(archive).expect("read").0;
            all.keys()
                .map(|p| p.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&changes().expect("nothing")), Vec::<String>::new());
        write("app.py", "two");
        fs::create_dir(dir.path().join("sub")).expect("made");
        write("sub/new.py", "new");
        assert_eq!(
            names(&changes().expect("some")),
            ["app.py", "sub", "sub/new.py"]
        );
        write("requirements.txt", "flask\nmore");
        assert_eq!(changes(), None, "packages are installed by a build");
        write("requirements.txt", "flask");
        std::os::unix::fs::symlink("app.py", dir.path().join("link")).expect("made");
        assert_eq!(changes(), None);
        fs::remove_file(dir.path().join("link")).expect("removed");
        fs::remove_file(dir.path().join("same.py")).expect("removed");
        assert_eq!(changes(), None, "nothing takes a file out of an image");
    }
}
