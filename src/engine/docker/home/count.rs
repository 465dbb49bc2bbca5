//! Counts the content of a tar archive as it arrives, without keeping it.

/// Headers and contents are in blocks of this many bytes.
const BLOCK: u64 = 512;

/// Counts files and bytes up to a bound.
#[derive(Debug)]
pub(super) struct Counter {
    /// How many more entries are allowed.
    files: u64,
    /// How many more bytes of content are allowed.
    bytes: u64,
    /// The beginning of the next header.
    header: Vec<u8>,
    /// How much of the current entry's content is still to come.
    content: u64,
    over: bool,
}

impl Counter {
    pub(super) fn new(max_files: u32, max_bytes: u64) -> Self {
        Self {
            // The directory itself is in its archive.
            files: u64::from(max_files) + 1,
            bytes: max_bytes,
            header: Vec::with_capacity(BLOCK as usize),
            content: 0,
            over: false,
        }
    }

    /// Whether everything so far is within the bounds.
    pub(super) fn is_within(&self) -> bool {
        !self.over
    }

    /// Counts the next part of the archive; returns whether more of it matters.
    pub(super) fn push(&mut self, mut part: &[u8]) -> bool {
        while !part.is_empty() && !self.over {
            if self.content > 0 {
                let skipped = self.content.min(part.len() as u64);
                self.content -= skipped;
                part = &part[skipped as usize..];
                continue;
            }
            let wanted = BLOCK as usize - self.header.len();
            let (begin, rest) = part.split_at(wanted.min(part.len()));
            self.header.extend_from_slice(begin);
            part = rest;
            if self.header.len() == BLOCK as usize {
                self.entry();
                self.header.clear();
            }
        }
        !self.over
    }

    fn entry(&mut self) {
        let header = tar::Header::from_byte_slice(&self.header);
        // Two blocks of zeros mark the end.
        if self.header.iter().all(|byte| *byte == 0) {
            return;
        }
        // An archive that cannot be read is not worth copying.
        let Ok(size) = header.entry_size() else {
            self.over = true;
            return;
        };
        self.content = size.div_ceil(BLOCK).saturating_mul(BLOCK);
        let kind = header.entry_type();
        let is_of_next = kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions()
            || kind.is_gnu_longname()
            || kind.is_gnu_longlink();
        if is_of_next {
            return;
        }
        match (self.files.checked_sub(1), self.bytes.checked_sub(size)) {
            (Some(files), Some(bytes)) => (self.files, self.bytes) = (files, bytes),
            _ => self.over = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with files of these sizes.
    fn archive(sizes: &[usize]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |name: &str, kind, size: usize| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(size as u64);
            archive
                .append_data(&mut header, name, vec![7; size].as_slice())
                .expect("in memory");
        };
        add("home", tar::EntryType::Directory, 0);
        for (n, size) in sizes.iter().enumerate() {
            // A long name has a separate entry before the file's.
            let name = format!("home/{}{n}", "x".repeat(150));
            add(&name, tar::EntryType::Regular, *size);
        }
        archive.into_inner().expect("in memory")
    }

    fn is_within(archive: &[u8], part: usize, files: u32, bytes: u64) -> bool {
        let mut counter = Counter::new(files, bytes);
        let _ = archive.chunks(part).all(|part| counter.push(part));
        counter.is_within()
    }

    #[test]
    fn files_and_bytes_are_counted_in_parts_of_any_size() {
        let archive = archive(&[1, 511, 512, 513]);
        for part in [1, 100, 512, 1000, archive.len()] {
            assert!(is_within(&archive, part, 4, 1537), "{part}");
            assert!(!is_within(&archive, part, 3, 1537), "{part}");
            assert!(!is_within(&archive, part, 4, 1536), "{part}");
        }
    }

    #[test]
    fn nothing_more_is_read_once_it_is_too_much() {
        let archive = archive(&[1; 50]);
        let mut counter = Counter::new(10, u64::MAX);
        let read = archive
            .chunks(512)
            .take_while(|part| counter.push(part))
            .count();
        assert!(read * 512 < archive.len() / 2, "{read}");
    }

    #[test]
    fn noise_is_never_small() {
        assert!(!is_within(&[7; 4096], 512, 1000, 1 << 20));
    }
}
