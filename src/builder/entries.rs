//! What a tree of source files consists of.

use std::collections::BTreeMap;

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Dir,
    /// A file.
    File {
        /// Its size.
        len: u64,
        /// It may be run.
        executable: bool,
    },
    /// A symbolic link and where it leads, which is within the tree.
    Link(String),
}

/// Entries by their path: relative, slashes between, no `.` or `..` in it.
pub type Entries = BTreeMap<String, Entry>;
