//! Where code comes from on the command line, and how a folder becomes an archive.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use flate2::{Compression, write::GzEncoder};

use super::{Error, failure::note};
use crate::{api::proto::v1, model::AppId};

/// What tools make and a build makes anew: never sent, wherever in the folder it is.
const LEFT_OUT: [&str; 5] = [".git", "node_modules", "__pycache__", "target", ".venv"];
/// The time of every packed file, so that equal folders make equal archives: 2 January 1980, since
/// tools that make zip archives refuse what is older.
const PACKED_AT: u64 = 315_619_200;

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
    /// A folder, a .zip or .tar.gz of one, or with --runtime also one source file.
    #[arg(short, long, value_name = "PATH", group = "from")]
    code: Option<PathBuf>,
    /// An image that exists: a tag or id on the server's machine, or a reference to pull.
    #[arg(long, value_name = "REFERENCE", group = "from")]
    image_ref: Option<String>,
    /// A git repository, over https or as file:///path on the server's machine.
    #[arg(long, value_name = "URL", group = "from")]
    git_url: Option<String>,
    /// The branch, tag or commit [default: the repository's default branch].
    #[arg(long, value_name = "REF", conflicts_with_all = ["code", "image_ref"])]
    git_ref: Option<String>,
    /// The folder in the repository that is built [default: its root].
    #[arg(long, value_name = "PATH", conflicts_with_all = ["code", "image_ref"])]
    git_sub_path: Option<String>,
    /// The git secret to fetch the repository with.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["code", "image_ref"])]
    git_secret_ref: Option<String>,
    /// Where the Dockerfile is in the folder [default: Dockerfile].
    #[arg(long, value_name = "PATH", conflicts_with_all = ["image_ref", "runtime"])]
    dockerfile_path: Option<String>,
    /// A value for an ARG of the Dockerfile; repeatable.
    #[arg(long = "build-arg", value_name = "NAME=VALUE", value_parser = argument, conflicts_with_all = ["image_ref", "git_url", "runtime"])]
    build_args: Vec<(String, String)>,
    /// The language of a handler that the platform wraps a server around.
    #[arg(long, value_enum, conflicts_with_all = ["image_ref", "git_url"])]
    runtime: Option<Language>,
    /// The secret to pull the image, or base images of the Dockerfile, with.
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
    /// The code, for people.
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
    /// When the folder or file cannot be read, or is none that can be sent.
    pub(super) fn save(&self, app: &AppId) -> Result<v1::SaveDraftRequest, Error> {
        Ok(v1::SaveDraftRequest {
            organization_name: app.org.to_string(),
            app_name: app.name.to_string(),
            code: Some(v1::CodeSource {
                source: Some(self.source()?),
            }),
        })
    }

    fn source(&self) -> Result<v1::code_source::Source, Error> {
        use v1::image_source::Source as Image;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let image = if let Some(path) = &self.code {
            if let Some(language) = self.runtime {
                return Ok(v1::code_source::Source::Compile(v1::CompileSource {
                    runtime: Some(v1::Runtime {
                        runtime: Some(language.to_wire()),
                    }),
                    source_code: bytes(path, true)?.into(),
                }));
            }
            Image::FromCode(v1::ImageFromCode {
                archive: bytes(path, false)?.into(),
                dockerfile_path: text(&self.dockerfile_path),
                build_args: self.build_args.iter().cloned().collect(),
            })
        } else if let Some(url) = &self.git_url {
            Image::FromGit(v1::ImageFromGit {
                url: url.clone(),
                r#ref: text(&self.git_ref),
                sub_path: text(&self.git_sub_path),
                dockerfile_path: text(&self.dockerfile_path),
                secret_ref: text(&self.git_secret_ref),
            })
        } else {
            Image::Prebuilt(v1::PrebuiltImage {
                image_ref: text(&self.image_ref),
            })
        };
        Ok(v1::code_source::Source::Image(v1::ImageSource {
            source: Some(image),
            registry_secret_ref: text(&self.registry_secret_ref),
        }))
    }
}

