//! The write-ahead journal of the executions: what makes them durable.
//!
//! sled's own flush costs several hand-overs between threads and its pages are rewritten often;
//! appending to one file and syncing it once is three times as fast. So each batch is appended
//! here first, then applied to the databases without a flush. A checkpoint flushes those and
//! empties the journal. A start applies again what a crash left in it: rows are absolute, so
//! doing it twice changes nothing.
//!
//! Emptied, the file keeps its length: a sync that need not make a file longer takes half the
//! time. What is left in it from before is told apart by the salt, which is drawn anew each time
//! (and cannot be guessed, since bodies that callers chose are in here).
//!
//! A file is its kind and format, its number, the salt, and frames. Of two files, the one with the
//! lower number was written before the other. A frame is its length and CRC-32 (u32
//! each, little-endian), the salt, and the operations of one batch. One that is cut short or
//! damaged was never answered; it and what follows is ignored.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Read},
    os::unix::fs::FileExt as _,
    path::Path,
};

use ring::rand::{SecureRandom as _, SystemRandom};

/// What the file begins with: its kind and its format.
const KIND: &[u8; 8] = b"ignite\x00\x03";
/// The same of the format before, which had no number.
const KIND_2: &[u8; 8] = b"ignite\x00\x02";
const NUMBER: usize = 8;
const SALT: usize = 8;
const HEADER: usize = KIND.len() + NUMBER + SALT;
const FRAME_HEAD: usize = 8 + SALT;
/// The file grows by so much at once.
const GROWTH: u64 = 1024 * 1024;
/// An emptied journal keeps at most so much of the disk.
const KEPT_BYTES: u64 = 4 * GROWTH;

/// One row written or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Operation {
    /// The database: a segment's start, or [`STATISTICS`].
    pub(super) target: u64,
    pub(super) key: Vec<u8>,
    /// `None` removes the row.
    pub(super) value: Option<Vec<u8>>,
}

/// The target of the statistics' rows; no segment starts there.
pub(super) const STATISTICS: u64 = u64::MAX;

/// The open journal.
pub(super) struct Journal {
    file: File,
    number: u64,
    salt: [u8; SALT],
    /// Where the next frame goes.
    end: u64,
    /// How long the file is.
    allocated: u64,
    /// Reused from batch to batch.
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens or makes the journal and hands what is in it to `replay`, batch by batch.
    pub(super) fn open(
        path: &Path,
        mut replay: impl FnMut(Vec<Operation>) -> io::Result<()>,
    ) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut journal = Self {
            number: 0,
            salt: [0; SALT],
            end: HEADER as u64,
            allocated: file.metadata()?.len(),
            file,
            buffer: Vec::new(),
        };
        let mut reader = BufReader::new(&journal.file);
        let Some((number, salt)) = read_header(&mut reader)? else {
            journal.reset(0)?;
            return Ok(journal);
        };
        (journal.number, journal.salt) = (number, salt);
        let mut end = journal.end;
        while let Some((operations, len)) =
            take_frame(&mut reader, &journal.salt, journal.allocated - end)?
        {
            replay(operations)?;
            end += len;
        }
        journal.end = end;
        // What follows has the same salt and must not come back behind another frame.
        journal.cut()?;
        Ok(journal)
    }

    /// The number of the journal in a file, 0 when there is none.
    pub(super) fn number_in(path: &Path) -> io::Result<u64> {
        let header = match File::open(path) {
            Ok(mut file) => read_header(&mut file)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        Ok(header.map_or(0, |(number, _)| number))
    }

    /// What it was given when it was last emptied.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Bytes since the last checkpoint.
    pub(super) fn len(&self) -> u64 {
        self.end - HEADER as u64
    }

    /// Appends a batch and returns once it is on disk. After an error it is as if nothing had been
    /// appended.
    pub(super) fn append(&mut self, operations: &[Operation]) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.extend([0; FRAME_HEAD]);
        for operation in operations {
            put(&mut self.buffer, operation);
        }
        let payload = &self.buffer[FRAME_HEAD..];
        let (len, crc) = (wire_len(payload.len())?, crc32fast::hash(payload));
        self.buffer[..4].copy_from_slice(&len.to_le_bytes());
        self.buffer[4..8].copy_from_slice(&crc.to_le_bytes());
        self.buffer[8..FRAME_HEAD].copy_from_slice(&self.salt);
        let end = self.end + self.buffer.len() as u64;
        let written = self
            .grow(end)
            .and_then(|()| self.file.write_all_at(&self.buffer, self.end))
            .and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.end = end;
                Ok(())
            }
            Err(e) => {
                self.cut()?;
                Err(e)
            }
        }
    }

    /// Makes sure of room up to `end`, written and not only reserved: the file system would have
    /// to note the first write to room that is reserved.
    fn grow(&mut self, end: u64) -> io::Result<()> {
        if end <= self.allocated {
            return Ok(());
        }
        let target = end + GROWTH;
        let zeros = vec![0; usize::try_from(target - self.allocated).unwrap_or(usize::MAX)];
        match self.file.write_all_at(&zeros, self.allocated) {
            Ok(()) => self.allocated = target,
            // No room to spare, but perhaps enough for the frame itself.
            Err(_) => {
                self.file.set_len(end.max(self.allocated))?;
                self.allocated = end.max(self.allocated);
            }
        }
        Ok(())
    }

    /// Empties it, once everything in it is in the databases, and gives it a number.
    pub(super) fn reset(&mut self, number: u64) -> io::Result<()> {
        let mut salt = [0; SALT];
        SystemRandom::new()
            .fill(&mut salt)
            .map_err(|_| io::Error::other("the system has no random numbers"))?;
        let header = [&KIND[..], &number.to_le_bytes(), &salt].concat();
        self.file.write_all_at(&header, 0)?;
        self.file.sync_data()?;
        self.allocated = self.allocated.max(HEADER as u64);
        (self.number, self.salt, self.end) = (number, salt, HEADER as u64);
        // Last: cut short under its old header, it would have the older half of what it had.
        if self.allocated > KEPT_BYTES {
            self.file.set_len(KEPT_BYTES)?;
            self.allocated = KEPT_BYTES;
        }
        Ok(())
    }

    /// Takes away what came after the last whole frame.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.end)?;
        self.allocated = self.end;
        Ok(())
    }
}

