//! Spools bodies on their way to the disk: small ones stay in memory, large ones stream to a file,
//! which the committer later renames to its final path.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt as _;

use crate::model::execution::INLINE_BYTES;

/// A body that is ready to be stored.
#[derive(Debug)]
pub enum StoredBody {
    /// At most [`INLINE_BYTES`], kept in the database.
    Inline(Bytes),
    /// In a file that is already synced.
    File(Spooled),
}

impl StoredBody {
    /// Length of the body in bytes.
    pub fn len(&self) -> u64 {
        match self {
            StoredBody::Inline(bytes) => bytes.len() as u64,
            StoredBody::File(file) => file.len,
        }
    }

    /// Whether there is no body.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for StoredBody {
    fn default() -> Self {
        StoredBody::Inline(Bytes::new())
    }
}

/// A file that no execution owns yet; it is removed on drop.
#[derive(Debug)]
pub struct Spooled {
    path: PathBuf,
    len: u64,
    kept: bool,
}

impl Spooled {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Moves the file to its final path, atomically. The folder's entry is not synced yet.
    pub(super) fn keep(&mut self, to: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, to)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        if !self.kept {
            // If this fails, the next start removes the file: it empties the folder.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Receives a body piece by piece.
pub struct Spool {
    folder: PathBuf,
    memory: BytesMut,
    file: Option<(tokio::fs::File, Spooled)>,
    len: u64,
}

impl Spool {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            memory: BytesMut::new(),
            file: None,
            len: 0,
        }
    }

    /// Bytes received so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was received yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// The error of the disk.
    pub async fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        self.len += piece.len() as u64;
        if self.file.is_none() && self.memory.len() + piece.len() <= INLINE_BYTES {
            self.memory.extend_from_slice(piece);
            return Ok(());
        }
        if self.file.is_none() {
            let path = self.folder.join(ulid::Ulid::generate().to_string());
            let mut file = tokio::fs::File::create_new(&path).await?;
            let spooled = Spooled {
                path,
                len: 0,
                kept: false,
            };
            file.write_all(&self.memory).await?;
            self.memory = BytesMut::new();
            self.file = Some((file, spooled));
        }
        if let Some((file, _)) = &mut self.file {
            file.write_all(piece).await?;
        }
        Ok(())
    }

    /// Returns the whole body; a file is on disk by then.
    ///
    /// # Errors
    /// The error of the disk.
    pub async fn finish(self) -> io::Result<StoredBody> {
        match self.file {
            None => Ok(StoredBody::Inline(self.memory.freeze())),
            Some((mut file, mut spooled)) => {
                file.flush().await?;
                file.sync_all().await?;
                spooled.len = self.len;
                Ok(StoredBody::File(spooled))
            }
        }
    }
}
