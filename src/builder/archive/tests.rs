use std::{
    cell::Cell,
    io::{Cursor, Write as _},
};

use super::*;
use crate::{builder::limits::tests::LIMITS, model::work::NEVER};

fn inspect(bytes: &[u8], limits: Limits) -> Result<Entries, String> {
    super::inspect(bytes, limits, &[], NEVER).map(|listing| listing.entries)
}

fn unpack(bytes: &[u8], limits: Limits, into: TempDir) -> Result<Source, String> {
    super::unpack(bytes, limits, into, NEVER)
}

fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gz.write_all(tar).expect("packed");
    gz.finish().expect("packed")
}

/// A tar.gz of entries: name, kind, content or target. Names are written unchecked.
fn tar_gz(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        // Bypasses the checks of the crate's own writer.
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
        inspect(bytes, LIMITS).expect_err("refused"),
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
    assert_eq!(inspect(&tar, LIMITS).as_ref(), Ok(source.entries()));

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
    // Truncated, or never an archive.
    let whole = tar_gz(&[("a", T::Regular, &noise[..4096])]);
    refused(&whole[..whole.len() / 2], "damaged");
    refused(b"PK\x03\x04", "damaged");
    refused(b"hello", "neither");
}

/// A tar.gz of one file whose path is in a preceding header, as in PAX or GNU.
fn tar_gz_of_long(path: &str, kind: T) -> Vec<u8> {
    let header = match kind {
        T::XHeader => {
            let rest = format!(" path={path}\n");
            let mut len = rest.len() + 1;
            while len != rest.len() + len.to_string().len() {
                len = rest.len() + len.to_string().len();
            }
            format!("{len}{rest}")
        }
        _ => format!("{path}\0"),
    };
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, content) in [(kind, header.as_bytes()), (T::Regular, b"x")] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[0] = b'x';
        header.set_cksum();
        archive.append(&header, content).expect("packed");
    }
    gzip(&archive.into_inner().expect("packed"))
}

#[test]
fn long_paths_are_taken_as_far_as_they_may_be_long() {
    let fits = ["a".repeat(150), "b".repeat(40)].join("/");
    for kind in [T::XHeader, T::GNULongName] {
        let entries = inspect(&tar_gz_of_long(&fits, kind), LIMITS).expect("fits");
        assert!(entries.contains_key(&fits), "{entries:?}");
        // 300 bytes that used to become 1.9 GB of folders.
        let bomb = tar_gz_of_long(&"a/".repeat(30_000), kind);
        assert!(bomb.len() < 400, "{} bytes", bomb.len());
        refused(&bomb, "IGNITE_CODE_MAX_PATH_BYTES");
        refused(
            &tar_gz_of_long(&"a/".repeat(30), kind),
            "IGNITE_CODE_MAX_DEPTH",
        );
        // More than is read of such headers at all.
        refused(
            &tar_gz_of_long(&"a".repeat(300_000), kind),
            "headers before one",
        );
    }
}

#[test]
fn links_are_bounded_in_number_length_and_in_what_they_lead_through() {
    let many: Vec<String> = (0..21).map(|i| format!("l{i}")).collect();
    let many: Vec<_> = many
        .iter()
        .map(|n| (&n[..], T::Symlink, &b"x"[..]))
        .collect();
    refused(&tar_gz(&many), "IGNITE_CODE_MAX_LINKS");
    let mut zip_link = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    let long = "a".repeat(201);
    zip_link
        .add_symlink("l", &long[..], options)
        .expect("packed");
    let zip_link = zip_link.finish().expect("packed").into_inner();
    refused(&zip_link, "IGNITE_CODE_MAX_PATH_BYTES");
    // Each link is fine by itself; all of them together take longer than the archive is worth.
    let once = format!("{}d", "d/../".repeat(15));
    let through = format!("{}l", "l/../".repeat(15));
    let names: Vec<String> = (0..10).map(|i| format!("m{i}")).collect();
    let mut chain = vec![
        ("d/x", T::Regular, &b""[..]),
        ("l", T::Symlink, once.as_bytes()),
    ];
    let all = names
        .iter()
        .map(|n| (&n[..], T::Symlink, through.as_bytes()));
    chain.extend(all);
    assert!(inspect(&tar_gz(&chain[..4]), LIMITS).is_ok());
    refused(&tar_gz(&chain), "lead through each other");
}

#[test]
fn the_list_of_a_zip_is_counted_before_it_is_read() {
    let names: Vec<String> = (0..60).map(|i| format!("f{i}")).collect();
    let files: Vec<_> = names.iter().map(|n| (&n[..], 0o644, &b""[..])).collect();
    let mut zip = zipped(&files);
    refused(&zip, "IGNITE_CODE_MAX_FILES");
    // Whatever count the end record claims.
    let end = zip.len() - 22;
    zip[end + 8..end + 12].copy_from_slice(&[1, 0, 1, 0]);
    refused(&zip, "IGNITE_CODE_MAX_FILES");
}

#[test]
fn reading_ends_as_soon_as_it_is_called_off() {
    let noise: Vec<u8> = (0..4_u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let tar = tar_gz(&[("a", T::Regular, &noise), ("b", T::Regular, b"")]);
    let zip = zipped(&[("a", 0o644, &noise), ("b", 0o644, b"")]);
    for archive in [tar, zip] {
        let asked = Cell::new(0);
        let called_off = || {
            asked.set(asked.get() + 1);
            asked.get() > 10
        };
        let why = super::inspect(&archive, LIMITS, &[], &called_off).expect_err("called off");
        assert!(why.contains("called off"), "{why}");
        assert_eq!(asked.get(), 11, "it went on");
    }
}

#[test]
fn the_beginning_of_a_file_is_kept_where_it_is_asked_for() {
    let tar = tar_gz(&[("a/b", T::Regular, b"12345"), ("c", T::Regular, b"1")]);
    let wanted = [("a/b", 3), ("c", 3), ("none", 3)];
    let listing = super::inspect(&tar, LIMITS, &wanted, NEVER).expect("an archive");
    let kept: Vec<_> = listing
        .contents
        .iter()
        .map(|(n, c)| (&n[..], &c[..]))
        .collect();
    assert_eq!(kept, [("a/b", &b"1234"[..]), ("c", b"1")]);
}