impl Language {
    fn to_wire(self) -> v1::runtime::Runtime {
        match self {
            Language::Python => v1::runtime::Runtime::Python(v1::PythonRuntime {}),
            Language::Rust => v1::runtime::Runtime::Rust(v1::RustRuntime::default()),
            Language::Go => v1::runtime::Runtime::Go(v1::GoRuntime {}),
            Language::Deno => v1::runtime::Runtime::Deno(v1::DenoRuntime {}),
        }
    }
}

/// The bytes to send for a path: a folder is packed, an archive is taken as it is.
fn bytes(path: &Path, may_be_one_file: bool) -> Result<Vec<u8>, Error> {
    let cannot =
        |e: io::Error| Error::Usage(format!("the code {} cannot be read: {e}", path.display()));
    if fs::metadata(path).map_err(cannot)?.is_dir() {
        return pack(path).map_err(cannot);
    }
    let bytes = fs::read(path).map_err(cannot)?;
    let is_archive = bytes.starts_with(b"PK") || bytes.starts_with(&[0x1f, 0x8b]);
    if is_archive || may_be_one_file {
        return Ok(bytes);
    }
    Err(Error::Usage(format!(
        "{} is neither a folder nor a .zip nor a .tar.gz; give the folder that its Dockerfile is in, or --runtime for one source file",
        path.display()
    )))
}

/// Packs a folder as .tar.gz. Equal folders give equal bytes.
pub(super) fn pack(folder: &Path) -> io::Result<Vec<u8>> {
    let gz = GzEncoder::new(Vec::new(), Compression::default());
    let mut archive = tar::Builder::new(gz);
    add(&mut archive, folder, Path::new(""))?;
    archive.into_inner()?.finish()
}

fn add<W: io::Write>(archive: &mut tar::Builder<W>, folder: &Path, below: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut names = fs::read_dir(folder.join(below))?
        .map(|entry| entry.map(|e| e.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    for name in names {
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let path = below.join(&name);
        let on_disk = folder.join(&path);
        let meta = on_disk.symlink_metadata()?;
        let mut header = tar::Header::new_gnu();
        header.set_mtime(PACKED_AT);
        header.set_mode(match meta.permissions().mode() & 0o111 {
            0 if meta.is_file() => 0o644,
            _ => 0o755,
        });
        if meta.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            archive.append_data(&mut header, &path, io::empty())?;
            add(archive, folder, &path)?;
        } else if meta.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, &path, fs::read_link(&on_disk)?)?;
        } else if meta.is_file() {
            header.set_size(meta.len());
            archive.append_data(&mut header, &path, fs::File::open(&on_disk)?)?;
        } else {
            note(&format!("{} is no file and is left out", on_disk.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_folders_pack_to_equal_bytes_without_what_tools_have_made() {
        let fill = |dir: &Path| {
            for name in [
                "b",
                "a/x",
                ".git/config",
                "a/node_modules/m/i.js",
                "target/t",
                "a/__pycache__/p",
            ] {
                let path = dir.join(name);
                fs::create_dir_all(path.parent().expect("a folder")).expect("made");
                fs::write(path, name).expect("written");
            }
            std::os::unix::fs::symlink("a/x", dir.join("l")).expect("made");
            pack(dir).expect("packs")
        };
        let (one, two) = (tempfile::tempdir(), tempfile::tempdir());
        let (one, two) = (one.expect("a directory"), two.expect("a directory"));
        let packed = fill(one.path());
        // As if written at another time.
        fs::write(two.path().join("b"), "other").expect("written");
        fs::File::open(one.path().join("b"))
            .and_then(|f| f.set_modified(std::time::UNIX_EPOCH))
            .expect("set");
        assert_eq!(packed, fill(two.path()));
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&packed[..]));
        let names: Vec<_> = archive
            .entries()
            .expect("an archive")
            .map(|e| {
                e.expect("an entry")
                    .path()
                    .expect("a path")
                    .display()
                    .to_string()
            })
            .collect();
        assert_eq!(names, ["a", "a/x", "b", "l"]);
    }
}
