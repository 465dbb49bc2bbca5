//! The bytes of the journal: its header, its frames, and what can be read of a damaged file.

use std::io::{self, Read};

/// The first bytes of the file: its kind and format version 4.
const KIND: &[u8; 8] = b"ignite\x00\x04";
/// Format 3, whose header had no checksum.
const KIND_3: &[u8; 8] = b"ignite\x00\x03";
/// Format 2, which had no number.
const KIND_2: &[u8; 8] = b"ignite\x00\x02";
const SALT: usize = 8;
/// Length of the header in bytes.
pub(super) const HEADER: usize = KIND.len() + 4 + 4 + SALT;
/// Bytes that precede the payload of a frame.
pub(super) const FRAME_HEAD: usize = 8 + SALT;

/// Distinguishes frames written since the last reset from older ones behind them.
pub(super) type Salt = [u8; SALT];

/// A row that is written or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store::executions) struct Operation {
    /// The database: a segment's start, or [`STATISTICS`].
    pub(in crate::store::executions) target: u64,
    pub(in crate::store::executions) key: Vec<u8>,
    /// `None` removes the row.
    pub(in crate::store::executions) value: Option<Vec<u8>>,
}

/// The target of the statistics' rows; no segment starts there.
pub(in crate::store::executions) const STATISTICS: u64 = u64::MAX;

/// The start of a journal file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// Nothing was ever written to the file.
    Empty,
    Whole {
        number: u32,
        salt: Salt,
    },
    /// The bytes contradict each other.
    Damaged,
}

/// What a position in the file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A whole frame and its length in bytes.
    Whole(Vec<Operation>, u64),
    /// No whole frame: none was ever finished here, or it is damaged.
    None,
}

// === impl Header ===

impl Header {
    /// The bytes of a whole header.
    pub(super) fn encode(number: u32, salt: &Salt) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(KIND);
        out[8..12].copy_from_slice(&number.to_le_bytes());
        out[16..].copy_from_slice(salt);
        let crc = crc_of_header(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header from the start of a file.
    ///
    /// # Errors
    /// When the file cannot be read, or is of a format that this binary does not know.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; HEADER];
        let found = fill(from, &mut header)?;
        if found < HEADER {
            return if is_prefix(&header[..found]) {
                Ok(Self::Empty)
            } else {
                Err(unknown_format())
            };
        }
        if header == [0; HEADER] {
            return is_zero(from).map(|zero| if zero { Self::Empty } else { Self::Damaged });
        }
        let is_ours = header.starts_with(&KIND[..7]);
        if is_ours && ![KIND[7], KIND_3[7], KIND_2[7]].contains(&header[7]) {
            return Err(unknown_format());
        }
        if header.starts_with(KIND_2) {
            // In format 2 the salt is followed by the first frame: its length, checksum, and the
            // salt again.
            let mut again = [0; SALT];
            let is_whole = fill(from, &mut again)? == SALT;
            return if is_whole && again == header[8..16] {
                Err(unknown_format())
            } else {
                Ok(Self::Empty)
            };
        }
        Ok(Self::parse(&header))
    }

    fn parse(header: &[u8; HEADER]) -> Self {
        let mut salt = [0; SALT];
        salt.copy_from_slice(&header[16..]);
        if header.starts_with(KIND_3) {
            // Format 3 had a number of eight bytes. It counts journals of 64 MiB each, so the low
            // four bytes hold it.
            let number = number_at(header, 8);
            return Self::Whole { number, salt };
        }
        if header.starts_with(KIND) && number_at(header, 12) == crc_of_header(header) {
            Self::Whole {
                number: number_at(header, 8),
                salt,
            }
        } else {
            Self::Damaged
        }
    }

    /// Recovers a header that a single flipped bit has damaged.
    pub(super) fn mend(content: &[u8]) -> Option<Self> {
        let mut header: [u8; HEADER] = content.get(..HEADER)?.try_into().ok()?;
        (0..HEADER * 8).find_map(|bit| {
            header[bit / 8] ^= 1 << (bit % 8);
            let parsed = header.starts_with(KIND).then(|| Self::parse(&header));
            header[bit / 8] ^= 1 << (bit % 8);
            parsed.filter(|h| *h != Self::Damaged)
        })
    }
}

fn crc_of_header(header: &[u8; HEADER]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..12]);
    crc.update(&header[16..]);
    crc.finalize()
}

/// Whether so short a file is a journal whose creation was cut short.
fn is_prefix(found: &[u8]) -> bool {
    let kinds = [KIND, KIND_3, KIND_2];
    let is_of = |kind: &&[u8; 8]| kind.starts_with(found) || found.starts_with(*kind);
    found.iter().all(|b| *b == 0) || kinds.iter().any(is_of)
}

fn is_zero(from: &mut impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let found = fill(from, &mut buffer)?;
        if buffer[..found].iter().any(|b| *b != 0) {
            return Ok(false);
        }
        if found < buffer.len() {
            return Ok(true);
        }
    }
}

fn unknown_format() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "it is not a journal that this ignite can read; run the ignite that wrote it",
    )
}

// === impl Frame ===

impl Frame {
    /// Encodes a frame into `out`, which is cleared first.
    pub(super) fn encode(
        out: &mut Vec<u8>,
        salt: &Salt,
        operations: &[Operation],
    ) -> io::Result<()> {
        out.clear();
        out.extend([0; FRAME_HEAD]);
        for operation in operations {
            put(out, operation);
        }
        let payload = &out[FRAME_HEAD..];
        let len =
            u32::try_from(payload.len()).map_err(|_| io::Error::other("a batch is over 4 GiB"))?;
        let crc = crc32fast::hash(payload);
        out[..4].copy_from_slice(&len.to_le_bytes());
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out[8..FRAME_HEAD].copy_from_slice(salt);
        Ok(())
    }

    /// Reads the next frame with this salt; `left` bytes remain in the file.
    pub(super) fn read(from: &mut impl Read, salt: &Salt, left: u64) -> io::Result<Self> {
        let mut head = [0; FRAME_HEAD];
        if fill(from, &mut head)? < FRAME_HEAD || head[8..] != *salt {
            return Ok(Self::None);
        }
        let (len, crc) = (number_at(&head, 0), number_at(&head, 4));
        let whole = FRAME_HEAD as u64 + u64::from(len);
        // A damaged length must not cause a huge allocation.
        if whole > left {
            return Ok(Self::None);
        }
        let mut payload = vec![0; len as usize];
        if fill(from, &mut payload)? < payload.len() || crc32fast::hash(&payload) != crc {
            return Ok(Self::None);
        }
        let (mut operations, mut rest) = (Vec::new(), payload.as_slice());
        while !rest.is_empty() {
            match take(&mut rest) {
                Some(operation) => operations.push(operation),
                None => return Ok(Self::None),
            }
        }
        Ok(Self::Whole(operations, whole))
    }
}

/// The position, after `from`, where the next frame with this salt begins, whole or not. A payload
/// cannot contain the salt, which is random and known to no caller.
pub(super) fn next_frame(content: &[u8], from: usize, salt: &Salt) -> Option<usize> {
    let mut at = from + 8;
    while at + SALT <= content.len() {
        let found = content[at..].iter().position(|b| *b == salt[0])?;
        at += found;
        if content[at..].starts_with(salt) {
            return Some(at - 8);
        }
        at += 1;
    }
    None
}

/// Reads until the buffer is full or the input ends; returns the number of bytes read.
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

fn number_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put(out: &mut Vec<u8>, operation: &Operation) {
    // A row is at most a few times the inline limit, so its lengths fit in 32 bits.
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
