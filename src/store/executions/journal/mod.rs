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
//! A file is its kind and format, its number and the header's CRC-32 (u32 each), the salt, and
//! frames. Of two files, the one with the lower number was written before the other. A frame is its
//! length and CRC-32 (u32 each, all little-endian), the salt, and the operations of one batch.
//!
//! A frame is begun only once the one before is on disk. So a frame that is not whole and has none
//! behind it was being written at a crash, was never answered, and is cut away. One that has
//! another behind it, whole or not, was answered and is damaged since: that is never passed over
//! in silence. The journal is left as it is, and `ignite store repair` saves the rest of it.

mod frame;
#[cfg(test)]
mod tests;

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom as _, SystemRandom};

use self::frame::{Frame, HEADER, Header, Salt, next_frame};
pub(super) use self::frame::{Operation, STATISTICS};
use super::super::fault::{Faults, Step};

/// The file grows by so much at once.
const GROWTH: u64 = 1024 * 1024;
/// An emptied journal keeps at most so much of the disk.
const KEPT_BYTES: u64 = 4 * GROWTH;

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// The file cannot be read or written, or what is in it cannot be applied.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What was confirmed is damaged.
    #[error(transparent)]
    Damaged(#[from] Damage),
}

/// A place of a journal where something was confirmed and cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is damaged at byte {at}, and not by a crash: {}", path.display(), match at {
    0 => "its header contradicts itself",
    _ => "later writes are behind it",
})]
pub(super) struct Damage {
    /// The file.
    pub(super) path: PathBuf,
    /// The first byte of what cannot be read.
    pub(super) at: u64,
}

/// A batch that was not written.
#[derive(Debug)]
pub(super) struct NotAppended {
    pub(super) cause: io::Error,
    /// Nothing of it is in the file. Otherwise only the next start knows.
    pub(super) undone: bool,
}

/// What could be saved of a damaged journal.
#[derive(Debug, Default)]
pub(super) struct Saved {
    pub(super) number: u32,
    /// Every whole batch, in order.
    pub(super) batches: Vec<Vec<Operation>>,
    /// The first byte and the length of each piece that was confirmed and cannot be read.
    pub(super) lost: Vec<(u64, u64)>,
}

/// The open journal.
pub(super) struct Journal {
    file: File,
    number: u32,
    salt: Salt,
    /// Where the next frame goes.
    end: u64,
    /// How long the file is.
    allocated: u64,
    /// Reused from batch to batch.
    buffer: Vec<u8>,
    faults: Faults,
}

