//! Bounds on what a repository's server can make git do: memory, disk, files, and output.

use std::{fs, path::Path};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, BufReader},
    process::Child,
};

use crate::builder::{Limits, limits::quoted};

/// Most bytes of memory for git's data: as much as indexing a pack of a gigabyte takes.
const MEMORY: u64 = 1024 * 1024 * 1024;
/// A whole repository may be this many times as large as the tree that is built.
pub(super) const WHOLE: u64 = 2;
/// It may have this many times as many files.
const WHOLE_ENTRIES: usize = 4;

/// The count of a commit's tree before it is checked out.
pub(super) struct Tree {
    limits: Limits,
    entries: usize,
}

impl Tree {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, entries: 0 }
    }

    /// Counts an entry as `git ls-tree` prints it: mode, kind, object, a tab and the path.
    pub(super) fn entry(&mut self, printed: &[u8]) -> Result<(), String> {
        let mut parts = printed.splitn(2, |byte| *byte == b'\t');
        let path = parts.nth(1).unwrap_or_default();
        let path = std::str::from_utf8(path).map_err(|_| {
            let lossy = String::from_utf8_lossy(path);
            format!("{} is not UTF-8; rename it", quoted(&lossy))
        })?;
        self.limits.check_path(path)?;
        self.entries += 1;
        let most = self.limits.entries.saturating_mul(WHOLE_ENTRIES);
        if self.entries > most {
            return Err(format!(
                "it has more than {most} files and folders in all, {WHOLE_ENTRIES} times what IGNITE_CODE_MAX_FILES allows for those that are built"
            ));
        }
        Ok(())
    }
}

pub(super) type Pipe = BufReader<Box<dyn AsyncRead + Send + Unpin>>;

pub(super) fn pipe(from: Option<impl AsyncRead + Send + Unpin + 'static>) -> Pipe {
    match from {
        Some(from) => BufReader::new(Box::new(from)),
        None => BufReader::new(Box::new(tokio::io::empty())),
    }
}

/// The next piece, up to `end`: at most `most` bytes of it, the rest is dropped.
pub(super) async fn next(
    from: &mut (impl AsyncBufRead + Unpin),
    end: u8,
    most: usize,
) -> Option<Vec<u8>> {
    let mut piece = Vec::new();
    let mut any = false;
    loop {
        // A broken pipe counts as its end.
        let buffer = from.fill_buf().await.unwrap_or_default();
        if buffer.is_empty() {
            return any.then_some(piece);
        }
        any = true;
        let at = buffer.iter().position(|byte| *byte == end);
        let len = at.unwrap_or(buffer.len());
        piece.extend_from_slice(&buffer[..len.min(most - piece.len())]);
        from.consume(len + usize::from(at.is_some()));
        if at.is_some() {
            return Some(piece);
        }
    }
}

/// Bounds the memory of git and of its children, and each file that they write. Git has only just
/// started, and has read nothing from a server yet.
pub(super) fn limit(child: &Child, file_bytes: u64) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let bounds = [(Resource::Data, MEMORY), (Resource::Fsize, file_bytes)];
    for (resource, most) in bounds {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        // Where the kernel refuses, time and disk still bound it.
        if let Some(pid) = pid.and_then(Pid::from_raw)
            && let Err(error) = prlimit(Some(pid), resource, limit)
        {
            tracing::debug!(%error, "A bound on git cannot be set");
        }
    }
}

/// The bytes in a folder; the count stops once it exceeds `most`.
pub(super) fn folder_bytes(folder: &Path, most: u64) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        // Git makes and removes folders meanwhile.
        return 0;
    };
    let mut bytes = 0_u64;
    for entry in entries.flatten() {
        bytes += match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path(), most),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        };
        if bytes > most {
            break;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::limits::tests::LIMITS;

    #[tokio::test]
    async fn of_a_line_without_an_end_only_its_beginning_is_kept() {
        let endless = vec![b'a'; 1 << 20];
        let said = [&endless[..], b"\nshort\n\nlast"].concat();
        let mut from = BufReader::new(&said[..]);
        let mut lines = Vec::new();
        while let Some(line) = next(&mut from, b'\n', 10).await {
            lines.push(String::from_utf8(line).expect("text"));
        }
        assert_eq!(lines, ["aaaaaaaaaa", "short", "", "last"]);
    }

    #[test]
    fn a_tree_is_counted_entry_by_entry() {
        let entry = |path: &str| format!("100644 blob 0123\t{path}").into_bytes();
        let mut tree = Tree::new(LIMITS);
        assert_eq!(tree.entry(&entry("a/b")), Ok(()));
        let deep = tree.entry(&entry(&"a/".repeat(30))).expect_err("too deep");
        assert!(deep.contains("IGNITE_CODE_MAX_DEPTH"), "{deep}");
        let refused = (0..1000).find_map(|i| tree.entry(&entry(&format!("f{i}"))).err());
        let refused = refused.expect("refused");
        assert!(refused.contains("IGNITE_CODE_MAX_FILES"), "{refused}");
    }
}
