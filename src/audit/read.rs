//! Reads the audit log, for the command line: once, or on and on across the rotation of its files.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{timestamp, writer};

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those of one organization.
    pub org: Option<String>,
    /// Those since a time in Unix milliseconds.
    pub since_ms: Option<i64>,
    /// The newest of them, so many.
    pub limit: Option<usize>,
}

#[derive(Deserialize)]
struct Head {
    time: String,
    org: Option<String>,
}

/// A reader that continues where it stopped.
pub struct Follower {
    filter: Filter,
    since: Option<String>,
    logs: [Tail; 2],
}

/// What was added to the log.
#[derive(Debug, Default)]
pub struct Added {
    /// The entries as lines of JSON, oldest first.
    pub lines: Vec<String>,
    /// Whether more than one rotation has happened meanwhile, so that entries may be missing.
    pub has_gap: bool,
}

impl Follower {
    /// A reader of the log below `data_dir`, from its beginning.
    pub fn new(data_dir: &Path, filter: Filter) -> Self {
        let folder = writer::folder(data_dir);
        Self {
            since: filter.since_ms.map(timestamp),
            filter,
            logs: [false, true].map(|refusals| Tail::new(writer::generations(&folder, refusals))),
        }
    }

    /// Whether no file of the log has been found yet.
    pub fn is_waiting(&self) -> bool {
        self.logs.iter().all(|log| log.open.is_none())
    }

    /// What was added since the last call. The filter's limit is for the first call, which reads
    /// what there is.
    ///
    /// # Errors
    /// The file system's. No log is no error.
    pub fn read(&mut self) -> io::Result<Added> {
        let mut found: Vec<(String, String)> = Vec::new();
        let mut has_gap = false;
        for log in &mut self.logs {
            has_gap |= log.read(|line| {
                // A line that a crash broke off is no entry.
                let Ok(line) = String::from_utf8(line) else {
                    return;
                };
                let Ok(head) = serde_json::from_str::<Head>(&line) else {
                    return;
                };
                // RFC 3339 in one length sorts as text.
                let since = self.since.as_ref().is_none_or(|since| head.time >= *since);
                if since && (self.filter.org.is_none() || self.filter.org == head.org) {
                    found.push((head.time, line));
                }
            })?;
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let limit = self.filter.limit.take();
        let skip = limit.map_or(0, |n| found.len().saturating_sub(n));
        let lines = found.into_iter().skip(skip).map(|(_, line)| line).collect();
        Ok(Added { lines, has_gap })
    }
}

/// The end of one of the two logs.
struct Tail {
    /// The generation before the current one, and the current one.
    paths: [PathBuf; 2],
    open: Option<Generation>,
    /// The start of a line that is not completely written yet.
    begun: Vec<u8>,
}

impl Tail {
    fn new(paths: [PathBuf; 2]) -> Self {
        Self {
            paths,
            open: None,
            begun: Vec::new(),
        }
    }

    /// Gives all new lines to `each`; says whether files may have been missed.
    fn read(&mut self, mut each: impl FnMut(Vec<u8>)) -> io::Result<bool> {
        let mut has_gap = false;
        while let Some((next, missed)) = self.next()? {
            // The server may have added to the old file until it was renamed.
            self.rest(&mut each)?;
            self.begun.clear();
            self.open = Some(next);
            has_gap |= missed;
        }
        self.rest(&mut each)?;
        Ok(has_gap)
    }

    /// The file after the one that is open, and whether others may have been between them.
    fn next(&self) -> io::Result<Option<(Generation, bool)>> {
        let [before, current] = &self.paths;
        // In this order, the file of today is the next one when the open one is found renamed.
        let current = Generation::open(current)?;
        let before = Generation::open(before)?;
        let Some(open) = &self.open else {
            return Ok(before.or(current).map(|first| (first, false)));
        };
        if current.as_ref().is_some_and(|file| file.is(open)) {
            return Ok(None);
        }
        match before {
            Some(before) if !before.is(open) => Ok(Some((before, true))),
            _ => Ok(current.map(|current| (current, false))),
        }
    }

