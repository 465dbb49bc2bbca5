//! How deep an app at zero sleeps.

use std::{fmt, str::FromStr};

/// What becomes of a replica that is not needed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standby {
    /// It is frozen, later prepared, when long idle removed.
    #[default]
    Pause,
    /// Its process ends; a container in its kept network is ready to be started.
    Prepared,
    /// It is removed.
    Absent,
}

impl FromStr for Standby {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "pause" => Ok(Self::Pause),
            "prepared" => Ok(Self::Prepared),
            "none" => Ok(Self::Absent),
            other => Err(format!(
                "{other:?} is no standby; give pause, prepared or none"
            )),
        }
    }
}

impl fmt::Display for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "pause",
            Self::Prepared => "prepared",
            Self::Absent => "none",
        })
    }
}
