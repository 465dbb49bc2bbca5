use std::collections::BTreeMap;

use tempfile::TempDir;

use super::*;

const CACHE: u64 = 8 * 1024 * 1024;

fn open(path: &Path) -> Result<Database, Error> {
    Database::open(path, 1, CACHE)
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Every row, or the error.
fn read(path: &Path) -> Result<Rows, String> {
    let database = open(path).map_err(|e| e.to_string())?;
    guarded(|| {
        let row = |r: sled::Result<(sled::IVec, sled::IVec)>| {
            r.map(|(k, v)| (k.to_vec(), v.to_vec()))
                .map_err(|e| e.to_string())
        };
        database.tree.iter().map(row).collect()
    })
}

/// A database that several runs wrote to, each over much of the run before, so that sled has reused
/// parts of its log; and its rows.
fn used() -> (TempDir, PathBuf, Rows) {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("store");
    for run in 0..4_u32 {
        let database = open(&path).expect("opens");
        for round in 0..3 {
            let mut batch = sled::Batch::default();
            for i in 0..1500_u32 {
                let key = (i * 7919 % 1500).to_be_bytes();
                if i % 5 == run {
                    batch.remove(&key)
                } else {
                    batch.insert(&key, vec![(run * 3 + round) as u8; 600])
                }
            }
            database.commit(batch).expect("commits");
        }
    }
    let rows = read(&path).expect("reads");
    assert!(rows.len() > 1000);
    (dir, path, rows)
}

fn snapshots(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path)
        .expect("lists")
        .map(|e| e.expect("entry").path());
    entries
        .filter(|p| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(SNAPSHOT))
        })
        .collect()
}

fn damage(file: &Path, how: &dyn Fn(Vec<u8>) -> Vec<u8>) {
    let content = fs::read(file).expect("reads");
    fs::write(file, how(content)).expect("writes");
}

#[test]
fn a_damaged_snapshot_costs_nothing() {
    let ways: [&dyn Fn(Vec<u8>) -> Vec<u8>; 4] = [
        &|_| vec![0x55; 4000],
        &|content| content[..content.len() / 2].to_vec(),
        &|_| Vec::new(),
        &|mut content| {
            content[3] ^= 1;
            content
        },
    ];
    for how in ways {
        let (_dir, path, rows) = used();
        let found = snapshots(&path);
        assert!(!found.is_empty());
        found.iter().for_each(|file| damage(file, how));
        assert_eq!(read(&path).as_ref(), Ok(&rows));
        let names = fs::read_dir(&path).expect("lists");
        let mut names = names.map(|e| e.expect("entry").file_name());
        assert!(
            names.any(|n| is_aside(&n.to_string_lossy())),
            "it is kept aside"
        );
        assert_eq!(read(&path), Ok(rows), "and again");
    }
}

#[test]
fn a_damaged_log_is_told_in_words_and_never_taken_for_an_empty_one() {
    type Damage = &'static dyn Fn(&Path);
    let ways: [(&str, Damage); 5] = [
        ("garbage", &|path| {
            damage(&path.join("db"), &|c| vec![0x5a; c.len()])
        }),
        ("short garbage", &|path| {
            damage(&path.join("db"), &|_| b"garbage".to_vec())
        }),
        ("half", &|path| {
            damage(&path.join("db"), &|c| c[..c.len() / 2].to_vec())
        }),
        ("empty", &|path| damage(&path.join("db"), &|_| Vec::new())),
        ("missing", &|path| {
            fs::remove_file(path.join("db")).expect("removes")
        }),
    ];
    for (name, how) in ways {
        let (_dir, path, _) = used();
        how(&path);
        for attempt in 0..2 {
            let cause = read(&path).err();
            let cause = cause.unwrap_or_else(|| panic!("{name}, attempt {attempt}: it opens"));
            let says = [&path.display().to_string(), "restore the folder"];
            assert!(says.iter().all(|s| cause.contains(s)), "{name}: {cause}");
        }
    }
    // Without the snapshot sled would treat the damaged log as a new database.
    for (name, how) in &ways[..2] {
        let (_dir, path, _) = used();
        how(&path);
        for file in snapshots(&path) {
            fs::remove_file(file).expect("removes");
        }
        assert!(read(&path).is_err(), "{name} without a snapshot");
        assert!(read(&path).is_err(), "{name}, once more");
    }
}