    fn rest(&mut self, each: &mut impl FnMut(Vec<u8>)) -> io::Result<()> {
        let Some(Generation { lines, .. }) = &mut self.open else {
            return Ok(());
        };
        while lines.read_until(b'\n', &mut self.begun)? > 0 {
            if self.begun.pop_if(|last| *last == b'\n').is_some() {
                each(std::mem::take(&mut self.begun));
            }
        }
        Ok(())
    }
}

/// An open file of a log. Its number is not given to another file while it is open.
struct Generation {
    id: (u64, u64),
    lines: BufReader<File>,
}

impl Generation {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let metadata = file.metadata()?;
        Ok(Some(Self {
            id: (metadata.dev(), metadata.ino()),
            lines: BufReader::new(file),
        }))
    }

    fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{
        super::{DONE, Entry, Kind, append},
        *,
    };

    struct Log {
        dir: tempfile::TempDir,
        follower: Follower,
    }

    impl Log {
        fn new(filter: Filter) -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let follower = Follower::new(dir.path(), filter);
            Self { dir, follower }
        }

        fn add(&self, action: &str, result: &str) {
            let entry = Entry::new(Kind::Api, action, result, "me").org(Some("acme"));
            append(self.dir.path(), &entry).expect("written");
        }

        fn paths(&self) -> [PathBuf; 2] {
            writer::generations(&writer::folder(self.dir.path()), false)
        }

        /// As the writer does it.
        fn rotate(&self) {
            let [before, current] = self.paths();
            fs::rename(current, before).expect("renamed");
        }

        fn read(&mut self) -> (Vec<String>, bool) {
            let added = self.follower.read().expect("read");
            let of = |line: &String| {
                let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
                value["action"].as_str().expect("text").to_owned()
            };
            (added.lines.iter().map(of).collect(), added.has_gap)
        }

        fn reads(&mut self, expected: &[&str]) {
            assert_eq!(
                self.read(),
                (expected.iter().map(|s| (*s).to_owned()).collect(), false)
            );
        }
    }

    #[test]
    fn each_entry_is_read_once_across_a_rotation() {
        let mut log = Log::new(Filter::default());
        log.reads(&[]);
        assert!(log.follower.is_waiting());
        log.add("one", DONE);
        log.add("two", "refused");
        log.reads(&["one", "two"]);
        assert!(!log.follower.is_waiting());
        log.reads(&[]);
        log.add("three", DONE);
        log.rotate();
        log.reads(&["three"]);
        log.add("four", DONE);
        log.add("five", "refused");
        log.reads(&["four", "five"]);
        log.add("six", DONE);
        log.rotate();
        log.add("seven", DONE);
        log.reads(&["six", "seven"]);
    }

    #[test]
    fn a_second_rotation_is_read_through_and_its_gap_named() {
        let mut log = Log::new(Filter::default());
        log.add("one", DONE);
        log.reads(&["one"]);
        log.add("two", DONE);
        for action in ["three", "four"] {
            log.rotate();
            log.add(action, DONE);
        }
        let all = ["two", "three", "four"].map(str::to_owned).to_vec();
        assert_eq!(log.read(), (all, true));
        log.reads(&[]);
    }

    #[test]
    fn a_line_is_read_when_its_end_is_there() {
        use std::io::Write as _;
        let mut log = Log::new(Filter::default());
        log.add("one", DONE);
        log.reads(&["one"]);
        let [_, current] = log.paths();
        let file = fs::OpenOptions::new().append(true).open(current);
        let mut file = file.expect("open");
        let line = Entry::new(Kind::Api, "two", DONE, "me").line();
        let (begin, end) = line.split_at(20);
        file.write_all(begin).expect("written");
        log.reads(&[]);
        file.write_all(end).expect("written");
        log.reads(&["two"]);
    }

    #[test]
    fn the_limit_is_for_what_there_was_and_the_organization_for_all() {
        let mut log = Log::new(Filter {
            org: Some("acme".to_owned()),
            limit: Some(1),
            ..Filter::default()
        });
        let other = Entry::new(Kind::Api, "other", DONE, "me").org(Some("other"));
        log.add("one", DONE);
        log.add("two", DONE);
        append(log.dir.path(), &other).expect("written");
        log.reads(&["two"]);
        append(log.dir.path(), &other).expect("written");
        log.add("three", DONE);
        log.add("four", DONE);
        log.reads(&["three", "four"]);
    }
}
