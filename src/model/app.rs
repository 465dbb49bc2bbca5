//! An app with its draft and its published versions.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{
    code::{Built, CodeSource},
    host,
    id::AppId,
    settings::Settings,
};

/// An image that exists, and how it is pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    /// An image reference or a local image id.
    pub image_ref: String,
    /// The name of the secret for its registry; empty for none.
    pub registry_secret_ref: String,
}

impl ImageSource {
    /// What identifies this code: the hash of the source.
    pub fn code_hash(&self) -> String {
        hex(&Sha256::digest(format!(
            "prebuilt\0{}\0{}",
            self.image_ref, self.registry_secret_ref
        )))
    }
}

/// The code that the next publish takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The code.
    pub source: CodeSource,
    /// When it was saved, Unix milliseconds.
    pub created_at_ms: i64,
    /// How its last build ended; `None` when none has.
    pub built: Option<Built>,
}

impl Draft {
    /// Whether it is the draft that `other` was, whatever has been built since.
    pub fn is_same(&self, other: &Draft) -> bool {
        self.created_at_ms == other.created_at_ms && self.source == other.source
    }
}

/// A published snapshot; never changed afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// 1 for the first.
    pub number: u32,
    /// The code.
    pub source: CodeSource,
    /// The image's name: as the owner wrote it, or as it was built.
    pub image_ref: String,
    /// The image's content id at publish.
    pub image_id: String,
    /// When it was published, Unix milliseconds.
    pub created_at_ms: i64,
    /// The settings at publish.
    pub settings: Settings,
}

impl Version {
    /// What to pull should the image be gone; `None` for one that was built here.
    pub fn pull(&self) -> Option<&ImageSource> {
        match &self.source {
            CodeSource::Prebuilt(image) => Some(image),
            _ => None,
        }
    }
}

/// An app with everything that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Its name across organizations.
    pub id: AppId,
    /// When it was created, Unix milliseconds.
    pub created_at_ms: i64,
    /// When its settings or its active version last changed, Unix milliseconds.
    pub updated_at_ms: i64,
    /// The settings in force.
    pub settings: Settings,
    /// The code that waits for a publish.
    pub draft: Option<Draft>,
    /// The published versions by number, oldest first.
    pub versions: Vec<Arc<Version>>,
    /// The version that serves; 0 before the first publish.
    pub active_version: u32,
}

impl App {
    /// The version that serves.
    pub fn active(&self) -> Option<&Arc<Version>> {
        self.versions
            .iter()
            .rfind(|v| v.number == self.active_version)
    }

    /// The host labels of its ports, in their order.
    pub fn labels(&self) -> impl Iterator<Item = (u16, String)> + '_ {
        self.settings
            .ports()
            .iter()
            .map(|&p| (p, host::label(&self.id, p)))
    }
}

/// Bytes in lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
            let _ = write!(s, "{b:02x}");
            s
        })
}
