use proptest::prelude::*;

use super::{frame::FRAME_HEAD, *};

fn operation() -> impl Strategy<Value = Operation> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    (any::<u64>(), bytes(), prop::option::of(bytes())).prop_map(|(target, key, value)| Operation {
        target,
        key,
        value,
    })
}

fn batches() -> impl Strategy<Value = Vec<Vec<Operation>>> {
    prop::collection::vec(prop::collection::vec(operation(), 0..5), 1..6)
}

fn batch(n: u8) -> Vec<Operation> {
    vec![Operation {
        target: 1,
        key: vec![n],
        value: Some(vec![n; 100]),
    }]
}

fn read(path: &Path) -> Result<Vec<Vec<Operation>>, OpenError> {
    let mut out = Vec::new();
    let replay = |batch| {
        out.push(batch);
        Ok(())
    };
    Journal::open(path, replay).map(|_| out)
}

/// A journal that was reset after `before`; returns the end of each batch since.
fn written(path: &Path, before: &[Vec<Operation>], since: &[Vec<Operation>]) -> Vec<usize> {
    let mut journal = Journal::open(path, |_| Ok(())).expect("opens");
    for batch in before {
        journal.append(batch).expect("appends");
    }
    journal.reset(3).expect("resets");
    let append = |batch: &Vec<Operation>| {
        journal.append(batch).expect("appends");
        journal.end as usize
    };
    since.iter().map(append).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Whichever bit is flipped: confirmed batches are read, or the damage is reported and
    /// everything but the damaged batch can be saved. Only damage to the very last batch looks like
    /// a crash.
    #[test]
    fn a_flipped_bit_never_loses_a_batch_in_silence(
        before in batches(),
        since in batches(),
        at in any::<prop::sample::Index>(),
        slack in 0..200_usize,
        bit in 0..8_u32,
    ) {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("journal");
        let ends = written(&path, &before, &since);
        let last = ends.len() - 1;
        prop_assert_eq!(&salvage(&path).expect("reads").batches, &since);
        let mut content = std::fs::read(&path).expect("reads");
        let at = at.index(ends[last] + slack);
        content[at] ^= 1 << bit;
        std::fs::write(&path, &content).expect("writes");
        let hit = ends.iter().position(|end| at < *end).filter(|_| at >= HEADER);
        match read(&path) {
            Ok(found) => {
                let whole = if hit == Some(last) { last } else { since.len() };
                prop_assert!(at >= HEADER && hit.is_none_or(|hit| hit == last));
                prop_assert_eq!(&found, &since[..whole]);
                let mut journal = Journal::open(&path, |_| Ok(())).expect("opens");
                journal.append(&since[0]).expect("appends");
                drop(journal);
                prop_assert_eq!(read(&path).expect("opens").len(), whole + 1);
            }
            Err(error) => {
                prop_assert_eq!(&std::fs::read(&path).expect("reads"), &content, "it is left alone");
                let saved = match salvage(&path) {
                    Ok(saved) => saved,
                    // The flipped bit made it another format.
                    Err(_) => {
                        prop_assert!(at < 8, "{error}");
                        return Ok(());
                    }
                };
                match hit {
                    None => prop_assert_eq!(&saved.batches, &since),
                    Some(hit) => {
                        let mut expected = since.clone();
                        expected.remove(hit);
                        prop_assert_eq!(&saved.batches, &expected);
                        let from = if hit == 0 { HEADER } else { ends[hit - 1] };
                        prop_assert_eq!(&saved.lost, &[(from as u64, (ends[hit] - from) as u64)]);
                        let damage = Damage { path: path.clone(), at: from as u64 };
                        prop_assert_eq!(error.to_string(), damage.to_string());
                    }
                }
            }
        }
    }

    /// Wherever a crash cuts the file, with or without zeros behind the cut: the batches before it
    /// are read whole, none after it are, and the journal accepts new batches.
    #[test]
    fn a_torn_tail_costs_only_what_is_torn(
        before in batches(),
        since in batches(),
        at in any::<prop::sample::Index>(),
        zeros in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("journal");
        let ends = written(&path, &before, &since);
        let mut content = std::fs::read(&path).expect("reads");
        let at = HEADER + at.index(ends[ends.len() - 1] - HEADER);
        let len = content.len();
        content.truncate(at);
        if zeros {
            content.resize(len, 0);
        }
        std::fs::write(&path, &content).expect("writes");
        let whole = ends.iter().filter(|end| **end <= at).count();
        let found = read(&path).expect("opens");
        // A frame may end with zeros.
        prop_assert!(found.len() >= whole && since.starts_with(&found));
        prop_assert!(zeros || found.len() == whole);
        let mut journal = Journal::open(&path, |_| Ok(())).expect("opens");
        journal.append(&since[0]).expect("appends");
        drop(journal);
        prop_assert_eq!(read(&path).expect("opens").len(), found.len() + 1);
    }
}

