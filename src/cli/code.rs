//! Code sources on the command line.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::ValueEnum;

use super::{
    Error,
    failure::note,
    folder::Folder,
    template::{self, Bases, Detected, Live},
};
use crate::{
    api::proto::v1,
    model::{
        AppId,
        code::{DEFAULT_DOCKERFILE, check_toolchain},
        ignorefile,
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

impl Language {
    /// The language of one source file, by its name.
    fn of_file(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "py" => Some(Language::Python),
            "rs" => Some(Language::Rust),
            "go" => Some(Language::Go),
            "ts" | "js" => Some(Language::Deno),
            _ => None,
        }
    }
}

/// What Rust is compiled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RustTarget {
    /// A program.
    Native,
    /// A WebAssembly component, which only the cloud runs.
    Wasm,
}

/// What is said of the code of an app that is created without any.
#[derive(Debug, clap::Args)]
pub(super) struct CodeWords {
    /// The language; that of the code counts, so it belongs to `draft save` and `app deploy`.
    #[arg(long, value_enum, ignore_case = true)]
    runtime: Option<Language>,
    /// What Rust is compiled to; as --runtime.
    #[arg(long, value_enum, ignore_case = true)]
    rust_target: Option<RustTarget>,
    /// The toolchain of a handler in Rust; as --runtime.
    #[arg(long, value_name = "VERSION")]
    toolchain: Option<String>,
}

impl CodeWords {
    /// Says that it was of no use.
    pub(super) fn warn(&self) {
        let given = [
            (self.runtime.is_some(), "--runtime"),
            (self.rust_target.is_some(), "--rust-target"),
            (self.toolchain.is_some(), "--toolchain"),
        ];
        for (_, option) in given.iter().filter(|(is_given, _)| *is_given) {
            note(&format!(
                "warning: {option} is not used here: it is the code that has a language; give it to `ignite draft save` or `ignite app deploy`"
            ));
        }
    }
}

/// Where the code comes from; exactly one of a folder or file, an image, and a git repository.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("from").required(true).multiple(false))]
#[group(skip)]
pub(super) struct Source {
    /// A folder, its .zip or .tar.gz archive, or a single source file.
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
    #[arg(long, value_enum, ignore_case = true)]
    runtime: Option<Language>,
    /// What a Rust handler is compiled to.
    #[arg(long, value_enum, ignore_case = true)]
    rust_target: Option<RustTarget>,
    /// The toolchain for a Rust handler, such as 1.90 [default: the builder's].
    #[arg(long, value_name = "VERSION", requires = "runtime", value_parser = of_rustup)]
    toolchain: Option<String>,
    /// The target for a Rust handler, such as x86_64-unknown-linux-musl [default: the builder's].
    #[arg(long, value_name = "TRIPLE", requires = "runtime", value_parser = of_rustup)]
    target: Option<String>,
    /// The secret for pulling the image or the base images of the Dockerfile.
    #[arg(long, value_name = "NAME", conflicts_with = "runtime")]
    registry_secret_ref: Option<String>,
    #[command(flatten)]
    bases: Bases,
}

/// Code to save.
pub(super) struct Code {
    /// The request that saves it.
    pub(super) request: v1::SaveDraftRequest,
    /// What a folder without a Dockerfile was found to be.
    found: Option<String>,
    /// Where the image has the code, if an interpreter reads it there.
    pub(super) live: Option<Live>,
}

impl Code {
    /// Says what the code was found to be.
    pub(super) fn explain(&self) {
        if let Some(found) = &self.found {
            note(found);
        }
    }

    /// The archive that is sent, if the code is one.
    pub(super) fn archive(&self) -> Option<&[u8]> {
        use v1::{code_source::Source, image_source::Source as Image};
        match self.request.code.as_ref()?.source.as_ref()? {
            Source::Compile(code) => Some(&code.source_code),
            Source::Image(image) => match image.source.as_ref()? {
                Image::FromCode(code) => Some(&code.archive),
                _ => None,
            },
        }
    }
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
    pub(super) fn save(&self, app: &AppId) -> Result<Code, Error> {
        let mut found = Sent::default();
        let source = self.source(&mut found)?;
        Ok(Code {
            request: v1::SaveDraftRequest {
                organization_name: app.org.to_string(),
                app_name: app.name.to_string(),
                code: Some(v1::CodeSource {
                    source: Some(source),
                }),
            },
            found: found.found,
            live: found.live,
        })
    }

    /// When the folder was last changed; `None` if the code is not a folder or cannot be read.
    pub(super) fn changed_at(&self) -> Option<SystemTime> {
        let folder = Folder::open(self.code.as_ref()?, self.how.dockerfile()).ok()?;
        folder.changed_at().ok()
    }

