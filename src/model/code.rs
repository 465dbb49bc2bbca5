//! Code as an owner submits it, and the outcome of its build.
//!
//! [`CodeSource`] is generic over how the bytes of code are held: inline in a request (`Bytes`), or
//! in a file of the store ([`Blob`]). Everything else is the same.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use sha2::{Digest, Sha256};

use super::{build_args::BuildArgs, failure::Reason, hex, id::InvalidName};

/// The default path of the Dockerfile.
pub const DEFAULT_DOCKERFILE: &str = "Dockerfile";

/// Bytes of code in a file of the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Blob {
    /// The file's name, which is unique and never reused.
    pub id: String,
    /// The number of bytes.
    pub len: u64,
    /// Their SHA-256 in hex.
    pub sha256: String,
}

/// The folder of these files in the data directory.
pub const CODE_FOLDER: &str = "code";
/// The suffix of a file that no record names yet.
pub const NEW_CODE: &str = ".new";

impl Blob {
    /// Where its file may be: under its name, or under that of a new one.
    pub fn paths(&self, data_dir: &Path) -> [PathBuf; 2] {
        let folder = data_dir.join(CODE_FOLDER);
        let new = folder.join(format!("{}{NEW_CODE}", self.id));
        [folder.join(&self.id), new]
    }
}

/// Files that are laid over an image instead of being built into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// The directory of the image that they are put into.
    pub path: String,
    /// The files, as .tar.gz.
    pub files: Blob,
}

/// Where the code of a draft or version comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodeSource<B = Blob> {
    /// An existing image.
    Prebuilt(ImageSource),
    /// An archive with a Dockerfile, or with a handler.
    FromCode(FromCode<B>),
    /// A git repository with a Dockerfile, or with a handler.
    FromGit(FromGit),
    /// A handler that the platform wraps.
    Compile(Compile<B>),
}

/// An existing image, and how to pull it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    /// An image reference or a local image id.
    pub image_ref: String,
    /// The name of the secret for its registry; empty for none.
    pub registry_secret_ref: String,
}

impl ImageSource {
    /// Identifies this code: a hash of the source.
    pub fn code_hash(&self) -> String {
        hex::encode(&Sha256::digest(format!(
            "prebuilt\0{}\0{}",
            self.image_ref, self.registry_secret_ref
        )))
    }
}

/// An archive with a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromCode<B = Blob> {
    /// A .zip or .tar.gz.
    pub archive: B,
    /// The path of the Dockerfile in the archive; empty = [`DEFAULT_DOCKERFILE`].
    pub dockerfile_path: String,
    /// Values for the Dockerfile's `ARG`s.
    pub build_args: BuildArgs,
    /// The secret for the registry of base images; empty for none.
    pub registry_secret_ref: String,
}

/// A git repository with a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromGit {
    /// The repository.
    pub url: String,
    /// A branch, tag or commit; empty = the default branch.
    pub reference: String,
    /// The build context within the repository; empty = its root.
    pub sub_path: String,
    /// The path of the Dockerfile in the context; empty = [`DEFAULT_DOCKERFILE`].
    pub dockerfile_path: String,
    /// The secret to clone with; empty for none.
    pub secret_ref: String,
    /// The secret for the registry of base images; empty for none.
    pub registry_secret_ref: String,
}

/// A handler in source form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compile<B = Blob> {
    /// Its language.
    pub runtime: Runtime,
    /// One source file, a .zip or a .tar.gz.
    pub source: B,
}

/// A managed language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runtime {
    /// `handler.py`.
    Python,
    /// `#[ignite::main]`.
    Rust {
        /// The target triple; empty = the platform's.
        target: String,
        /// The toolchain; empty = the platform's.
        toolchain: String,
    },
    /// A Go handler.
    Go,
    /// `start(handler)`.
    Deno,
}

impl Runtime {
    /// The language in a word; hashes of code contain it.
    pub fn language(&self) -> &'static str {
        match self {
            Runtime::Python => "python",
            Runtime::Rust { .. } => "rust",
            Runtime::Go => "go",
            Runtime::Deno => "deno",
        }
    }
}

impl<B> CodeSource<B> {
    /// The runtime of a handler; `None` for images.
    pub fn runtime(&self) -> Option<&Runtime> {
        match self {
            CodeSource::Compile(compile) => Some(&compile.runtime),
            _ => None,
        }
    }

