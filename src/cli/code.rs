//! Code sources on the command line.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::ValueEnum;

use super::{Error, folder::Folder};
use crate::{
    api::proto::v1,
    model::{
        AppId,
        code::{DEFAULT_DOCKERFILE, check_toolchain},
    },
};

/// A managed language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Language {
    Python,
    Rust,
    Go,
    Deno,
}

/// Where the code comes from; exactly one of a folder or file, an image, and a git repository.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("from").required(true).multiple(false))]
#[group(skip)]
pub(super) struct Source {
    /// A folder, its .zip or .tar.gz archive, or with --runtime a single source file.
    #[arg(short, long, value_name = "PATH", group = "from")]
    code: Option<PathBuf>,
    /// An existing image: a tag or id on the server's machine, or a reference to pull.
    #[arg(long, value_name = "REFERENCE", group = "from", conflicts_with_all = ["dockerfile_path", "build_args", "runtime"])]
    image_ref: Option<String>,
    /// A git repository, via https or as file:///path on the server's machine.
    #[arg(long, value_name = "URL", group = "from", conflicts_with_all = ["build_args", "runtime"])]
    git_url: Option<String>,
    /// The branch, tag or commit [default: the repository's default branch].
    #[arg(long, value_name = "REF", conflicts_with_all = ["code", "image_ref"])]
    git_ref: Option<String>,
    /// The folder in the repository to build [default: the root].
    #[arg(long, value_name = "PATH", conflicts_with_all = ["code", "image_ref"])]
    git_sub_path: Option<String>,
    /// The git secret to fetch the repository with.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["code", "image_ref"])]
    git_secret_ref: Option<String>,
    #[command(flatten)]
    how: How,
}

/// How code is built.
#[derive(Debug, Default, clap::Args)]
pub(super) struct How {
    /// The path of the Dockerfile in the folder [default: Dockerfile].
    #[arg(long, value_name = "PATH", conflicts_with = "runtime")]
    dockerfile_path: Option<String>,
    /// A value for an ARG of the Dockerfile; repeatable.
    #[arg(long = "build-arg", value_name = "NAME=VALUE", value_parser = argument, conflicts_with = "runtime")]
    build_args: Vec<(String, String)>,
    /// The language of a handler, around which the platform wraps a server [default: that of the
    /// code's files, where there is no Dockerfile].
    #[arg(long, value_enum)]
    runtime: Option<Language>,
    /// The toolchain for a Rust handler, such as 1.90 [default: the builder's].
    #[arg(long, value_name = "VERSION", requires = "runtime", value_parser = of_rustup)]
    toolchain: Option<String>,
    /// The target for a Rust handler, such as x86_64-unknown-linux-musl [default: the builder's].
    #[arg(long, value_name = "TRIPLE", requires = "runtime", value_parser = of_rustup)]
    target: Option<String>,
    /// The secret for pulling the image or the base images of the Dockerfile.
    #[arg(long, value_name = "NAME", conflicts_with = "runtime")]
    registry_secret_ref: Option<String>,
}

fn argument(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE, such as VERSION=1.2".to_owned()),
    }
}

impl Source {
    /// The source for the code in a folder.
    pub(super) fn of_folder(folder: PathBuf, how: How) -> Self {
        Self {
            code: Some(folder),
            image_ref: None,
            git_url: None,
            git_ref: None,
            git_sub_path: None,
            git_secret_ref: None,
            how,
        }
    }

    /// The name of the code, for people.
    pub(super) fn name(&self) -> String {
        if let Some(path) = &self.code {
            return path.display().to_string();
        }
        match (&self.image_ref, &self.git_url) {
            (Some(image), _) => image.clone(),
            (None, Some(url)) => match &self.git_ref {
                Some(reference) => format!("{url} at {reference}"),
                None => url.clone(),
            },
            (None, None) => String::new(),
        }
    }

    /// Whether it has to be built.
    pub(super) fn is_built(&self) -> bool {
        self.image_ref.is_none()
    }

    /// The request that saves this code as the app's draft.
    ///
    /// # Errors
    /// When the folder or file cannot be read, or cannot be sent as code.
    pub(super) fn save(&self, app: &AppId) -> Result<v1::SaveDraftRequest, Error> {
        Ok(v1::SaveDraftRequest {
            organization_name: app.org.to_string(),
            app_name: app.name.to_string(),
            code: Some(v1::CodeSource {
                source: Some(self.source()?),
            }),
        })
    }

