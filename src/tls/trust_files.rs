//! The files by which programs in containers trust the local authority: its certificate, and that
//! with this machine's root certificates. They are in a folder of their own, since containers see
//! all of it, and its files change under their names while containers use them.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use pem::Pem;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::atomic_file;

/// The folder in the data directory.
const FOLDER: &str = "certificates";

/// The folder with the files.
#[derive(Debug, PartialEq, Eq)]
pub struct TrustFiles {
    /// Its path.
    pub folder: PathBuf,
    /// Whether [`Self::BUNDLE`] has root certificates; without, it is no replacement for those of an
    /// image.
    pub has_roots: bool,
}

impl TrustFiles {
    /// The file with the local authority alone.
    pub const AUTHORITY: &str = "ca.pem";
    /// The file with this machine's root certificates and the local authority.
    pub const BUNDLE: &str = "bundle.pem";

    /// Writes what has changed of the files in a data directory, for an authority in PEM and this
    /// machine's root certificates.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(data_dir: &Path, authority: &str) -> io::Result<Self> {
        let system = rustls_native_certs::load_native_certs();
        for cause in &system.errors {
            tracing::warn!(%cause, "Some root certificates of this system could not be read; apps that call other machines over https may miss them");
        }
        Self::write_with(data_dir, authority, &system.certs)
    }

    fn write_with(
        data_dir: &Path,
        authority: &str,
        roots: &[CertificateDer<'_>],
    ) -> io::Result<Self> {
        let folder = data_dir.join(FOLDER);
        match fs::create_dir(&folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => fs::set_permissions(&folder, Permissions::from_mode(0o755))?,
        }
        // Whatever else its file has, a key even, is not for containers.
        let authority = CertificateDer::from_pem_slice(authority.as_bytes());
        let authority = authority.map_err(io::Error::other)?;
        let pem = |certificate: &CertificateDer<'_>| Pem::new("CERTIFICATE", certificate.to_vec());
        let all: Vec<_> = roots.iter().chain([&authority]).map(pem).collect();
        let texts = [
            (Self::AUTHORITY, pem::encode(&pem(&authority))),
            (Self::BUNDLE, pem::encode_many(&all)),
        ];
        for (name, text) in texts {
            let path = folder.join(name);
            if !is_so(&path, text.as_bytes()) {
                atomic_file::write_readable(&path, text.as_bytes())?;
            }
        }
        Ok(Self {
            folder,
            has_roots: !roots.is_empty(),
        })
    }
}

/// Whether a file has this text, and everyone may read it.
fn is_so(path: &Path, text: &[u8]) -> bool {
    let is_readable = |m: fs::Metadata| m.permissions().mode() & 0o777 == atomic_file::READABLE;
    fs::metadata(path).is_ok_and(is_readable) && fs::read(path).is_ok_and(|found| found == text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::tls::authority::Authority;

    #[test]
    fn everyone_reads_the_files_and_they_stay_until_they_change() {
        let dir = tempfile::tempdir().expect("a directory");
        let other = tempfile::tempdir().expect("a directory");
        let root = Authority::open_or_create(other.path()).expect("made");
        let root = CertificateDer::from_pem_slice(root.pem().as_bytes()).expect("PEM");
        let authority = Authority::open_or_create(dir.path()).expect("made");
        let own = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM");
        let with_more = format!(
            "{}-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            authority.pem()
        );
        let write = |roots: &[CertificateDer<'_>]| {
            TrustFiles::write_with(dir.path(), &with_more, roots).expect("written")
        };
        let found = write(std::slice::from_ref(&root));
        assert!(found.has_roots);
        let path = |name: &str| found.folder.join(name);
        let certificates = |name: &str| {
            let all = CertificateDer::pem_file_iter(path(name)).expect("there");
            all.collect::<Result<Vec<_>, _>>().expect("PEM")
        };
        let alone = certificates(TrustFiles::AUTHORITY);
        assert_eq!(alone, std::slice::from_ref(&own));
        assert_eq!(certificates(TrustFiles::BUNDLE), [root.clone(), own]);
        for name in [TrustFiles::AUTHORITY, TrustFiles::BUNDLE] {
            let text = fs::read_to_string(path(name)).expect("there");
            assert!(!text.contains("PRIVATE KEY"), "{name}");
        }
        let names = fs::read_dir(&found.folder).expect("lists");
        let mut names: Vec<_> = names.map(|e| e.expect("an entry").file_name()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [TrustFiles::BUNDLE, TrustFiles::AUTHORITY],
            "no key, and nothing temporary"
        );
        let of = |name: &str| {
            let found = fs::metadata(path(name)).expect("there");
            (found.ino(), found.mode() & 0o777)
        };
        let before = [of(TrustFiles::AUTHORITY), of(TrustFiles::BUNDLE)];
        assert_eq!(before.map(|(_, mode)| mode), [0o644; 2]);
        assert_eq!(of("").1, 0o755);
        write(&[root]);
        assert_eq!(
            before,
            [of(TrustFiles::AUTHORITY), of(TrustFiles::BUNDLE)],
            "unchanged files are not written again"
        );
        assert!(!write(&[]).has_roots);
        assert_eq!(before[0], of(TrustFiles::AUTHORITY));
        assert_eq!(certificates(TrustFiles::BUNDLE).len(), 1);
        // A file that somebody has closed is opened again.
        fs::set_permissions(path(TrustFiles::BUNDLE), Permissions::from_mode(0o600))
            .expect("changed");
        write(&[]);
        assert_eq!(of(TrustFiles::BUNDLE).1, 0o644);
    }
}
