//! The records of code and builds.

use std::collections::BTreeMap;

use prost::Message;

use crate::model::{
    Blob, BuildArgs, CodeSource, ImageSource, Reason,
    build_args::SealedArgs,
    code::{BuildError, Built, BuiltImage, Compile, FromCode, FromGit, Overlay, Runtime},
};

#[derive(Clone, PartialEq, Message)]
pub(super) struct SourceRecord {
    #[prost(string, tag = "1")]
    pub(super) image_ref: String,
    #[prost(string, tag = "2")]
    registry_secret_ref: String,
    /// 0 an image that exists, 1 from code, 2 from git, 3 compile.
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(message, optional, tag = "4")]
    blob: Option<BlobRecord>,
    #[prost(string, tag = "5")]
    dockerfile_path: String,
    #[prost(btree_map = "string, string", tag = "6")]
    build_args: BTreeMap<String, String>,
    #[prost(string, tag = "7")]
    url: String,
    #[prost(string, tag = "8")]
    reference: String,
    #[prost(string, tag = "9")]
    sub_path: String,
    #[prost(string, tag = "10")]
    secret_ref: String,
    /// 0 Python, 1 Rust, 2 Go, 3 Deno.
    #[prost(uint32, tag = "11")]
    runtime: u32,
    #[prost(string, tag = "12")]
    target: String,
    #[prost(string, tag = "13")]
    toolchain: String,
    /// Replaces `build_args`, which earlier releases wrote.
    #[prost(bytes = "vec", tag = "14")]
    sealed_args: Vec<u8>,
    #[prost(string, tag = "15")]
    args_mark: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct BlobRecord {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(uint64, tag = "2")]
    len: u64,
    #[prost(string, tag = "3")]
    sha256: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OverlayRecord {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(message, optional, tag = "2")]
    files: Option<BlobRecord>,
}

/// A build without a `reason` succeeded.
#[derive(Clone, PartialEq, Message)]
pub(super) struct BuiltRecord {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    image_ref: String,
    #[prost(string, tag = "3")]
    image_id: String,
    #[prost(string, tag = "4")]
    reason: String,
    #[prost(string, tag = "5")]
    message: String,
}

fn blob_record(blob: &Blob) -> BlobRecord {
    BlobRecord {
        id: blob.id.clone(),
        len: blob.len,
        sha256: blob.sha256.clone(),
    }
}

fn blob(record: Option<BlobRecord>) -> Result<Blob, String> {
    let blob = record.ok_or("the code names no file")?;
    // It becomes a file name.
    ulid::Ulid::from_string(&blob.id)
        .map_err(|_| format!("the code's file is called {:?}", blob.id))?;
    Ok(Blob {
        id: blob.id,
        len: blob.len,
        sha256: blob.sha256,
    })
}

pub(super) fn overlay_record(overlay: &Overlay) -> OverlayRecord {
    OverlayRecord {
        path: overlay.path.clone(),
        files: Some(blob_record(&overlay.files)),
    }
}

pub(super) fn overlay(record: OverlayRecord) -> Result<Overlay, String> {
    Ok(Overlay {
        path: record.path,
        files: blob(record.files)?,
    })
}

pub(super) fn source_record(source: &CodeSource) -> SourceRecord {
    let mut r = SourceRecord {
        blob: source.bytes().map(blob_record),
        ..SourceRecord::default()
    };
    match source {
        CodeSource::Prebuilt(image) => {
            r.image_ref = image.image_ref.clone();
            r.registry_secret_ref = image.registry_secret_ref.clone();
        }
        CodeSource::FromCode(code) => {
            r.kind = 1;
            r.dockerfile_path = code.dockerfile_path.clone();
            match &code.build_args {
                BuildArgs::Clear(values) => r.build_args = values.clone(),
                BuildArgs::Sealed(args) => {
                    r.sealed_args = args.sealed.clone();
                    r.args_mark = args.mark.clone();
                }
            }
            r.registry_secret_ref = code.registry_secret_ref.clone();
        }
        CodeSource::FromGit(git) => {
            r.kind = 2;
            r.url = git.url.clone();
            r.reference = git.reference.clone();
            r.sub_path = git.sub_path.clone();
            r.dockerfile_path = git.dockerfile_path.clone();
            r.secret_ref = git.secret_ref.clone();
            r.registry_secret_ref = git.registry_secret_ref.clone();
        }
        CodeSource::Compile(compile) => {
            r.kind = 3;
            match &compile.runtime {
                Runtime::Python => r.runtime = 0,
                Runtime::Rust { target, toolchain } => {
                    r.runtime = 1;
                    r.target = target.clone();
                    r.toolchain = toolchain.clone();
                }
                Runtime::Go => r.runtime = 2,
                Runtime::Deno => r.runtime = 3,
            }
        }
    }
    r
}