    /// The code as it is sent; `sent` gets what was found out on the way.
    fn source(&self, sent: &mut Sent) -> Result<v1::code_source::Source, Error> {
        use v1::image_source::Source as Image;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let how = &self.how;
        how.check()?;
        let image = if let Some(path) = &self.code {
            *sent = read(path, how)?;
            let archive = std::mem::take(&mut sent.bytes).into();
            if let Some(language) = sent.language {
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
    /// Refuses what is for Rust alone with another language, and what does not run here.
    fn check(&self) -> Result<(), Error> {
        let wrong = match (self.runtime, self.rust_target) {
            (_, Some(RustTarget::Wasm)) => {
                "--rust-target wasm makes a WebAssembly component, which only the cloud runs; here apps are containers: use --rust-target native"
            }
            (Some(Language::Python | Language::Go | Language::Deno), target)
                if target.is_some() || self.toolchain.is_some() || self.target.is_some() =>
            {
                "--rust-target, --toolchain and --target are for handlers in Rust; leave them out, or give --runtime rust"
            }
            _ if self.bases.are_given()
                && (self.runtime.is_some() || self.dockerfile_path.is_some()) =>
            {
                "--template, --base and --run-base are for a Dockerfile that is made from a template; leave them out, or leave out --runtime and --dockerfile-path"
            }
            _ => return Ok(()),
        };
        Err(Error::Usage(wrong.to_owned()))
    }

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

/// What is sent for a path.
#[derive(Default)]
struct Sent {
    bytes: Vec<u8>,
    /// The language, when the platform has a server for it.
    language: Option<Language>,
    found: Option<String>,
    live: Option<Live>,
}

/// The bytes to send for a path: a folder is packed, an archive is taken as it is, and so is one
/// source file.
fn read(path: &Path, how: &How) -> Result<Sent, Error> {
    let cannot =
        |e: io::Error| Error::Usage(format!("the code {} cannot be read: {e}", path.display()));
    if fs::metadata(path).map_err(cannot)?.is_dir() {
        let folder = Folder::open(path, how.dockerfile()).map_err(Error::Usage)?;
        let detected = match (how.runtime, &how.dockerfile_path) {
            (None, None) => template::detect(path, &how.bases).map_err(Error::Usage)?,
            _ => Detected::Dockerfile,
        };
        let mut more = Vec::new();
        let mut sent = Sent {
            language: how.runtime,
            ..Sent::default()
        };
        match &detected {
            Detected::Template(made) => {
                more.push((DEFAULT_DOCKERFILE, made.dockerfile.as_str()));
                if !path.join(ignorefile::NAME).exists() {
                    more.push((ignorefile::NAME, template::IGNORED));
                }
                sent.found = Some(made.sentence());
                sent.live = made.live;
            }
            Detected::Handler(why) if why == template::PYTHON_HANDLER => {
                sent.live = Some(template::HANDLER_CODE);
            }
            Detected::Dockerfile if how.runtime == Some(Language::Python) => {
                sent.live = Some(template::HANDLER_CODE);
            }
            Detected::Handler(_) | Detected::Dockerfile => {}
        }
        sent.bytes = folder.pack(&more).map_err(cannot)?;
        return Ok(sent);
    }
    if how.bases.are_given() {
        return Err(Error::Usage(format!(
            "--template, --base and --run-base are for a folder without a Dockerfile, and {} is none",
            path.display()
        )));
    }
    let bytes = fs::read(path).map_err(cannot)?;
    let is_archive = bytes.starts_with(b"PK") || bytes.starts_with(&[0x1f, 0x8b]);
    // Its name does not get to the server, so its language is found out here.
    let by_name = || Language::of_file(path).filter(|_| !is_archive);
    let language = how.runtime.or_else(by_name);
    if is_archive || language.is_some() {
        return Ok(Sent {
            bytes,
            language,
            ..Sent::default()
        });
    }
    Err(Error::Usage(format!(
        "{} is neither a folder nor a .zip nor a .tar.gz, nor a source file of a language with a runtime; give the folder that its Dockerfile is in, or --runtime for one source file",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(words: &str) -> How {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            how: How,
        }
        let words = ["x"].into_iter().chain(words.split_whitespace());
        <Line as clap::Parser>::parse_from(words).how
    }

    #[test]
    fn code_without_a_runtime_is_recognized_by_the_server_and_one_file_by_its_name() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, content) in [
            ("handler.py", "def"),
            ("main.ts", "start"),
            ("notes.txt", "x"),
        ] {
            fs::write(dir.path().join(name), content).expect("written");
        }
        let source = |path: &str, words: &str| {
            let source = Source::of_folder(dir.path().join(path), how(words));
            source.source(&mut Sent::default())
        };
        use v1::{code_source::Source as Wire, image_source::Source as Image};
        let language = |path: &str, words: &str| match source(path, words) {
            Ok(Wire::Compile(compile)) => compile.runtime.and_then(|r| r.runtime),
            other => panic!("{path}: {other:?}"),
        };
        let folder = source("", "").expect("a folder without a Dockerfile");
        let Wire::Image(v1::ImageSource {
            source: Some(Image::FromCode(code)),
            ..
        }) = folder
        else {
            panic!("{folder:?}");
        };
        assert!(code.dockerfile_path.is_empty() && code.archive.starts_with(&[0x1f, 0x8b]));
        use v1::runtime::Runtime;
        assert!(matches!(language("", "--runtime Go"), Some(Runtime::Go(_))));
        assert!(matches!(
            language("handler.py", ""),
            Some(Runtime::Python(_))
        ));
        assert!(matches!(language("main.ts", ""), Some(Runtime::Deno(_))));
        assert!(matches!(
            language("notes.txt", "--runtime rust"),
            Some(Runtime::Rust(_))
        ));
        for (path, words, named) in [
            ("notes.txt", "", "--runtime"),
            ("", "--rust-target wasm", "--rust-target native"),
            (
                "",
                "--runtime python --rust-target native",
                "--runtime rust",
            ),
            ("", "--runtime deno --toolchain 1.90", "--runtime rust"),
        ] {
            match source(path, words) {
                Err(Error::Usage(why)) => assert!(why.contains(named), "{why}"),
                other => panic!("{path} {words}: {other:?}"),
            }
        }
    }
}