/// Wherever the log is damaged or cut: the rows read are right, or there is an error. Without its
/// snapshot sled may present fewer or older rows as everything, but it never crashes.
#[test]
fn damage_anywhere_in_the_log_is_noticed_or_does_no_harm() {
    let (dir, path, rows) = used();
    let content = fs::read(path.join("db")).expect("reads");
    let others: Vec<_> = fs::read_dir(&path)
        .expect("lists")
        .map(|e| e.expect("entry"))
        .filter(|e| e.file_type().expect("known").is_file() && e.file_name() != "db")
        .collect();
    const STEPS: usize = 12;
    let mut noticed = 0;
    for step in 0..STEPS {
        for (cut, with_snapshot) in [(false, true), (true, true), (false, false), (true, false)] {
            let copy = dir.path().join(format!("{step}-{cut}-{with_snapshot}"));
            fs::create_dir(&copy).expect("makes");
            for file in &others {
                let name = file.file_name();
                if with_snapshot || !name.to_string_lossy().starts_with(SNAPSHOT) {
                    fs::copy(file.path(), copy.join(name)).expect("copies");
                }
            }
            let at = content.len() / STEPS * step + step * 977;
            let mut damaged = content.clone();
            if cut {
                damaged.truncate(at)
            } else {
                damaged[at..].iter_mut().take(2000).for_each(|b| *b ^= 0x5a)
            }
            fs::write(copy.join("db"), damaged).expect("writes");
            match read(&copy) {
                Ok(found) if with_snapshot => assert!(found == rows, "step {step}, cut {cut}"),
                Ok(_) => {}
                Err(cause) => {
                    assert!(!cause.is_empty());
                    noticed += 1;
                }
            }
            fs::remove_dir_all(copy).expect("removes");
        }
    }
    assert!(noticed > STEPS, "{noticed}");
}

#[test]
fn a_database_whose_making_was_cut_short_is_made() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("store");
    fs::create_dir(&path).expect("makes");
    fs::write(path.join(MAKING), b"").expect("marks");
    drop(open_tree(&path, CACHE).expect("sled has begun"));
    drop(open(&path).expect("is made"));
    assert!(!path.join(MAKING).exists());
    drop(open(&path).expect("opens"));
}

#[test]
fn a_rewriting_keeps_every_row_and_shrinks_wherever_it_was_cut_short() {
    let (_dir, path, rows) = used();
    let len = || fs::metadata(path.join("db")).expect("is there").len();
    let before = len();
    Database::rewrite(&path, 1, CACHE).expect("rewrites");
    assert!(len() < before, "{} of {before}", len());
    assert_eq!(read(&path).as_ref(), Ok(&rows));

    // Between the two renames: the new one is beside the empty path of the old one.
    fs::rename(&path, beside(&path, REPLACED)).expect("renames");
    fs::create_dir(beside(&path, FRESH)).expect("makes");
    assert!(is_there(&path));
    assert_eq!(read(&path).as_ref(), Ok(&rows));
    // After them: the old one still has to be removed.
    fs::create_dir(beside(&path, REPLACED)).expect("makes");
    assert_eq!(read(&path), Ok(rows));
    assert!(!beside(&path, FRESH).exists() && !beside(&path, REPLACED).exists());
}

#[test]
fn a_panic_of_sled_becomes_an_error_that_says_what_it_said() {
    let (what, n) = ("page", 7);
    let cause = guarded::<()>(|| panic!("no {what} {n}")).expect_err("caught");
    assert!(cause.contains("no page 7"), "{cause}");
}

#[test]
fn long_values_are_synced_once_and_read_back() {
    let dir = tempfile::tempdir().expect("temp dir");
    let long = vec![7; 1024 * 1024];
    let database = open(dir.path()).expect("opens");
    let put = |key: &[u8]| {
        let mut batch = sled::Batch::default();
        batch.insert(key, &*long);
        database.commit(batch).expect("writes");
    };
    put(b"a");
    let first = database.synced.lock().clone();
    assert!(!first.is_empty(), "sled has it in a file of its own");
    put(b"b");
    assert_eq!(database.blobs().expect("listed"), *database.synced.lock());
    drop(database);
    let database = open(dir.path()).expect("opens");
    for key in [b"a", b"b"] {
        assert_eq!(
            database.tree.get(key).expect("reads").as_deref(),
            Some(&*long)
        );
    }
}
