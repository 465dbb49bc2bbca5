//! The key that seals secrets and environments: created on first use, in a file that only its owner
//! can read. Keys for other uses are derived from it.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use std::sync::OnceLock;

use crate::{
    atomic_file,
    model::{Failure, Reason},
};

/// Bytes of a ChaCha20-Poly1305 key.
const KEY_BYTES: usize = 32;

/// The context from which the key of marks is derived.
const MARKS: &str = "ignite marks 1";

/// A key in memory.
pub(in crate::store) struct Key {
    sealing: LessSafeKey,
    /// The root from which other keys are derived.
    root: hkdf::Prk,
    /// The derived key that makes marks.
    marks: hmac::Key,
}

impl Key {
    fn new(bytes: &[u8]) -> Option<Self> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).ok()?;
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(bytes);
        let marks = derived(&root, MARKS)?;
        Some(Self {
            sealing: LessSafeKey::new(key),
            root,
            marks: hmac::Key::new(hmac::HMAC_SHA256, &marks),
        })
    }

    /// A key for the use that `context` names (HKDF, RFC 5869). It reveals neither this key nor the
    /// key for another use.
    pub(super) fn derive(&self, context: &str) -> Option<[u8; KEY_BYTES]> {
        derived(&self.root, context)
    }

    /// Encrypts, bound to `slot`: the result is a fresh random nonce and the ciphertext with its
    /// tag.
    pub(in crate::store) fn seal(&self, mut plain: Vec<u8>, slot: &[u8]) -> Option<Vec<u8>> {
        // 96 random bits suffice for far more secrets than are ever written.
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let unique = Nonce::assume_unique_for_key(nonce);
        self.sealing
            .seal_in_place_append_tag(unique, Aad::from(slot), &mut plain)
            .ok()?;
        Some([&nonce[..], &plain].concat())
    }

    /// A keyed digest (HMAC): equal for equal content, and meaningless without the key.
    pub(super) fn mark(&self, content: &[u8]) -> String {
        let mark = hmac::sign(&self.marks, content);
        STANDARD.encode(mark.as_ref())
    }

    /// Decrypts what this key sealed for this slot.
    pub(in crate::store) fn open(&self, sealed: &[u8], slot: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self
            .sealing
            .open_in_place(nonce, Aad::from(slot), &mut text);
        plain.ok().map(|plain| plain.to_vec())
    }
}

fn derived(root: &hkdf::Prk, context: &str) -> Option<[u8; KEY_BYTES]> {
    let context = [context.as_bytes()];
    let derived = root.expand(&context, hkdf::HKDF_SHA256).ok()?;
    let mut bytes = [0; KEY_BYTES];
    derived.fill(&mut bytes).ok()?;
    Some(bytes)
}

/// The file of the key, read only once.
pub(in crate::store) struct KeyFile {
    path: PathBuf,
    read: OnceLock<Key>,
    /// Held while the file is read, so that only one thread reads it.
    turn: Mutex<()>,
}

impl KeyFile {
    pub(in crate::store) fn new(data_dir: &Path) -> Self {
        Self {
            path: data_dir.join("identity").join("secrets.key"),
            read: OnceLock::new(),
            turn: Mutex::default(),
        }
    }

    /// The key. Blocks on the disk the first time.
    ///
    /// # Errors
    /// FAILED_PRECONDITION; the log names the file and what is wrong with it.
    pub(in crate::store) fn open(&self) -> Result<&Key, Failure> {
        self.get().map_err(|why| self.unusable(&why))
    }

    /// As [`KeyFile::open`].
    ///
    /// # Errors
    /// What is wrong with the file, in words.
    pub(in crate::store) fn get(&self) -> Result<&Key, String> {
        let _turn = self.turn.lock();
        if let Some(key) = self.read.get() {
            return Ok(key);
        }
        match self.load() {
            Ok(key) => Ok(self.read.get_or_init(|| key)),
            Err(LoadError::Missing) => Err(
                "it is missing; restore the file from a backup, or delete the secrets and create them again"
                    .to_owned(),
            ),
            Err(LoadError::Other(why)) => Err(why),
        }
    }

    /// The path of the file.
    pub(in crate::store) fn path(&self) -> &Path {
        &self.path
    }

    /// The key, created if there is none, which is refused while secrets exist.
    ///
    /// # Errors
    /// As [`KeyFile::open`], and when the file cannot be written.
    pub(in crate::store) fn open_or_create(&self, have_secrets: bool) -> Result<&Key, Failure> {
        if have_secrets || self.read.get().is_some() || self.path.exists() {
            return self.open();
        }
        create(&self.path).map_err(|e| self.unusable(&format!("it cannot be made: {e}")))?;
        self.open()
    }

    fn load(&self) -> Result<Key, LoadError> {
        // Mode and content come from one descriptor, since the path could be replaced in between.
        let mut file = fs::File::open(&self.path)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(LoadError::Other(format!(
                "it has mode {mode:03o}, so others can read it; run `chmod 600` on it"
            )));
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let bytes = STANDARD.decode(text.trim()).unwrap_or_default();
        Key::new(&bytes).ok_or_else(|| {
            LoadError::Other(format!("it does not hold {KEY_BYTES} bytes in base64"))
        })
    }

    fn unusable(&self, why: &str) -> Failure {
        tracing::error!(path = %self.path.display(), "The key of the secrets cannot be used: {why}");
        Failure::new(
            Reason::FailedPrecondition,
            "the platform's key for secrets cannot be used; its log says which file it is and what is wrong with it",
        )
    }
}

/// Why there is no key.
enum LoadError {
    Missing,
    Other(String),
}

impl From<io::Error> for LoadError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::NotFound => LoadError::Missing,
            _ => LoadError::Other(e.to_string()),
        }
    }
}

/// Writes a new key, atomically.
fn create(path: &Path) -> io::Result<()> {
    let dir = path
        .parent()
        .ok_or_else(|| io::Error::other("the path has no folder"))?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let mut bytes = [0; KEY_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gives no random bytes"))?;
    let text = format!("{}\n", STANDARD.encode(bytes));
    if atomic_file::write_new(path, text.as_bytes())? {
        Ok(())
    } else {
        Err(io::ErrorKind::AlreadyExists.into())
    }
}
