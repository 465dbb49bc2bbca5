use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;

const CACHE: u64 = 1024 * 1024;
const STEPS: [Step; 6] = [
    Step::UndoWrite,
    Step::UndoSync,
    Step::Apply,
    Step::Flush,
    Step::Clear,
    Step::ClearSync,
];

fn open(path: &Path) -> Database {
    Database::open(path, 1, CACHE).expect("opens")
}

fn rows_in(database: &Database) -> Rows {
    let all = database.tree.iter().map(|row| row.expect("reads"));
    let rows = all.filter(|(key, _)| key.len() == 2);
    rows.map(|(k, v)| (k.to_vec(), Some(v.to_vec()))).collect()
}

/// What a start finds after a kill at this moment.
fn after_a_kill(path: &Path) -> Rows {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("makes");
        for entry in std::fs::read_dir(from).expect("lists") {
            let entry = entry.expect("entry");
            let to = to.join(entry.file_name());
            if entry.file_type().expect("known").is_dir() {
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).expect("copies");
            }
        }
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let to: PathBuf = dir.path().join("copy");
    copy(path, &to);
    rows_in(&open(&to))
}

/// Fails at one step, a number of times.
#[derive(Clone, Default)]
struct Plan(std::sync::Arc<Mutex<Option<(Step, u32)>>>);

impl Plan {
    fn faults(&self) -> Faults {
        let plan = self.0.clone();
        Faults::scripted(move |at| match &mut *plan.lock() {
            Some((step, left)) if *step == at && *left > 0 => {
                *left -= 1;
                Err(rustix::io::Errno::IO.into())
            }
            _ => Ok(()),
        })
    }
}

fn row(key: u8, value: Option<u8>, long: bool) -> (Vec<u8>, Option<Vec<u8>>) {
    let len = if long { 40_000 } else { 100 };
    (vec![b'k', key], value.map(|v| vec![v; len]))
}

fn changed(model: &Rows, change: &Rows) -> Rows {
    let mut next = model.clone();
    for (key, value) in change {
        match value {
            Some(_) => next.insert(key.clone(), value.clone()),
            None => next.remove(key),
        };
    }
    next
}

#[test]
fn wherever_a_change_fails_it_is_undone_at_once_and_after_a_kill() {
    for step in STEPS {
        for times in [1, 2, u32::MAX] {
            let dir = tempfile::tempdir().expect("temp dir");
            let plan = Plan::default();
            let mut undoing =
                Undoing::new(open(dir.path()), dir.path(), plan.faults()).expect("opens");
            let before = Rows::from([row(0, Some(1), false), row(1, Some(2), true)]);
            undoing.commit(&before).expect("nothing fails yet");
            assert_eq!(after_a_kill(dir.path()), before);
            *plan.0.lock() = Some((step, times));
            let change = Rows::from([
                row(0, None, false),
                row(1, Some(9), true),
                row(2, Some(3), true),
            ]);
            let failed = undoing.commit(&change).expect_err("it fails");
            assert!(failed.undone, "{step:?} {times}");
            assert!(failed.text().contains("is undone"), "{}", failed.text());
            assert_eq!(after_a_kill(dir.path()), before, "{step:?} {times}");
            if times == u32::MAX {
                undoing.commit(&change).expect_err("it still fails");
            }
            *plan.0.lock() = None;
            undoing.probe().expect("it is well again");
            assert_eq!(rows_in(&undoing.database), before, "{step:?} {times}");
            undoing.commit(&change).expect("it is taken");
            let after = changed(&before, &change);
            assert_eq!(after_a_kill(dir.path()), after, "{step:?} {times}");
            drop(undoing);
            assert_eq!(rows_in(&open(dir.path())), after);
        }
    }
}

/// A disk that accepts writes and fails every sync: only then is the outcome uncertain, and the
/// text says so.
#[test]
fn a_change_whose_undoing_is_not_certain_is_told_so() {
    let dir = tempfile::tempdir().expect("temp dir");
    let syncs = std::sync::Arc::new(AtomicU32::new(0));
    let seen = syncs.clone();
    let faults = Faults::scripted(move |step| match step {
        Step::ClearSync => Err(rustix::io::Errno::IO.into()),
        Step::UndoSync if seen.fetch_add(1, Ordering::Relaxed) > 0 => {
            Err(rustix::io::Errno::IO.into())
        }
        _ => Ok(()),
    });
    let mut undoing = Undoing::new(open(dir.path()), dir.path(), faults).expect("opens");
    let failed = undoing.commit(&Rows::from([row(0, Some(1), false)]));
    let failed = failed.expect_err("it fails");
    assert!(!failed.undone);
    assert!(
        failed.text().contains("only after the next start"),
        "{}",
        failed.text()
    );
    undoing
        .probe()
        .expect_err("nothing is taken before that is clear");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever fails in whatever order: confirmed changes are there, refused ones are not.
    #[test]
    fn what_is_read_is_what_was_confirmed(
        changes in prop::collection::vec(
            (
                prop::collection::vec((0..6_u8, prop::option::of(any::<u8>()), any::<bool>()), 1..4),
                prop::option::of((0..STEPS.len(), 1..4_u32)),
            ),
            1..8,
        ),
    ) {
        let dir = tempfile::tempdir().expect("temp dir");
        let plan = Plan::default();
        let mut undoing = Undoing::new(open(dir.path()), dir.path(), plan.faults()).expect("opens");
        let mut model = Rows::new();
        for (change, fault) in changes {
            let change: Rows = change.into_iter().map(|(k, v, long)| row(k, v, long)).collect();
            *plan.0.lock() = fault.map(|(step, times)| (STEPS[step], times));
            match undoing.commit(&change) {
                Ok(()) => model = changed(&model, &change),
                Err(failed) => prop_assert!(failed.undone),
            }
        }
        prop_assert_eq!(&after_a_kill(dir.path()), &model);
        drop(undoing);
        prop_assert_eq!(&rows_in(&open(dir.path())), &model);
    }
}

#[test]
fn a_damaged_record_is_told_in_words_and_one_cut_short_is_void() {
    let dir = tempfile::tempdir().expect("temp dir");
    drop(Undoing::new(open(dir.path()), dir.path(), Faults::default()).expect("opens"));
    let path = dir.path().join(NAME);
    let whole = encode(&Rows::from([row(0, Some(1), false)]));
    for len in 0..whole.len() {
        std::fs::write(&path, &whole[..len]).expect("writes");
        assert!(rows_in(&open(dir.path())).is_empty(), "{len}");
    }
    std::fs::write(&path, b"something else altogether").expect("writes");
    let refused = Database::open(dir.path(), 1, CACHE)
        .err()
        .expect("refused")
        .to_string();
    assert!(refused.contains("`undo` is damaged"), "{refused}");
}
