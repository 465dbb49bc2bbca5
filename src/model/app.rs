//! An app with its draft and its published versions.

use std::sync::Arc;

use super::{
    code::{Built, CodeSource, ImageSource, Overlay},
    files::Home,
    host,
    host_name::HostName,
    id::AppId,
    settings::Settings,
};

/// The code that the next publish takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The code.
    pub source: CodeSource,
    /// When it was saved, Unix milliseconds.
    pub created_at_ms: i64,
    /// The outcome of its last build; `None` before the first.
    pub built: Option<Built>,
    /// The image of the previous draft, whose layers its build reuses; empty when there is none,
    /// and once this draft has an image.
    pub base: String,
}

impl Draft {
    /// Its image or, until it is built, that of the previous draft.
    pub fn image(&self) -> Option<&str> {
        let built = self.built.as_ref().and_then(|b| b.outcome.as_ref().ok());
        let image = built.map_or(self.base.as_str(), |built| built.image_ref.as_str());
        (!image.is_empty()).then_some(image)
    }

    /// Whether it is the same draft as `other`, whatever was built since.
    pub fn is_same(&self, other: &Draft) -> bool {
        self.created_at_ms == other.created_at_ms && self.source == other.source
    }
}

/// Facts about an image that the publish found; they never change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageFacts {
    /// Its user as the image has it, empty for root; `None` when it was not inspected.
    pub user: Option<String>,
    /// The home directory of that user.
    pub home: Home,
    /// Whether the program it runs is an init; `None` when it was not inspected.
    pub brings_init: Option<bool>,
    /// Its name by digest in its registry, which never moves; empty for an image that exists only
    /// on this machine.
    pub digest_ref: String,
    /// TCP ports that it exposes, in order; empty when it was not inspected.
    pub exposed_ports: Vec<u16>,
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
    /// Facts about the image that the publish found.
    pub facts: ImageFacts,
    /// What a development session changed of the image's files; `None` when the image has the code.
    pub overlay: Option<Overlay>,
    /// When it was published, Unix milliseconds.
    pub created_at_ms: i64,
    /// The settings at publish.
    pub settings: Settings,
}

impl Version {
    /// The image to pull if it was removed: by digest, so that a moved tag changes nothing; `None`
    /// for an image that was built here.
    pub fn pull_source(&self) -> Option<ImageSource> {
        let mut source = self.source.prebuilt()?.clone();
        if !self.facts.digest_ref.is_empty() {
            source.image_ref.clone_from(&self.facts.digest_ref);
        }
        Some(source)
    }
}

/// Of the names that the engine knows for an image, the one by digest in the repository of
/// `reference`; empty when there is none.
pub fn digest_ref(reference: &str, known: &[String]) -> String {
    let wanted = repository(reference);
    let found = known.iter().find(|name| repository(name) == wanted);
    found.cloned().unwrap_or_default()
}

/// The repository of a reference, without the prefixes that are optional for Docker Hub.
fn repository(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or_default();
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let name = match name[last..].find(':') {
        Some(colon) => &name[..last + colon],
        None => name,
    };
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

/// An image that the platform pulled, and so may remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The reference that was pulled.
    pub reference: String,
    /// Its content id; empty while it is being pulled.
    pub id: String,
    /// Its name by digest; may be empty.
    pub digest_ref: String,
    /// When it was pulled, Unix milliseconds.
    pub at_ms: i64,
}

impl Pulled {
    /// Its key in the catalog: the digest once it is pulled, because a moved tag may be pulled
    /// again with another image.
    pub fn key(&self) -> &str {
        match self.digest_ref.as_str() {
            "" => &self.reference,
            digest => digest,
        }
    }
}

/// An app with all of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Its name across organizations.
    pub id: AppId,
    /// When it was created, Unix milliseconds.
    pub created_at_ms: i64,
    /// When its settings or its active version last changed, Unix milliseconds.
    pub updated_at_ms: i64,
    /// When the app was last seen in use, Unix milliseconds; kept up to date only for apps with a
    /// volume that expires.
    pub used_at_ms: i64,
    /// The settings in force.
    pub settings: Settings,
    /// The code for the next publish.
    pub draft: Option<Draft>,
    /// The published versions by number, oldest first.
    pub versions: Vec<Arc<Version>>,
    /// The version that serves; 0 before the first publish.
    pub active_version: u32,
    /// Host names that it was given, in order.
    pub hosts: Vec<HostName>,
}

impl App {
    /// Whether the app, or a version of it, has an environment.
    pub fn has_env(&self) -> bool {
        let versions = self.versions.iter().map(|v| &v.settings);
        let mut all = std::iter::once(&self.settings).chain(versions);
        all.any(|settings| !settings.env.is_empty())
    }

    /// Whether the draft or a version has build arguments that are stored unsealed.
    pub fn has_clear_args(&self) -> bool {
        let draft = self.draft.iter().map(|d| &d.source);
        let mut all = draft.chain(self.versions.iter().map(|v| &v.source));
        all.any(CodeSource::has_clear_args)
    }

    /// The version that serves.
    pub fn active(&self) -> Option<&Arc<Version>> {
        self.versions
            .iter()
            .rfind(|v| v.number == self.active_version)
    }

    /// The versions whose images are kept: the active one, and the `newest` ones.
    pub fn kept_versions(&self, newest: usize) -> impl Iterator<Item = &Arc<Version>> + '_ {
        let old = self.versions.len().saturating_sub(newest);
        let kept =
            move |(n, v): &(usize, &Arc<Version>)| *n >= old || v.number == self.active_version;
        self.versions
            .iter()
            .enumerate()
            .filter(kept)
            .map(|(_, v)| v)
    }

    /// The host labels of its ports, in the order of the ports.
    pub fn labels(&self) -> impl Iterator<Item = (u16, String)> + '_ {
        self.settings
            .ports()
            .iter()
            .map(|&p| (p, host::label(&self.id, p)))
    }
}

/// An app with default settings and no code.
#[cfg(test)]
pub(crate) fn bare(id: &str) -> App {
    App {
        id: id.parse().expect("valid"),
        created_at_ms: 0,
        updated_at_ms: 0,
        used_at_ms: 0,
        settings: Settings::default(),
        draft: None,
        versions: Vec::new(),
        active_version: 0,
        hosts: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_repository_that_was_named() {
        let known = ["nginx@sha256:1", "reg.example:5000/team/app@sha256:2"].map(str::to_owned);
        for (reference, digest) in [
            ("nginx", "nginx@sha256:1"),
            ("docker.io/library/nginx:1.27", "nginx@sha256:1"),
            (
                "reg.example:5000/team/app",
                "reg.example:5000/team/app@sha256:2",
            ),
            (
                "reg.example:5000/team/app:1@sha256:2",
                "reg.example:5000/team/app@sha256:2",
            ),
            ("reg.example/team/app:1", ""),
            ("sha256:00", ""),
        ] {
            assert_eq!(digest_ref(reference, &known), digest, "{reference}");
        }
    }
}
