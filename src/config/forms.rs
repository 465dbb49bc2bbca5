//! The text forms of single values: parsing and printing.
//!
//! Each form is a pair of functions. A refusal says what is wrong and shows what would be right;
//! the caller adds the origin of the value.

use std::{fmt::Display, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use super::{Freezer, IndexUrl, LogFormat, PublicUrl, Reach, TlsMode, Via};

/// The longest duration accepted: a deadline this far ahead still fits the clock's arithmetic.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// The text form of values of type `T`.
pub(super) trait Form<T> {
    fn parse(raw: &str) -> Result<T, String>;
    /// The value for a TOML file; `None` when it is unset.
    fn show(value: &T) -> Option<toml::Value>;
}

/// The form of the type's own `FromStr` and `Display`.
pub(super) struct Plain;

impl<T> Form<T> for Plain
where
    T: FromStr + Display,
    T::Err: Display,
{
    fn parse(raw: &str) -> Result<T, String> {
        raw.parse()
            .map_err(|e: T::Err| format!("{raw:?} is not valid: {e}"))
    }
    fn show(value: &T) -> Option<toml::Value> {
        Some(value.to_string().into())
    }
}

/// An address to listen on.
pub(super) struct Listen;

impl Form<SocketAddr> for Listen {
    fn parse(raw: &str) -> Result<SocketAddr, String> {
        raw.parse().map_err(|_| {
            format!("{raw:?} is not an IP address and a port, such as 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:0")
        })
    }
    fn show(value: &SocketAddr) -> Option<toml::Value> {
        Plain::show(value)
    }
}

/// [`Listen`] for a setting that may be left out.
pub(super) struct MaybeListen;

impl Form<Option<SocketAddr>> for MaybeListen {
    fn parse(raw: &str) -> Result<Option<SocketAddr>, String> {
        Listen::parse(raw).map(Some)
    }
    fn show(value: &Option<SocketAddr>) -> Option<toml::Value> {
        value.as_ref().and_then(Listen::show)
    }
}

/// Text that may be secret: set, it is not shown.
pub(super) struct Hidden;

impl Form<Option<String>> for Hidden {
    fn parse(raw: &str) -> Result<Option<String>, String> {
        Ok(Some(raw.to_owned()))
    }
    fn show(value: &Option<String>) -> Option<toml::Value> {
        let shown = value.as_ref()?;
        Some(
            if shown.is_empty() {
                ""
            } else {
                "(set, and not shown)"
            }
            .into(),
        )
    }
}

/// A whole number, such as a count.
pub(super) struct Count;

impl<T> Form<T> for Count
where
    T: TryFrom<u64> + Copy,
    u64: TryFrom<T>,
{
    fn parse(raw: &str) -> Result<T, String> {
        let number = whole(raw)
            .ok_or_else(|| format!("{raw:?} is not a whole number of 0 or more, such as 10"))?;
        T::try_from(number).map_err(|_| format!("{raw} is too large"))
    }
    fn show(value: &T) -> Option<toml::Value> {
        let number = u64::try_from(*value).ok()?;
        i64::try_from(number).ok().map(toml::Value::Integer)
    }
}

/// `true` or `false`, also as `1` and `0`.
pub(super) struct Switch;

impl Form<bool> for Switch {
    fn parse(raw: &str) -> Result<bool, String> {
        match raw {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(format!("{raw:?} is neither true nor false")),
        }
    }
    fn show(value: &bool) -> Option<toml::Value> {
        Some((*value).into())
    }
}

/// A number of bytes, plain or with a unit.
pub(super) struct Bytes;

/// Longest suffix first, so that `B` does not shadow the others.
const BYTE_UNITS: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

impl Form<u64> for Bytes {
    fn parse(raw: &str) -> Result<u64, String> {
        let (digits, unit) = BYTE_UNITS
            .iter()
            .find_map(|(suffix, unit)| Some((raw.strip_suffix(suffix)?.trim_end(), *unit)))
            .unwrap_or((raw, 1));
        let number = whole(digits).ok_or_else(|| {
            format!("{raw:?} is not a size; write whole bytes, or a whole number with B, kB, KiB, MB, MiB, GB or GiB, such as 6MiB")
        })?;
        number
            .checked_mul(unit)
            // The file has signed numbers, and no machine has more.
            .filter(|n| i64::try_from(*n).is_ok())
            .ok_or_else(|| format!("{raw} is too large"))
    }
    fn show(value: &u64) -> Option<toml::Value> {
        let binary = BYTE_UNITS[..3]
            .iter()
            .rev()
            .find(|(_, unit)| *value > 0 && value.is_multiple_of(*unit));
        Some(match binary {
            Some((suffix, unit)) => format!("{}{suffix}", value / unit).into(),
            None => i64::try_from(*value).ok()?.into(),
        })
    }
}

/// [`Bytes`] for a setting that may be left out.
pub(super) struct MaybeBytes;

impl Form<Option<u64>> for MaybeBytes {
    fn parse(raw: &str) -> Result<Option<u64>, String> {
        Bytes::parse(raw).map(Some)
    }
    fn show(value: &Option<u64>) -> Option<toml::Value> {
        value.as_ref().and_then(Bytes::show)
    }
}

/// Whole seconds, for settings whose name ends in `_secs`.
pub(super) struct Secs;

impl Form<Duration> for Secs {
    fn parse(raw: &str) -> Result<Duration, String> {
        let seconds = whole(raw).ok_or_else(|| {
            format!("{raw:?} is not a whole number of seconds; write it without a unit, such as 30")
        })?;
        bounded(raw, Duration::from_secs(seconds))
    }
    fn show(value: &Duration) -> Option<toml::Value> {
        i64::try_from(value.as_secs())
            .ok()
            .map(toml::Value::Integer)
    }
}

/// A duration with its unit, for all other settings.
pub(super) struct Span;

impl Form<Duration> for Span {
    fn parse(raw: &str) -> Result<Duration, String> {
        parse_duration(raw)
    }
    fn show(value: &Duration) -> Option<toml::Value> {
        Some(humantime::format_duration(*value).to_string().into())
    }
}

/// A duration with its unit, such as `250ms`, `10s` or `1h 30m`; `0` alone needs none.
///
/// # Errors
/// A sentence when the unit is missing or unknown, or the duration is over a year.
pub fn parse_duration(raw: &str) -> Result<Duration, String> {
    if raw == "0" {
        return Ok(Duration::ZERO);
    }
    if whole(raw).is_some() {
        return Err(format!("{raw} has no unit; write {raw}ms or {raw}s"));
    }
    let value = humantime::parse_duration(raw).map_err(|_| {
        format!(
            "{raw:?} is not a duration; write numbers with their units, such as 250ms, 10s or 1h30m"
        )
    })?;
    bounded(raw, value)
}

fn bounded(raw: &str, value: Duration) -> Result<Duration, String> {
    if value > MAX_DURATION {
        return Err(format!("{raw} is too long; the limit is 365 days"));
    }
    Ok(value)
}

/// Digits only: `u64::from_str` would also take a plus sign.
fn whole(raw: &str) -> Option<u64> {
    raw.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| raw.parse().ok())
        .flatten()
}