pub(super) fn source(r: SourceRecord) -> Result<CodeSource, String> {
    Ok(match r.kind {
        0 => CodeSource::Prebuilt(ImageSource {
            image_ref: r.image_ref,
            registry_secret_ref: r.registry_secret_ref,
        }),
        1 => CodeSource::FromCode(FromCode {
            archive: blob(r.blob)?,
            dockerfile_path: r.dockerfile_path,
            build_args: if r.sealed_args.is_empty() {
                BuildArgs::Clear(r.build_args)
            } else {
                BuildArgs::Sealed(SealedArgs {
                    sealed: r.sealed_args,
                    mark: r.args_mark,
                })
            },
            registry_secret_ref: r.registry_secret_ref,
        }),
        2 => CodeSource::FromGit(FromGit {
            url: r.url,
            reference: r.reference,
            sub_path: r.sub_path,
            dockerfile_path: r.dockerfile_path,
            secret_ref: r.secret_ref,
            registry_secret_ref: r.registry_secret_ref,
        }),
        3 => CodeSource::Compile(Compile {
            runtime: match r.runtime {
                0 => Runtime::Python,
                1 => Runtime::Rust {
                    target: triple(r.target),
                    toolchain: r.toolchain,
                },
                2 => Runtime::Go,
                3 => Runtime::Deno,
                n => return Err(format!("runtime {n} is not known")),
            },
            source: blob(r.blob)?,
        }),
        n => return Err(format!("kind of code {n} is not known")),
    })
}

/// The target triple of a record. The names of the contract's enum were stored as if they were
/// triples while the field was text; the builder's own target is what they stand for.
fn triple(stored: String) -> String {
    const NAMES: [&str; 2] = [
        "RUST_COMPILATION_TARGET_UNSPECIFIED",
        "RUST_COMPILATION_TARGET_NATIVE",
    ];
    if NAMES.contains(&stored.as_str()) {
        String::new()
    } else {
        stored
    }
}

pub(super) fn built_record(built: &Built) -> BuiltRecord {
    let mut r = BuiltRecord {
        id: built.id.to_string(),
        ..BuiltRecord::default()
    };
    match &built.outcome {
        Ok(image) => {
            r.image_ref = image.image_ref.clone();
            r.image_id = image.image_id.clone();
        }
        Err(error) => {
            r.reason = error.reason.as_str().to_owned();
            r.message = error.message.clone();
        }
    }
    r
}

pub(super) fn built(r: BuiltRecord) -> Result<Built, String> {
    Ok(Built {
        id: r.id.parse().map_err(|e| format!("{e}"))?,
        outcome: if r.reason.is_empty() {
            Ok(BuiltImage {
                image_ref: r.image_ref,
                image_id: r.image_id,
            })
        } else {
            Err(BuildError {
                // An unknown reason, of a newer ignite, is a failure all the same.
                reason: Reason::parse(&r.reason).unwrap_or(Reason::BuildFailed),
                message: r.message,
            })
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The record of a handler in Rust as it was written while the API's `target` was text.
    fn written(target: &str) -> Vec<u8> {
        let mut record =
            b"\x18\x03\x22\x22\x0a\x1a01ARZ3NDEKTSV4RRFFQ69G5FAV\x10\x04\x1a\x02ab\x58\x01"
                .to_vec();
        record.extend([0x62, u8::try_from(target.len()).expect("short")]);
        record.extend(target.as_bytes());
        record.extend(b"\x6a\x061.90.0");
        record
    }

    fn read(record: &[u8]) -> CodeSource {
        source(SourceRecord::decode(record).expect("a record")).expect("code")
    }

    #[test]
    fn a_target_that_an_older_one_wrote_is_read() {
        let code = |target: &str| {
            CodeSource::Compile(Compile {
                runtime: Runtime::Rust {
                    target: target.to_owned(),
                    toolchain: "1.90.0".to_owned(),
                },
                source: Blob {
                    id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned(),
                    len: 4,
                    sha256: "ab".to_owned(),
                },
            })
        };
        let triple = "x86_64-unknown-linux-musl";
        assert_eq!(read(&written(triple)), code(triple));
        // As it is written still, so that an older one reads it, too.
        assert_eq!(
            source_record(&code(triple)).encode_to_vec(),
            written(triple)
        );
        for name in [
            "RUST_COMPILATION_TARGET_NATIVE",
            "RUST_COMPILATION_TARGET_UNSPECIFIED",
        ] {
            assert_eq!(read(&written(name)), code(""), "{name}");
        }
    }
}
