//! How deep an app at zero sleeps.

use std::{fmt, str::FromStr};

/// What happens to a replica that is no longer needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standby {
    /// It is frozen; later it becomes prepared, and after a long idle time it is removed.
    #[default]
    Pause,
    /// Its process ends, and a container in its kept network is ready to start.
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
