//! The entries of a tree of source files.

use std::collections::BTreeMap;

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Dir,
    /// A file.
    File {
        /// Its size in bytes.
        len: u64,
        /// Whether it is executable.
        executable: bool,
    },
    /// A symbolic link and its target, which is within the tree.
    Link(String),
}

/// Entries by path: relative, separated by slashes, without `.` or `..`.
pub type Entries = BTreeMap<String, Entry>;