/// The number and the salt of a file; `None` when it has nothing to keep.
fn read_header(from: &mut impl Read) -> io::Result<Option<(u64, [u8; SALT])>> {
    let mut header = [0; HEADER];
    let found = fill(from, &mut header)?;
    let found = &header[..found];
    if found.len() < HEADER && (KIND.starts_with(found) || found.starts_with(KIND)) {
        return Ok(None);
    }
    if let Some(rest) = found.strip_prefix(KIND) {
        let (number, salt) = rest.split_at(NUMBER);
        let (mut n, mut s) = ([0; NUMBER], [0; SALT]);
        n.copy_from_slice(number);
        s.copy_from_slice(salt);
        return Ok(Some((u64::from_le_bytes(n), s)));
    }
    if let Some(salt) = found.strip_prefix(KIND_2) {
        // Behind it come length and checksum of its first frame, and the salt again.
        let mut again = [0; SALT];
        let is_whole = fill(from, &mut again)? == SALT;
        if !is_whole || again != salt[..SALT] {
            return Ok(None);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "it is no journal that this ignite can read; run the ignite that wrote it",
    ))
}

/// Reads until the buffer is full or nothing is left; returns how much there was.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn wire_len(len: usize) -> io::Result<u32> {
    u32::try_from(len).map_err(|_| io::Error::other("a batch is over 4 GiB"))
}

fn put(out: &mut Vec<u8>, operation: &Operation) {
    // A row is at most a few times the inline limit, so lengths fit.
    let len = |bytes: &[u8]| (bytes.len() as u32).to_le_bytes();
    out.extend(operation.target.to_le_bytes());
    out.push(operation.value.is_some().into());
    out.extend(len(&operation.key));
    out.extend(&operation.key);
    if let Some(value) = &operation.value {
        out.extend(len(value));
        out.extend(value);
    }
}

/// The next frame and its length, if it is whole and this salt's; `left` bytes are in the file.
fn take_frame(
    from: &mut impl Read,
    salt: &[u8; SALT],
    left: u64,
) -> io::Result<Option<(Vec<Operation>, u64)>> {
    let mut head = [0; FRAME_HEAD];
    if fill(from, &mut head)? < FRAME_HEAD || head[8..] != *salt {
        return Ok(None);
    }
    let number =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (len, crc) = (number(0), number(4));
    let whole = FRAME_HEAD as u64 + u64::from(len);
    // A damaged length must not make this ask for memory.
    if whole > left {
        return Ok(None);
    }
    let mut payload = vec![0; len as usize];
    if fill(from, &mut payload)? < payload.len() || crc32fast::hash(&payload) != crc {
        return Ok(None);
    }
    let (mut operations, mut rest) = (Vec::new(), payload.as_slice());
    while !rest.is_empty() {
        match take(&mut rest) {
            Some(operation) => operations.push(operation),
            None => return Ok(None),
        }
    }
    Ok(Some((operations, whole)))
}

