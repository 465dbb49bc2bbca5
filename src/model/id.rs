//! Names and ids: newtypes whose values are always valid.
//!
//! A name is checked where it enters (`FromStr`), so code that holds one never checks again.

use std::{fmt, str::FromStr, sync::Arc};

/// Longest organization or app name, in bytes: a DNS label.
pub const MAX_NAME_LEN: usize = 63;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(pub(super) String);

fn check(what: &str, s: &str, dots: bool) -> Result<(), InvalidName> {
    let refuse = |why: String| Err(InvalidName(format!("{what} {s:?} {why}")));
    if s.is_empty() {
        return Err(InvalidName(format!(
            "{what} is empty; give a name such as \"my-app\""
        )));
    }
    if s.len() > MAX_NAME_LEN {
        return refuse(format!(
            "is {} characters long; the limit is {MAX_NAME_LEN}",
            s.len()
        ));
    }
    let allowed = if dots {
        "lower-case letters, digits, '-' and '.'"
    } else {
        "lower-case letters, digits and '-'"
    };
    let legal =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || (dots && c == '.');
    if let Some(bad) = s.chars().find(|&c| !legal(c)) {
        return refuse(format!("has {bad:?}; only {allowed} are allowed"));
    }
    let edge = |c: Option<char>| c.is_some_and(|c| c == '-' || c == '.');
    if edge(s.chars().next()) || edge(s.chars().last()) {
        return refuse("must start and end with a letter or a digit".to_owned());
    }
    if s.contains("..") || s.contains(".-") || s.contains("-.") {
        return refuse(
            "has a '.' beside another '.' or a '-'; put a letter or a digit between".to_owned(),
        );
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, dots: $dots:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                check($what, s, $dots)?;
                Ok(Self(s.into()))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
    };
}

name!(
    /// An organization: lower-case letters, digits and `-`.
    OrgName, "organization name", dots: false
);
name!(
    /// An app's name within its organization: as [`OrgName`], with single dots allowed inside.
    AppName, "app name", dots: true
);
name!(
    /// A service account: as [`OrgName`]. Client ids are made of it in `model::account`.
    AccountName, "service account name", dots: false
);

/// The organization whose apps any authenticated caller may invoke.
pub const PUBLIC_ORG: &str = "public";

/// An app, named across organizations; written `org/name`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AppId {
    /// The owner.
    pub org: OrgName,
    /// The name within the owner.
    pub name: AppName,
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.name)
    }
}

impl FromStr for AppId {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (org, name) = s
            .split_once('/')
            .ok_or_else(|| InvalidName(format!("app id {s:?} is not of the form org/name")))?;
        Ok(Self {
            org: org.parse()?,
            name: name.parse()?,
        })
    }
}

/// One invocation: `exec_` and a ULID, so ids sort by the time they were created.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExecutionId(pub ulid::Ulid);

/// The prefix of an execution's id.
const EXECUTION: &str = "exec_";

impl ExecutionId {
    /// The id as ASCII. Every request has one, and formatting would dominate the cost of creating
    /// it.
    pub fn to_ascii(self) -> [u8; EXECUTION.len() + ulid::ULID_LEN] {
        let mut digits = [0; ulid::ULID_LEN];
        self.0.array_to_str(&mut digits);
        let mut text = [0; EXECUTION.len() + ulid::ULID_LEN];
        text[..EXECUTION.len()].copy_from_slice(EXECUTION.as_bytes());
        text[EXECUTION.len()..].copy_from_slice(&digits);
        text
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{EXECUTION}{}", self.0)
    }
}
impl fmt::Debug for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for ExecutionId {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.strip_prefix(EXECUTION)
            .and_then(|u| ulid::Ulid::from_string(u).ok())
            .map(Self)
            .ok_or_else(|| InvalidName(format!("execution id {s:?} is not \"exec_\" and a ULID")))
    }
}

/// The life of one data directory: marks the containers and networks that belong to it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// The id as text: 12 lower-case hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id from random bytes.
    pub fn from_random(random: u64) -> Self {
        Self(format!("{:012x}", random & 0xffff_ffff_ffff).into())
    }
}
impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for InstanceId {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.len() == 12
            && s.chars()
                .all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
        {
            Ok(Self(s.into()))
        } else {
            Err(InvalidName(format!(
                "instance id {s:?} is not 12 lower-case hex digits"
            )))
        }
    }
}

/// One replica of an app: ten characters of `a-z0-9`, unique within the instance.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ReplicaId(Arc<str>);

impl ReplicaId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A new id: the random tail of a ULID.
    pub fn generate(ulid: ulid::Ulid) -> Self {
        Self(ulid.to_string()[16..].to_ascii_lowercase().into())
    }
}
impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for ReplicaId {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.len() == 10
            && s.chars()
                .all(|c| c.is_ascii_digit() || c.is_ascii_lowercase())
        {
            Ok(Self(s.into()))
        } else {
            Err(InvalidName(format!(
                "replica id {s:?} is not ten characters of a-z0-9"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_with_the_character_or_the_length() {
        let err = |s: &str| s.parse::<AppName>().expect_err(s).to_string();
        assert!(err("").contains("empty"));
        assert!(err("My-App").contains("'M'"));
        assert!(err("a_b").contains("'_'"));
        assert!(err("-a").contains("start and end"));
        assert!(err("a..b").contains("beside"));
        assert!(err(&"a".repeat(64)).contains("64 characters"));
        assert!("a.b".parse::<OrgName>().is_err());
        assert!("a.b-c1".parse::<AppName>().is_ok());
    }

    #[test]
    fn ids_round_trip() {
        let e = ExecutionId(ulid::Ulid::from_parts(1, 2));
        assert_eq!(e.to_string().parse(), Ok(e));
        let a: AppId = "acme/my.app".parse().expect("valid");
        assert_eq!(a.to_string(), "acme/my.app");
        let i = InstanceId::from_random(u64::MAX);
        assert_eq!(i.to_string().parse(), Ok(i));
        let r = ReplicaId::generate(ulid::Ulid::from_parts(1, 2));
        assert_eq!(r.to_string().parse(), Ok(r));
    }
}