    /// The runtime in a word, as catalogs and tools have it.
    pub fn runtime_label(&self) -> &'static str {
        match self.runtime() {
            Some(Runtime::Rust { .. }) => "rust-native",
            Some(other) => other.language(),
            None => "image",
        }
    }

    /// The existing image, if the source names one.
    pub fn prebuilt(&self) -> Option<&ImageSource> {
        match self {
            CodeSource::Prebuilt(image) => Some(image),
            _ => None,
        }
    }

    /// The bytes of the code, if it has any.
    pub fn bytes(&self) -> Option<&B> {
        match self {
            CodeSource::FromCode(code) => Some(&code.archive),
            CodeSource::Compile(compile) => Some(&compile.source),
            CodeSource::Prebuilt(_) | CodeSource::FromGit(_) => None,
        }
    }

    /// Converts how the bytes are held.
    ///
    /// # Errors
    /// The error of `f`.
    pub fn try_map<C, E>(self, f: impl FnOnce(B) -> Result<C, E>) -> Result<CodeSource<C>, E> {
        Ok(match self {
            CodeSource::Prebuilt(image) => CodeSource::Prebuilt(image),
            CodeSource::FromGit(git) => CodeSource::FromGit(git),
            CodeSource::FromCode(code) => CodeSource::FromCode(FromCode {
                archive: f(code.archive)?,
                dockerfile_path: code.dockerfile_path,
                build_args: code.build_args,
                registry_secret_ref: code.registry_secret_ref,
            }),
            CodeSource::Compile(compile) => CodeSource::Compile(Compile {
                runtime: compile.runtime,
                source: f(compile.source)?,
            }),
        })
    }
}

impl CodeSource {
    /// Whether it has build arguments in clear.
    pub fn has_clear_args(&self) -> bool {
        matches!(self, CodeSource::FromCode(code)
            if matches!(&code.build_args, BuildArgs::Clear(values) if !values.is_empty()))
    }

    /// Identifies this code: equal code has equal hashes.
    pub fn code_hash(&self) -> String {
        // Length-prefixed, so that no two different sets of fields produce the same bytes.
        let mut hash = Sha256::new();
        let mut put = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        };
        match self {
            CodeSource::Prebuilt(image) => return image.code_hash(),
            CodeSource::FromCode(code) => {
                put("from_code");
                put(&code.archive.sha256);
                put(&code.dockerfile_path);
                put(&code.registry_secret_ref);
                for part in code.build_args.parts() {
                    put(part);
                }
            }
            CodeSource::FromGit(git) => {
                put("from_git");
                for text in [&git.url, &git.reference, &git.sub_path] {
                    put(text);
                }
                for text in [
                    &git.dockerfile_path,
                    &git.secret_ref,
                    &git.registry_secret_ref,
                ] {
                    put(text);
                }
            }
            CodeSource::Compile(compile) => {
                put("compile");
                put(compile.runtime.language());
                if let Runtime::Rust { target, toolchain } = &compile.runtime {
                    put(target);
                    put(toolchain);
                }
                put(&compile.source.sha256);
            }
        }
        hex::encode(&hash.finalize())
    }
}

/// One build of a draft; `deploy_id` and `build_id` on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BuildId(pub ulid::Ulid);

impl BuildId {
    /// A new id.
    pub fn generate() -> Self {
        Self(ulid::Ulid::generate())
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dep_{}", self.0)
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for BuildId {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.strip_prefix("dep_")
            .and_then(|u| ulid::Ulid::from_string(u).ok())
            .map(Self)
            .ok_or_else(|| InvalidName(format!("build id {s:?} is not \"dep_\" and a ULID")))
    }
}

/// The outcome of the last build of a draft. Only the builder knows about a running build, so after
/// a crash the draft was simply not built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The build.
    pub id: BuildId,
    /// The image, or why there is none.
    pub outcome: Result<BuiltImage, BuildError>,
}

/// The image that a build made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    /// Its name on this machine.
    pub image_ref: String,
    /// Its content id.
    pub image_id: String,
}

/// Why a build failed, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildError {
    /// The cause for programs.
    pub reason: Reason,
    /// The cause for the app's owner.
    pub message: String,
}