fn take(from: &mut &[u8]) -> Option<Operation> {
    let (target, rest) = from.split_first_chunk::<8>()?;
    let (has_value, rest) = rest.split_first()?;
    let (key, rest) = take_bytes(rest)?;
    let (value, rest) = match has_value {
        0 => (None, rest),
        _ => {
            let (value, rest) = take_bytes(rest)?;
            (Some(value), rest)
        }
    };
    *from = rest;
    Some(Operation {
        target: u64::from_le_bytes(*target),
        key,
        value,
    })
}

fn take_bytes(from: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (len, rest) = from.split_first_chunk::<4>()?;
    let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some((bytes.to_vec(), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn operation() -> impl Strategy<Value = Operation> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        (any::<u64>(), bytes(), prop::option::of(bytes()))
            .prop_map(|(target, key, value)| Operation { target, key, value })
    }

    fn read(path: &Path) -> Vec<Vec<Operation>> {
        let mut out = Vec::new();
        let replay = |batch| {
            out.push(batch);
            Ok(())
        };
        drop(Journal::open(path, replay).expect("opens"));
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Wherever the file is cut or damaged: the batches before are read whole, none after, and
        /// it can be written on.
        #[test]
        fn damage_costs_only_what_comes_after_it(
            batches in prop::collection::vec(prop::collection::vec(operation(), 0..5), 1..6),
            at in any::<prop::sample::Index>(),
            flip in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().expect("temp dir");
            let path = dir.path().join("journal");
            let mut ends = Vec::new();
            {
                let mut journal = Journal::open(&path, |_| Ok(())).expect("opens");
                for batch in &batches {
                    journal.append(batch).expect("appends");
                    ends.push(journal.end as usize);
                }
            }
            prop_assert_eq!(read(&path), batches.clone());
            let mut content = std::fs::read(&path).expect("reads");
            let at = HEADER + at.index(ends[ends.len() - 1] - HEADER);
            if flip {
                content[at] ^= 0x5a;
            } else {
                content.truncate(at);
            }
            std::fs::write(&path, &content).expect("writes");
            let whole = ends.iter().filter(|end| **end <= at).count();
            prop_assert_eq!(read(&path), batches[..whole].to_vec());
            let mut journal = Journal::open(&path, |_| Ok(())).expect("opens");
            journal.append(&batches[0]).expect("appends");
            drop(journal);
            prop_assert_eq!(read(&path).len(), whole + 1);
        }
    }

    /// Frames of before a reset lie behind those of after it, whole and where a frame may begin.
    #[test]
    fn what_was_before_a_reset_never_comes_back() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("journal");
        let batch = |n: u8| {
            vec![Operation {
                target: 1,
                key: vec![n],
                value: Some(vec![n; 100]),
            }]
        };
        let mut journal = Journal::open(&path, |_| Ok(())).expect("opens");
        for n in 0..50 {
            journal.append(&batch(n)).expect("appends");
        }
        journal.reset(1).expect("resets");
        for n in 100..103 {
            journal.append(&batch(n)).expect("appends");
        }
        drop(journal);
        let length = std::fs::metadata(&path).expect("is there").len();
        assert!(length > 50 * 100, "it was cut, so this shows nothing");
        assert_eq!(read(&path), [batch(100), batch(101), batch(102)]);
    }

    #[test]
    fn a_reset_leaves_nothing_and_another_format_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path, |_| Ok(())).expect("opens");
        let operation = Operation {
            target: 1,
            key: vec![2],
            value: None,
        };
        journal.append(&[operation]).expect("appends");
        assert!(journal.len() > 0);
        journal.reset(7).expect("resets");
        assert_eq!(journal.len(), 0);
        drop(journal);
        assert!(read(&path).is_empty());
        assert_eq!(Journal::number_in(&path).expect("reads"), 7);
        for empty in [
            "ignite\0\x02",
            "ignite\0\x02the salt",
            "ignite\0\x02the saltlen+crc.no salt.",
        ] {
            std::fs::write(&path, empty).expect("writes");
            assert!(read(&path).is_empty(), "an empty one of the format before");
        }
        for other in [
            "ignite\0\x02the saltlen+crc.the salt",
            "ignite\0\x04and a number and a salt",
        ] {
            std::fs::write(&path, other).expect("writes");
            let refused = Journal::open(&path, |_| Ok(())).err().expect("refused");
            assert!(refused.to_string().contains("this ignite"), "{refused}");
        }
    }
}