/// A path, taken verbatim.
pub(super) struct Path;

impl Form<PathBuf> for Path {
    fn parse(raw: &str) -> Result<PathBuf, String> {
        Ok(PathBuf::from(raw))
    }
    fn show(value: &PathBuf) -> Option<toml::Value> {
        Some(value.to_string_lossy().into_owned().into())
    }
}

/// A setting that may be absent.
pub(super) struct Maybe;

impl<T> Form<Option<T>> for Maybe
where
    T: FromStr + Display,
    T::Err: Display,
{
    fn parse(raw: &str) -> Result<Option<T>, String> {
        Plain::parse(raw).map(Some)
    }
    fn show(value: &Option<T>) -> Option<toml::Value> {
        value.as_ref().and_then(Plain::show)
    }
}

impl FromStr for PublicUrl {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let refuse = || {
            "write a scheme and perhaps a port, without a host, such as https://:443 or https://"
                .to_owned()
        };
        let (scheme, rest) = s.split_once("://").ok_or_else(refuse)?;
        if !matches!(scheme, "http" | "https") {
            return Err(format!("the scheme {scheme:?} is neither http nor https"));
        }
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(port.parse().ok().filter(|p| *p != 0).ok_or_else(refuse)?),
            None if rest.is_empty() => None,
            None => return Err(refuse()),
        };
        Ok(Self {
            scheme: scheme.to_owned(),
            port,
        })
    }
}

impl FromStr for IndexUrl {
    type Err = &'static str;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let refuse = "write the index as an http or https URL, such as https://pypi.org/simple";
        let uri: http::Uri = s.parse().map_err(|_| refuse)?;
        match (uri.scheme_str(), uri.host()) {
            (Some("http" | "https"), Some(_)) => Ok(Self(s.to_owned())),
            _ => Err(refuse),
        }
    }
}

impl Display for IndexUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Display for PublicUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://", self.scheme)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),* }, $all:literal) => {
        impl FromStr for $name {
            type Err = &'static str;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                match s { $($word => Ok(Self::$variant),)* _ => Err(concat!("write ", $all)) }
            }
        }
        impl Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }
    };
}

words!(Reach { Auto = "auto", Direct = "direct", Published = "published" }, "auto, direct or published");
words!(Freezer { Auto = "auto", Engine = "engine", Cgroup = "cgroup" }, "auto, engine or cgroup");
words!(Via { Auto = "auto", Bridge = "bridge", Relay = "relay" }, "auto, bridge or relay");
words!(TlsMode { Off = "off", Local = "local" }, "off or local");
words!(LogFormat { Plain = "plain", Json = "json" }, "plain or json");

/// Whether a text is a domain of lower-case labels that leaves space for an app's label before it.
pub(super) fn is_domain(s: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    // 253 bytes is the longest name in DNS; an app's label of at most 63 and a dot come before this
    // one.
    s.len() <= 253 - 64 && s.split('.').all(label)
}