impl Journal {
    /// Opens or makes the journal and hands what is in it to `replay`, batch by batch.
    ///
    /// # Errors
    /// See [`OpenError`]. A damaged one is left as it is, and nothing of it is applied.
    pub(super) fn open(
        path: &Path,
        mut replay: impl FnMut(Vec<Operation>) -> io::Result<()>,
    ) -> Result<Self, OpenError> {
        if let Some(damage) = damage(path)? {
            return Err(damage.into());
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut journal = Self {
            number: 0,
            salt: Salt::default(),
            end: HEADER as u64,
            allocated: file.metadata()?.len(),
            file,
            buffer: Vec::new(),
            faults: Faults::default(),
        };
        let mut reader = BufReader::new(&journal.file);
        let Header::Whole { number, salt } = Header::read(&mut reader)? else {
            journal.reset(0)?;
            return Ok(journal);
        };
        (journal.number, journal.salt) = (number, salt);
        let mut end = journal.end;
        while let Frame::Whole(operations, len) =
            Frame::read(&mut reader, &journal.salt, journal.allocated - end)?
        {
            replay(operations)?;
            end += len;
        }
        journal.end = end;
        // It may be of the format before.
        let header = Header::encode(number, &salt);
        journal.file.write_all_at(&header, 0)?;
        // What follows has the same salt and must not come back behind another frame.
        journal.cut()?;
        Ok(journal)
    }

    /// Has writes fail as a test wants it.
    #[cfg(test)]
    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// The number of the journal in a file, 0 when there is none.
    pub(super) fn number_in(path: &Path) -> io::Result<u32> {
        match File::open(path) {
            Ok(mut file) => Ok(match Header::read(&mut file)? {
                Header::Whole { number, .. } => number,
                Header::Empty | Header::Damaged => 0,
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(e),
        }
    }

    /// What it was given when it was last emptied.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Bytes since the last checkpoint.
    pub(super) fn len(&self) -> u64 {
        self.end - HEADER as u64
    }

    /// Appends a batch and returns once it is on disk.
    ///
    /// # Errors
    /// See [`NotAppended`].
    pub(super) fn append(&mut self, operations: &[Operation]) -> Result<(), NotAppended> {
        let written = self.write(operations);
        written.map_err(|cause| NotAppended {
            cause,
            undone: self.take_back().is_ok(),
        })
    }

    fn write(&mut self, operations: &[Operation]) -> io::Result<()> {
        Frame::encode(&mut self.buffer, &self.salt, operations)?;
        let end = self.end + self.buffer.len() as u64;
        self.grow(end)?;
        self.faults.at(Step::Append)?;
        self.file.write_all_at(&self.buffer, self.end)?;
        self.faults.at(Step::AppendSync)?;
        self.file.sync_data()?;
        self.end = end;
        Ok(())
    }

    /// Makes sure that nothing of a frame that could not be written comes back at a start.
    fn take_back(&mut self) -> io::Result<()> {
        self.faults.at(Step::Cut)?;
        self.cut()?;
        self.file.sync_all()
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
    pub(super) fn reset(&mut self, number: u32) -> io::Result<()> {
        let mut salt = Salt::default();
        SystemRandom::new()
            .fill(&mut salt)
            .map_err(|_| io::Error::other("the system has no random numbers"))?;
        self.file.write_all_at(&Header::encode(number, &salt), 0)?;
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

/// The first damage of a journal that a crash cannot have done. Reads only.
pub(super) fn damage(path: &Path) -> io::Result<Option<Damage>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let len = file.metadata()?.len();
    let damaged = |at| {
        Ok(Some(Damage {
            path: path.to_owned(),
            at,
        }))
    };
    let mut reader = BufReader::new(&file);
    let salt = match Header::read(&mut reader)? {
        Header::Empty => return Ok(None),
        Header::Damaged => return damaged(0),
        Header::Whole { salt, .. } => salt,
    };
    let mut end = HEADER as u64;
    while let Frame::Whole(_, whole) = Frame::read(&mut reader, &salt, len - end)? {
        end += whole;
    }
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(end))?;
    file.read_to_end(&mut rest)?;
    // Not the head of this frame itself, which may be whole.
    match next_frame(&rest, 1, &salt) {
        Some(_) => damaged(end),
        None => Ok(None),
    }
}

/// Reads everything whole of a journal, damaged or not.
///
/// # Errors
/// When the file cannot be read, or is of a format that this binary does not know.
pub(super) fn salvage(path: &Path) -> io::Result<Saved> {
    let content = match std::fs::read(path) {
        Ok(content) => content,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e),
    };
    let mut saved = Saved::default();
    let len = content.len() as u64;
    let header = match Header::read(&mut content.as_slice())? {
        Header::Damaged => Header::mend(&content),
        header => Some(header),
    };
    let salt = match header {
        Some(Header::Whole { number, salt }) => {
            saved.number = number;
            salt
        }
        Some(Header::Empty) => return Ok(saved),
        // Its frames cannot be told from those of before it was emptied.
        _ => {
            saved.lost.push((0, len));
            return Ok(saved);
        }
    };
    let mut at = HEADER;
    while let Some(rest) = content.get(at..) {
        match Frame::read(&mut &*rest, &salt, rest.len() as u64)? {
            Frame::Whole(operations, len) => {
                saved.batches.push(operations);
                at += len as usize;
            }
            Frame::None => match next_frame(&content, at + 1, &salt) {
                Some(next) => {
                    saved.lost.push((at as u64, (next - at) as u64));
                    at = next;
                }
                None => break,
            },
        }
    }
    Ok(saved)
}
