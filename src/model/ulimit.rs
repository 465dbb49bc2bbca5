//! The kernel's limits of single processes, such as the number of open files.

use std::{fmt, str::FromStr};

/// The resources that the kernel limits, as engines name them.
const NAMES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];
/// The word for no limits.
const NONE: &str = "none";
/// The word for no limit on a resource, for which engines use -1.
const UNLIMITED: &str = "unlimited";

/// The limit of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    /// The limited resource.
    pub name: &'static str,
    /// The limit at first, in the kernel's unit; -1 is unlimited.
    pub soft: i64,
    /// The value to which a process may raise it.
    pub hard: i64,
}

/// The limits of each process in a container; the engine's defaults apply to all other resources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ulimits(Vec<Ulimit>);

impl Ulimits {
    /// The limits for organizations that do not trust each other. They are few: an engine that may
    /// not raise its own limits cannot start a container with higher ones, and kernel memory for
    /// files, signals and queues counts towards a container's memory limit anyway.
    pub fn for_tenants() -> Self {
        let same = |name, value| Ulimit {
            name,
            soft: value,
            hard: value,
        };
        Self(vec![
            // Core dumps are written by the host.
            same("core", 0),
            // As many as an app gets requests at once.
            same("nofile", 16_384),
        ])
    }

    /// The limits, one at a time.
    pub fn iter(&self) -> impl Iterator<Item = Ulimit> {
        self.0.iter().copied()
    }

    /// Whether there are no limits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Ulimits {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.trim() == NONE {
            return Ok(Self::default());
        }
        let mut all: Vec<Ulimit> = Vec::new();
        for part in s.split(',') {
            let limit = one(part.trim())?;
            if all.iter().any(|other| other.name == limit.name) {
                return Err(format!("{} is limited twice", limit.name));
            }
            all.push(limit);
        }
        Ok(Self(all))
    }
}

fn one(part: &str) -> Result<Ulimit, String> {
    let wrong = || {
        format!(
            "{part:?} is no limit; write such as nofile=1024:65536 (at first, and at most), core=0, or none"
        )
    };
    let (name, values) = part.split_once('=').ok_or_else(wrong)?;
    let name = NAMES.into_iter().find(|known| *known == name);
    let name = name.ok_or_else(|| format!("{part:?} is none of {}", NAMES.join(", ")))?;
    let value = |text: &str| match text {
        UNLIMITED => Ok(-1),
        text => match text.parse::<i64>() {
            Ok(value) if value >= 0 => Ok(value),
            _ => Err(wrong()),
        },
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (value(soft)?, value(hard)?);
    if hard >= 0 && !(0..=hard).contains(&soft) {
        return Err(format!("{part:?} begins above what it may be raised to"));
    }
    Ok(Ulimit { name, soft, hard })
}

impl fmt::Display for Ulimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str(NONE);
        }
        let show = |value: i64| match value {
            -1 => UNLIMITED.to_owned(),
            value => value.to_string(),
        };
        for (n, limit) in self.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{}={}", limit.name, show(limit.soft))?;
            if limit.hard != limit.soft {
                write!(f, ":{}", show(limit.hard))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_they_are_shown() {
        for text in [
            "none",
            "core=0",
            "nofile=1024:65536,memlock=unlimited",
            "stack=1:unlimited",
        ] {
            let limits: Ulimits = text.parse().expect(text);
            assert_eq!(limits.to_string(), text);
        }
        let tenants = Ulimits::for_tenants();
        assert_eq!(tenants.to_string().parse(), Ok(tenants));
        for wrong in [
            "",
            "files=1",
            "nofile",
            "nofile=",
            "nofile=-1",
            "nofile=2:1",
            "nofile=unlimited:5",
            "core=0,core=1",
            "nofile=9999999999999999999",
        ] {
            assert!(wrong.parse::<Ulimits>().is_err(), "{wrong:?}");
        }
    }
}
