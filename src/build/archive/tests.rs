use std::io::Write as _;

use super::*;

const LIMITS: Limits = Limits {
    bytes: 8 << 20,
    entries: 50,
    ratio: 100,
};

fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gz.write_all(tar).expect("packed");
    gz.finish().expect("packed")
}

/// A tar.gz of entries: name, kind, content or target. Names are written as they are.
fn tar_gz(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        // Past the checks of the crate's own writer.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let is_file = kind.is_file();
        header.set_size(if is_file { content.len() as u64 } else { 0 });
        if !is_file {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content);
        }
        header.set_cksum();
        archive
            .append(&header, if is_file { content } else { &[][..] })
            .expect("packed");
    }
    gzip(&archive.into_inner().expect("packed"))
}

fn zipped(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, mode, content) in entries {
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .unix_permissions(*mode);
        archive.start_file(*name, options).expect("packed");
        archive.write_all(content).expect("packed");
    }
    archive.finish().expect("packed").into_inner()
}

fn refused(bytes: &[u8], words: &str) {
    let folder = tempfile::tempdir().expect("a directory");
    let outside = folder.path().join("outside");
    let inside = tempfile::tempdir_in(folder.path()).expect("a directory");
    for why in [
        look(bytes, LIMITS).expect_err("refused"),
        unpack(bytes, LIMITS, inside).expect_err("refused"),
    ] {
        assert!(why.contains(words), "no {words:?} in {why:?}");
    }
    assert!(!outside.exists());
}

use tar::EntryType as T;

#[test]
fn what_is_packed_comes_out_with_modes_links_and_folders() {
    let tar = tar_gz(&[
        ("./", T::Directory, b""),
        ("./bin/run", T::Regular, b"#!"),
        ("bin/again", T::Link, b"bin/run"),
        ("bin/link", T::Symlink, b"../bin/./run"),
        ("empty/", T::Directory, b""),
    ]);
    let source = unpack(&tar, LIMITS, tempfile::tempdir().expect("a directory")).expect("unpacks");
    let run = Entry::File {
        len: 2,
        executable: true,
    };
    let names: Vec<_> = source.entries().keys().map(String::as_str).collect();
    assert_eq!(names, ["bin", "bin/again", "bin/link", "bin/run", "empty"]);
    assert_eq!(source.entries()["bin/again"], run);
    assert_eq!(source.read("bin/run", 10).as_deref(), Some(&b"#!"[..]));
    assert_eq!(
        fs::read(source.path("bin/link")).expect("leads there"),
        b"#!"
    );
    assert_eq!(look(&tar, LIMITS).as_ref(), Ok(source.entries()));

    let zip = zipped(&[("a/b", 0o755, b"x"), ("c", 0o644, b"")]);
    let source = unpack(&zip, LIMITS, tempfile::tempdir().expect("a directory")).expect("unpacks");
    let names: Vec<_> = source.entries().keys().map(String::as_str).collect();
    assert_eq!(names, ["a", "a/b", "c"]);
    assert_eq!(format(b"import os\n"), Format::Other);
}

#[test]
fn what_leads_out_of_the_tree_is_refused() {
    for name in ["../outside", "/outside", "a/../../outside"] {
        refused(&tar_gz(&[(name, T::Regular, b"x")]), name);
    }
    refused(&zipped(&[("../outside", 0o644, b"x")]), "../outside");
    refused(&tar_gz(&[("l", T::Symlink, b"../outside")]), "leads out");
    refused(&tar_gz(&[("l", T::Symlink, b"/etc")]), "absolute");
    refused(
        &tar_gz(&[("l", T::Symlink, b".."), ("l/outside", T::Regular, b"x")]),
        "no folder",
    );
    refused(&tar_gz(&[("h", T::Link, b"../outside")]), "second name");
    refused(&tar_gz(&[("dev", T::Block, b"")]), "device");
    refused(&tar_gz(&[("pipe", T::Fifo, b"")]), "device");
    let mut zip_link = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    zip_link
        .add_symlink("l", "../outside", options)
        .expect("packed");
    refused(
        &zip_link.finish().expect("packed").into_inner(),
        "leads out",
    );
}

#[test]
fn bombs_and_what_is_too_much_are_refused_before_they_fill_anything() {
    let zeros = vec![0; 4 << 20];
    refused(&tar_gz(&[("a", T::Regular, &zeros)]), "MAX_RATIO");
    refused(&zipped(&[("a", 0o644, &zeros)]), "MAX_RATIO");
    let noise: Vec<u8> = (0..9_u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    refused(&tar_gz(&[("a", T::Regular, &noise)]), "MAX_UNPACKED_BYTES");
    let many: Vec<String> = (0..60).map(|i| format!("f{i}")).collect();
    let many: Vec<_> = many
        .iter()
        .map(|n| (&n[..], T::Regular, &b""[..]))
        .collect();
    refused(&tar_gz(&many), "MAX_FILES");
    // Cut off, or never one.
    let whole = tar_gz(&[("a", T::Regular, &noise[..4096])]);
    refused(&whole[..whole.len() / 2], "damaged");
    refused(b"PK\x03\x04", "damaged");
    refused(b"hello", "neither");
}
