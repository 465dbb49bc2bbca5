//! The write-ahead log of the executions, called the journal: it makes them durable.
//!
//! sled's own flush hands work between threads several times and rewrites its pages often;
//! appending to one file and syncing it once is three times as fast. So each batch is first
//! appended here and then applied to the databases without a flush. A checkpoint flushes the
//! databases and resets the journal. After a crash, the next start replays the journal: rows are
//! absolute, so replaying them twice changes nothing.
//!
//! A reset keeps the length of the file, because a sync that need not extend the file takes half
//! the time. The salt distinguishes new frames from the old bytes that remain: each reset draws a
//! new one. Callers choose the bodies that are stored here, so the salt is random: no body can
//! imitate a frame.
//!
//! A file consists of a header and frames. The header is the kind and format, the journal's number,
//! the header's CRC-32 (u32 each) and the salt. A frame is its length and CRC-32 (u32 each), the
//! salt, and the operations of one batch. Integers are little-endian. Of two files, the one with
//! the lower number was written first.
//!
//! A frame is begun only once the frame before it is on disk. So an incomplete frame with nothing
//! behind it was being written during a crash: its batch was never confirmed, and it is cut off. An
//! incomplete frame with another frame behind it, whole or not, was confirmed and has been damaged
//! since. That is an error: the journal stays untouched, and `ignite store repair` saves the rest
//! of it.

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

/// The file grows by this much at a time.
const GROWTH: u64 = 1024 * 1024;
/// A reset truncates a longer journal to this length.
const KEPT_BYTES: u64 = 4 * GROWTH;

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// The file cannot be read or written, or its operations cannot be applied.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Confirmed writes are damaged.
    #[error(transparent)]
    Damaged(#[from] Damage),
}

/// A position in a journal where confirmed writes cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is damaged at byte {at}, and not by a crash: {}", path.display(), match at {
    0 => "its header contradicts itself",
    _ => "later writes are behind it",
})]
pub(super) struct Damage {
    /// The file.
    pub(super) path: PathBuf,
    /// The offset of the first byte that cannot be read.
    pub(super) at: u64,
}

/// A batch that was not written.
#[derive(Debug)]
pub(super) struct NotAppended {
    pub(super) cause: io::Error,
    /// Nothing of it remains in the file. Otherwise only the next start can tell whether it holds.
    pub(super) undone: bool,
}

/// What a repair can save of a damaged journal.
#[derive(Debug, Default)]
pub(super) struct Saved {
    pub(super) number: u32,
    /// Every whole batch, in order.
    pub(super) batches: Vec<Vec<Operation>>,
    /// Offset and length of each range that was confirmed and cannot be read.
    pub(super) lost: Vec<(u64, u64)>,
}

/// The open journal.
pub(super) struct Journal {
    file: File,
    number: u32,
    salt: Salt,
    /// The offset of the next frame.
    end: u64,
    /// The length of the file.
    allocated: u64,
    /// Reused from batch to batch.
    buffer: Vec<u8>,
    faults: Faults,
}

impl Journal {
    /// Opens or creates the journal and hands each of its batches to `replay`, in order.
    ///
    /// # Errors
    /// See [`OpenError`]. A damaged journal is left untouched, and nothing of it is replayed.
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
        // The file may be of format 3, which has no checksum.
        let header = Header::encode(number, &salt);
        journal.file.write_all_at(&header, 0)?;
        // Bytes behind the last whole frame have the same salt and must not reappear behind a new
        // frame.
        journal.cut()?;
        Ok(journal)
    }

    /// Makes writes fail where a test asks for it.
    #[cfg(test)]
    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// The number of the journal in a file; 0 when there is no journal.
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

    /// The number that the last reset gave it.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Bytes appended since the last reset.
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

    /// Makes sure that no part of a frame whose write failed reappears at the next start.
    fn take_back(&mut self) -> io::Result<()> {
        self.faults.at(Step::Cut)?;
        self.cut()?;
        self.file.sync_all()
    }

    /// Extends the file to at least `end` with written zeros. Space that is merely reserved would
    /// cost the file system a metadata update at its first write.
    fn grow(&mut self, end: u64) -> io::Result<()> {
        if end <= self.allocated {
            return Ok(());
        }
        let target = end + GROWTH;
        let zeros = vec![0; usize::try_from(target - self.allocated).unwrap_or(usize::MAX)];
        match self.file.write_all_at(&zeros, self.allocated) {
            Ok(()) => self.allocated = target,
            // The disk lacks the spare space, but the frame itself may fit.
            Err(_) => {
                self.file.set_len(end.max(self.allocated))?;
                self.allocated = end.max(self.allocated);
            }
        }
        Ok(())
    }

    /// Resets the journal once the databases hold everything in it, and sets its number.
    pub(super) fn reset(&mut self, number: u32) -> io::Result<()> {
        let mut salt = Salt::default();
        SystemRandom::new()
            .fill(&mut salt)
            .map_err(|_| io::Error::other("the system has no random numbers"))?;
        self.file.write_all_at(&Header::encode(number, &salt), 0)?;
        self.file.sync_data()?;
        self.allocated = self.allocated.max(HEADER as u64);
        (self.number, self.salt, self.end) = (number, salt, HEADER as u64);
        // Last: truncated under its old header, the file would still replay the older half of its
        // frames.
        if self.allocated > KEPT_BYTES {
            self.file.set_len(KEPT_BYTES)?;
            self.allocated = KEPT_BYTES;
        }
        Ok(())
    }

    /// Cuts the file off behind the last whole frame.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.end)?;
        self.allocated = self.end;
        Ok(())
    }
}

/// The first damage in a journal that no crash can explain. Only reads.
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
    // From 1, which skips the salt of this frame: its header may be whole.
    match next_frame(&rest, 1, &salt) {
        Some(_) => damaged(end),
        None => Ok(None),
    }
}

/// Reads every whole batch of a journal, damaged or not.
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
        // Without the salt, its frames cannot be distinguished from those of before the reset.
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
