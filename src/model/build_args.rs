//! Values for the `ARG`s of a Dockerfile, which often contain passwords.

use std::{collections::BTreeMap, fmt};

/// Values for the `ARG`s of a Dockerfile.
#[derive(Clone, PartialEq, Eq)]
pub enum BuildArgs {
    /// As a request sent them, or as earlier releases stored them.
    Clear(BTreeMap<String, String>),
    /// As they are stored.
    Sealed(SealedArgs),
}

/// Values that only the platform's key opens.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedArgs {
    /// The encrypted values.
    pub sealed: Vec<u8>,
    /// Equal for equal values, and meaningless without the key.
    pub mark: String,
}

impl BuildArgs {
    /// Whether there are none; no values are never sealed.
    pub fn is_empty(&self) -> bool {
        matches!(self, BuildArgs::Clear(values) if values.is_empty())
    }

    /// Text for a digest: equal for equal values in the same form.
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
