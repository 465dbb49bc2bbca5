//! Bounds on a source tree, and the count against them.
//!
//! A tree is counted while it is read: a path before anything is made of it, an entry before it is
//! kept. No tree therefore costs more than its limits allow, however few bytes describe it.

use super::entries::Entry;

/// Longest part of a name that a message quotes.
const QUOTED: usize = 60;
/// Bytes of paths and link targets per allowed entry: several times the usual average. It bounds
/// the memory for all of them.
const NAME_BYTES_PER_ENTRY: usize = 256;
/// Steps per allowed link, through the folders and links on its path: again several times the
/// usual.
const STEPS_PER_LINK: usize = 100;

/// Bounds on a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of all files.
    pub bytes: u64,
    /// Most files, folders and links.
    pub entries: usize,
    /// Most bytes unpacked for each byte packed.
    pub ratio: u64,
    /// Most levels of folders, counting the last entry.
    pub depth: usize,
    /// Longest path, and longest target of a link, in bytes.
    pub path_bytes: usize,
    /// Most links.
    pub links: usize,
}

impl Limits {
    /// Refuses a path that is too long or too deep, as written.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub(super) fn check_path(&self, path: &str) -> Result<(), String> {
        if path.len() > self.path_bytes {
            return Err(format!(
                "its entry {} has a path of {} bytes; use shorter names, or raise IGNITE_CODE_MAX_PATH_BYTES, which is {}",
                quoted(path),
                path.len(),
                self.path_bytes
            ));
        }
        if parts(path) > self.depth {
            return Err(format!(
                "its entry {} is {} folders deep; use fewer, or raise IGNITE_CODE_MAX_DEPTH, which is {}",
                quoted(path),
                parts(path),
                self.depth
            ));
        }
        Ok(())
    }

    /// Most steps to follow all links of a tree.
    pub(super) fn link_steps(&self) -> usize {
        self.links.saturating_mul(STEPS_PER_LINK)
    }
}

/// Refuses a link whose target is longer than a path may be, or goes up and down more often than
/// any two entries are apart.
///
/// # Errors
/// A sentence that names the setting.
pub(super) fn check_target(path: &str, target: &str, limits: Limits) -> Result<(), String> {
    if target.len() > limits.path_bytes {
        return Err(format!(
            "its link {} leads to a path of {} bytes; use shorter names, or raise IGNITE_CODE_MAX_PATH_BYTES, which is {}",
            quoted(path),
            target.len(),
            limits.path_bytes
        ));
    }
    if parts(target) > limits.depth.saturating_mul(2) {
        return Err(format!(
            "its link {} leads through {} folders; use fewer, or raise IGNITE_CODE_MAX_DEPTH, which is {}",
            quoted(path),
            parts(target),
            limits.depth
        ));
    }
    Ok(())
}

/// A name for a message, cut short, since names from outside may be of any length.
pub(super) fn quoted(name: &str) -> String {
    if name.len() > QUOTED {
        format!("{:?}…", &name[..name.floor_char_boundary(QUOTED)])
    } else {
        format!("{name:?}")
    }
}

fn parts(path: &str) -> usize {
    path.split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .count()
}

/// The count of a tree so far.
#[derive(Debug)]
pub(super) struct TreeCounts {
    limits: Limits,
    bytes: u64,
    entries: usize,
    links: usize,
    names: usize,
}

impl TreeCounts {
    /// An empty count.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            bytes: 0,
            entries: 0,
            links: 0,
            names: 0,
        }
    }

    /// Bytes of all files.
    pub(super) fn unpacked(&self) -> u64 {
        self.bytes
    }

    /// Counts bytes of files.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub(super) fn bytes(&mut self, more: u64) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(more);
        if self.bytes > self.limits.bytes {
            return Err(format!(
                "it has more than {} bytes unpacked; leave out what the build does not need, or raise IGNITE_CODE_MAX_UNPACKED_BYTES",
                self.limits.bytes
            ));
        }
        Ok(())
    }

    /// Counts an entry that is about to be kept.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub(super) fn entry(&mut self, path: &str, entry: &Entry) -> Result<(), String> {
        self.entries += 1;
        check_entries(self.entries, self.limits)?;
        self.names += path.len();
        if let Entry::Link(target) = entry {
            check_target(path, target, self.limits)?;
            self.names += target.len();
            self.links += 1;
        }
        if self.links > self.limits.links {
            return Err(format!(
                "it has more than {} links; leave out what the build does not need, or raise IGNITE_CODE_MAX_LINKS",
                self.limits.links
            ));
        }
        let most = self.limits.entries.saturating_mul(NAME_BYTES_PER_ENTRY);
        if self.names > most {
            return Err(format!(
                "its paths and links have more than {most} bytes in all, {NAME_BYTES_PER_ENTRY} for each of the files that it may have; use shorter names, or raise IGNITE_CODE_MAX_FILES"
            ));
        }
        Ok(())
    }
}

/// Refuses more entries than a tree may have.
///
/// # Errors
/// A sentence that names the setting.
pub(super) fn check_entries(entries: usize, limits: Limits) -> Result<(), String> {
    if entries > limits.entries {
        return Err(format!(
            "it has more than {} files and folders; leave out what the build does not need, or raise IGNITE_CODE_MAX_FILES",
            limits.entries
        ));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Small limits, the same for all tests.
    pub(in crate::builder) const LIMITS: Limits = Limits {
        bytes: 8 << 20,
        entries: 50,
        ratio: 100,
        depth: 20,
        path_bytes: 200,
        links: 20,
    };

    #[test]
    fn a_path_is_measured_before_anything_is_made_of_it() {
        let path = |path: &str| LIMITS.check_path(path);
        assert_eq!(path(&["a"; 20].join("/")), Ok(()));
        assert_eq!(path(&"a".repeat(200)), Ok(()));
        let deep = path(&["a"; 21].join("/")).expect_err("too deep");
        assert!(deep.contains("IGNITE_CODE_MAX_DEPTH"), "{deep}");
        let long = path(&"é".repeat(1 << 20)).expect_err("too long");
        assert!(long.contains("IGNITE_CODE_MAX_PATH_BYTES"), "{long}");
        assert!(long.len() < 400, "{} bytes of complaint", long.len());
    }

    #[test]
    fn names_are_counted_in_all_and_not_only_one_by_one() {
        let mut tally = TreeCounts::new(Limits {
            path_bytes: 4096,
            ..LIMITS
        });
        let long = "a".repeat(4000);
        let failed = (0..50).find_map(|_| tally.entry(&long, &Entry::Dir).err());
        let why = failed.expect("refused");
        assert!(why.contains("IGNITE_CODE_MAX_FILES"), "{why}");
    }
}