/// A torn frame proves that the frame before it was whole.
#[test]
fn damage_before_a_torn_frame_is_no_torn_tail() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("journal");
    let ends = written(&path, &[], &[batch(1), batch(2), batch(3)]);
    let mut content = std::fs::read(&path).expect("reads");
    content.truncate(ends[1] + FRAME_HEAD + 5);
    content[ends[0] + FRAME_HEAD + 3] ^= 1;
    std::fs::write(&path, &content).expect("writes");
    let refused = read(&path).expect_err("refused").to_string();
    assert!(refused.contains(&format!("byte {}", ends[0])), "{refused}");
    assert_eq!(salvage(&path).expect("reads").batches, [batch(1)]);
}

/// Old frames lie behind those written after a reset, whole, where a frame may begin.
#[test]
fn what_was_before_a_reset_never_comes_back() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("journal");
    let before: Vec<_> = (0..50).map(batch).collect();
    let since = [batch(100), batch(101), batch(102)];
    written(&path, &before, &since);
    let length = std::fs::metadata(&path).expect("is there").len();
    assert!(length > 50 * 100, "it was cut, so this shows nothing");
    assert_eq!(read(&path).expect("opens"), since);
}

#[test]
fn a_batch_that_fails_is_taken_back_or_told_to_be_uncertain() {
    let fails_at = |steps: &'static [Step]| {
        Faults::scripted(move |step| {
            if steps.contains(&step) {
                Err(rustix::io::Errno::IO.into())
            } else {
                Ok(())
            }
        })
    };
    for (steps, undone) in [
        (&[Step::Append][..], true),
        (&[Step::AppendSync], true),
        (&[Step::AppendSync, Step::Cut], false),
    ] {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path, |_| Ok(())).expect("opens");
        journal.append(&batch(1)).expect("appends");
        journal.set_faults(fails_at(steps));
        let failed = journal.append(&batch(2)).expect_err("fails");
        assert_eq!(failed.undone, undone, "{steps:?}");
        if undone {
            // The file as a kill at this moment leaves it.
            let copy = dir.path().join("copy");
            std::fs::copy(&path, &copy).expect("copies");
            assert_eq!(read(&copy).expect("opens"), [batch(1)]);
            journal.set_faults(Faults::default());
            journal.append(&batch(3)).expect("appends");
            drop(journal);
            assert_eq!(read(&path).expect("opens"), [batch(1), batch(3)]);
        }
    }
}

#[test]
fn a_reset_leaves_nothing_and_another_format_is_refused_or_read() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("journal");
    let mut journal = Journal::open(&path, |_| Ok(())).expect("opens");
    journal.append(&batch(1)).expect("appends");
    assert!(journal.len() > 0);
    journal.reset(7).expect("resets");
    assert_eq!(journal.len(), 0);
    journal.append(&batch(2)).expect("appends");
    drop(journal);
    assert_eq!(Journal::number_in(&path).expect("reads"), 7);

    // Format 3 had a number of eight bytes where number and checksum are now.
    let mut content = std::fs::read(&path).expect("reads");
    content[7] = 3;
    content[8..16].copy_from_slice(&7_u64.to_le_bytes());
    std::fs::write(&path, &content).expect("writes");
    assert_eq!(read(&path).expect("opens"), [batch(2)]);
    let now = std::fs::read(&path).expect("reads");
    assert_eq!(now[7], 4, "it has the checksum from now on");
    assert_eq!(read(&path).expect("opens"), [batch(2)]);

    for empty in [
        &b""[..],
        b"ignite\0\x02",
        b"ignite\0\x02the salt",
        b"ignite\0\x02the saltlen+crc.no salt.",
        b"ignite\0\x04and",
        &[0; 100],
    ] {
        std::fs::write(&path, empty).expect("writes");
        assert!(read(&path).expect("opens").is_empty(), "{empty:?}");
    }
    for other in [
        &b"ignite\0\x02the saltlen+crc.the salt"[..],
        b"something else altogether",
        b"short",
    ] {
        std::fs::write(&path, other).expect("writes");
        read(&path).expect_err("refused");
    }
}
