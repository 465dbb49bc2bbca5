//! Values for the `ARG`s of a Dockerfile, which people put passwords into.

use std::{collections::BTreeMap, fmt};

/// Values for the `ARG`s of a Dockerfile.
#[derive(Clone, PartialEq, Eq)]
pub enum BuildArgs {
    /// As they come with a request, or as earlier releases kept them.
    Clear(BTreeMap<String, String>),
    /// As they are kept.
    Sealed(SealedArgs),
}

/// Values that only the platform's key opens.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedArgs {
    /// The encrypted values.
    pub sealed: Vec<u8>,
    /// The same for the same values, and of no use without the key.
    pub mark: String,
}

impl BuildArgs {
    /// Whether there are none. Empty ones are never sealed.
    pub fn is_empty(&self) -> bool {
        matches!(self, BuildArgs::Clear(values) if values.is_empty())
    }

    /// Text that is equal for equal values held in the same way, for a digest.
    pub(super) fn parts(&self) -> Vec<&str> {
        match self {
            BuildArgs::Clear(values) => values
                .iter()
                .flat_map(|(name, value)| [name.as_str(), value.as_str()])
                .collect(),
            BuildArgs::Sealed(args) => vec!["sealed", &args.mark],
        }
    }
}

impl Default for BuildArgs {
    fn default() -> Self {
        Self::Clear(BTreeMap::new())
    }
}

impl fmt::Debug for BuildArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BuildArgs")
    }
}

impl fmt::Debug for SealedArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedArgs")
    }
}
