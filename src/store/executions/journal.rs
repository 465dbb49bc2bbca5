//! The write-ahead journal of the executions: what makes them durable.
//!
//! sled's own flush costs several hand-overs between threads and its pages are rewritten often;
//! appending to one file and syncing it once is three times as fast. So each batch is appended
//! here first, then applied to the databases without a flush. A checkpoint flushes those and
//! empties the journal. A start applies again what a crash left in it: rows are absolute, so
//! doing it twice changes nothing.
//!
//! A frame is its length and CRC-32 (u32 each, little-endian) and the operations of one batch.
//! One that is cut short or damaged was never answered; it and what follows is ignored.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

/// What the file begins with: its kind and its format.
const HEADER: &[u8; 8] = b"ignite\x00\x01";
const FRAME_HEAD: usize = 8;

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
    len: u64,
    /// Reused from batch to batch.
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens or makes the journal and hands what is in it to `replay`, batch by batch.
    pub(super) fn open(
        path: &Path,
        mut replay: impl FnMut(Vec<Operation>) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        if !content.is_empty() && content.len() >= HEADER.len() && !content.starts_with(HEADER) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is no journal that this ignite can read; run the ignite that wrote it",
            ));
        }
        let mut rest = content.get(HEADER.len()..).unwrap_or_default();
        while let Some((operations, after)) = take_frame(rest) {
            replay(operations)?;
            rest = after;
        }
        let mut journal = Self {
            file,
            len: 0,
            buffer: Vec::new(),
        };
        // Only once what was replayed is safe: the caller checkpoints first.
        journal.len = (content.len() - rest.len()) as u64;
        if content.len() < HEADER.len() {
            journal.reset()?;
        } else {
            journal.cut()?;
        }
        Ok(journal)
    }

    /// Bytes since the last checkpoint.
    pub(super) fn len(&self) -> u64 {
        self.len - HEADER.len() as u64
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
        self.buffer[4..FRAME_HEAD].copy_from_slice(&crc.to_le_bytes());
        let written = self
            .file
            .write_all(&self.buffer)
            .and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.len += self.buffer.len() as u64;
                Ok(())
            }
            Err(e) => {
                self.cut()?;
                Err(e)
            }
        }
    }

    /// Empties it, once everything in it is in the databases.
    pub(super) fn reset(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(HEADER)?;
        self.file.sync_data()?;
        self.len = HEADER.len() as u64;
        Ok(())
    }

    /// Takes away what came after the last whole frame.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.file.seek(SeekFrom::Start(self.len))?;
        Ok(())
    }
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

/// The first frame, if it is whole, and what comes after it.
fn take_frame(bytes: &[u8]) -> Option<(Vec<Operation>, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (mut payload, after) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    if payload.is_empty() || crc32fast::hash(payload) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut operations = Vec::new();
    while !payload.is_empty() {
        operations.push(take(&mut payload)?);
    }
    Some((operations, after))
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
            batches in prop::collection::vec(prop::collection::vec(operation(), 1..5), 1..6),
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
                    ends.push(journal.len as usize);
                }
            }
            prop_assert_eq!(read(&path), batches.clone());
            let mut content = std::fs::read(&path).expect("reads");
            let at = HEADER.len() + at.index(content.len() - HEADER.len());
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
        journal.reset().expect("resets");
        assert_eq!(journal.len(), 0);
        drop(journal);
        assert!(read(&path).is_empty());
        std::fs::write(&path, b"ignite\x00\x02").expect("writes");
        let refused = Journal::open(&path, |_| Ok(())).err().expect("refused");
        assert!(refused.to_string().contains("this ignite"), "{refused}");
    }
}