/// Checks that code may be fetched from a URL: https, or a repository on the server's own machine.
/// Other git transports run programs that the URL names.
///
/// # Errors
/// What is wrong with it.
pub fn check_git_url(url: &str) -> Result<(), String> {
    if url.is_empty() {
        return Err("is missing; give a URL such as https://git.example/team/app.git".to_owned());
    }
    if url.len() > 2048 || url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("is longer than 2048 characters, or has white space in it".to_owned());
    }
    let rest = match url.split_once("://") {
        Some(("https" | "file", rest)) => rest,
        _ => {
            return Err(format!(
                "{url:?} is neither an https:// nor a file:// URL; other ways to a repository are not taken"
            ));
        }
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        return Err(
            "has credentials in it, which logs would show; put them into a git secret (`ignite secret create NAME --type git`) and name it in secret_ref"
                .to_owned(),
        );
    }
    if url.starts_with("file:") && !rest.starts_with('/') {
        return Err(format!("{url:?} names a host; write file:///path"));
    }
    if url.starts_with("https:") && host.is_empty() {
        return Err(format!("{url:?} has no host"));
    }
    Ok(())
}

/// Checks the name of a toolchain or target, which goes into a command; empty means the platform's.
///
/// # Errors
/// What is wrong with it.
pub fn check_toolchain(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.len() > 128 || name.starts_with('-') || !name.chars().all(fits) {
        return Err(format!(
            "{name:?} is neither a toolchain nor a target, such as 1.90.0 or x86_64-unknown-linux-musl"
        ));
    }
    Ok(())
}

/// Checks a branch, tag or commit; empty means the default branch.
///
/// # Errors
/// What is wrong with it.
pub fn check_git_ref(reference: &str) -> Result<(), String> {
    // Text that git refuses, and text that it would read as an option or as several refs.
    let illegal = |c: char| c.is_whitespace() || c.is_control() || "~^:?*[\\".contains(c);
    if reference.len() > 512
        || reference.starts_with(['-', '+'])
        || reference.contains("..")
        || reference.contains("@{")
        || reference.chars().any(illegal)
    {
        return Err(format!(
            "{reference:?} is no name of a branch, tag or commit"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(sha256: &str, dockerfile: &str) -> CodeSource {
        CodeSource::FromCode(FromCode {
            archive: Blob {
                id: ulid::Ulid::generate().to_string(),
                len: 1,
                sha256: sha256.to_owned(),
            },
            dockerfile_path: dockerfile.to_owned(),
            build_args: BuildArgs::default(),
            registry_secret_ref: String::new(),
        })
    }

    #[test]
    fn the_hash_follows_the_content_and_not_the_file_that_holds_it() {
        assert_eq!(code("a", "D").code_hash(), code("a", "D").code_hash());
        assert_ne!(code("a", "D").code_hash(), code("b", "D").code_hash());
        assert_ne!(code("a", "D").code_hash(), code("a", "E").code_hash());
    }

    #[test]
    fn only_urls_and_refs_that_run_nothing_pass() {
        for good in [
            "https://git.example/a/b.git",
            "https://h:8443/a",
            "file:///srv/a",
        ] {
            assert_eq!(check_git_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "ext::sh -c id",
            "ext::id",
            "ssh://h/a",
            "git@h:a/b",
            "http://h/a",
            "https://u:p@h/a",
            "https:///a",
            "file://h/a",
            "--upload-pack=id",
        ] {
            assert!(check_git_url(bad).is_err(), "{bad}");
        }
        for good in ["", "main", "v1.2", "feature/x", "0123456789abcdef"] {
            assert_eq!(check_git_ref(good), Ok(()), "{good}");
        }
        for bad in ["--upload-pack=id", "a b", "a:b", "+a", "a..b", "a^{}"] {
            assert!(check_git_ref(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn toolchains_and_targets_are_words() {
        for good in [
            "",
            "1.90.0",
            "nightly-2026-01-01",
            "x86_64-unknown-linux-musl",
        ] {
            assert_eq!(check_toolchain(good), Ok(()), "{good}");
        }
        for bad in ["-v", "a b", "a;b", "$(id)"] {
            assert!(check_toolchain(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_build_id_reads_back() {
        let id = BuildId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("exec_01HZX9".parse::<BuildId>().is_err());
    }
}
