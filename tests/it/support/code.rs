//! Folders of code whose images are the probe, and archives of them.

use std::{fs, io::Write as _, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::probe;

/// A Dockerfile for the probe as it was built for the tests, answering this version.
pub(crate) async fn dockerfile(version: &str) -> String {
    format!(
        "FROM {}\nARG GREETING=none\nENV PROBE_VERSION={version} PROBE_GREETING=$GREETING\nCOPY . /code/\n",
        probe::image().await
    )
}

/// A .tar.gz of files.
pub(crate) fn tar_gz(files: &[(&str, &[u8])]) -> Vec<u8> {
    let gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut archive = tar::Builder::new(gz);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, name, *content)
            .expect("packed");
    }
    archive
        .into_inner()
        .and_then(flate2::write::GzEncoder::finish)
        .expect("packed")
}

/// A .zip of files.
pub(crate) fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        let options = zip::write::SimpleFileOptions::default();
        archive.start_file(*name, options).expect("packed");
        archive.write_all(content).expect("packed");
    }
    archive.finish().expect("packed").into_inner()
}

/// The code of an archive with more fields of `from_code`.
pub(crate) fn from_code(archive: &[u8], more: Value) -> Value {
    let mut code = json!({ "archive": STANDARD.encode(archive) });
    super::contract::merge(&mut code, more);
    json!({ "image": { "from_code": code } })
}

/// Writes files into a folder.
pub(crate) fn write(folder: &Path, files: &[(&str, &[u8])]) {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, content).expect("written");
    }
}