    /// When the folder was last changed; `None` if the code is not a folder or cannot be read.
    pub(super) fn changed_at(&self) -> Option<SystemTime> {
        let folder = Folder::open(self.code.as_ref()?, self.how.dockerfile()).ok()?;
        folder.changed_at().ok()
    }

    fn source(&self) -> Result<v1::code_source::Source, Error> {
        use v1::image_source::Source as Image;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let how = &self.how;
        let image = if let Some(path) = &self.code {
            let archive = bytes(path, how.dockerfile())?.into();
            if let Some(language) = how.runtime {
                let has_choice = how.toolchain.is_some() || how.target.is_some();
                if has_choice && language != Language::Rust {
                    let why = "--toolchain and --target are for handlers in Rust";
                    return Err(Error::Usage(why.to_owned()));
                }
                return Ok(v1::code_source::Source::Compile(v1::CompileSource {
                    runtime: Some(v1::Runtime {
                        runtime: Some(how.to_wire(language)),
                    }),
                    source_code: archive,
                }));
            }
            Image::FromCode(v1::ImageFromCode {
                archive,
                dockerfile_path: text(&how.dockerfile_path),
                build_args: how.build_args.iter().cloned().collect(),
            })
        } else if let Some(url) = &self.git_url {
            Image::FromGit(v1::ImageFromGit {
                url: url.clone(),
                r#ref: text(&self.git_ref),
                sub_path: text(&self.git_sub_path),
                dockerfile_path: text(&how.dockerfile_path),
                secret_ref: text(&self.git_secret_ref),
            })
        } else {
            Image::Prebuilt(v1::PrebuiltImage {
                image_ref: text(&self.image_ref),
            })
        };
        Ok(v1::code_source::Source::Image(v1::ImageSource {
            source: Some(image),
            registry_secret_ref: text(&how.registry_secret_ref),
        }))
    }
}

impl How {
    /// The Dockerfile that the code is built with; `None` if the platform provides it.
    fn dockerfile(&self) -> Option<&str> {
        let own = self.dockerfile_path.as_deref();
        match self.runtime {
            Some(_) => None,
            None => Some(own.unwrap_or(DEFAULT_DOCKERFILE)),
        }
    }

    fn to_wire(&self, language: Language) -> v1::runtime::Runtime {
        match language {
            Language::Python => v1::runtime::Runtime::Python(v1::PythonRuntime {}),
            Language::Rust => v1::runtime::Runtime::Rust(v1::RustRuntime {
                target: v1::RustCompilationTarget::Native.into(),
                toolchain_version: self.toolchain.clone().unwrap_or_default(),
                target_triple: self.target.clone().unwrap_or_default(),
            }),
            Language::Go => v1::runtime::Runtime::Go(v1::GoRuntime {}),
            Language::Deno => v1::runtime::Runtime::Deno(v1::DenoRuntime {}),
        }
    }
}

/// Parses the name of a toolchain or target, which is handed to rustup.
fn of_rustup(name: &str) -> Result<String, String> {
    check_toolchain(name).map(|()| name.to_owned())
}

/// The bytes to send for a path: a folder is packed, an archive is sent unchanged, and so is a
/// single file if no Dockerfile is needed.
fn bytes(path: &Path, dockerfile: Option<&str>) -> Result<Vec<u8>, Error> {
    let cannot =
        |e: io::Error| Error::Usage(format!("the code {} cannot be read: {e}", path.display()));
    if fs::metadata(path).map_err(cannot)?.is_dir() {
        let folder = Folder::open(path, dockerfile).map_err(Error::Usage)?;
        return folder.pack().map_err(cannot);
    }
    let bytes = fs::read(path).map_err(cannot)?;
    let is_archive = bytes.starts_with(b"PK") || bytes.starts_with(&[0x1f, 0x8b]);
    if is_archive || dockerfile.is_none() {
        return Ok(bytes);
    }
    Err(Error::Usage(format!(
        "{} is neither a folder nor a .zip nor a .tar.gz; give the folder that its Dockerfile is in, or --runtime for one source file",
        path.display()
    )))
}
