//! Which parts of a replica's file system are writable.
//!
//! By the contract, the root file system is read-only and `$HOME` is writable. `/tmp` is writable
//! too, since hardly any program works without it. Home is taken from the app's environment, else
//! from the image; where neither sets it, or it is `/`, it is [`DEFAULT_HOME`].
//!
//! An app that keeps its files has a volume there, which all of its replicas share.

use std::{collections::BTreeMap, time::Duration};

use super::settings::StorageMode;

/// Home where neither the app nor the image sets another.
pub const DEFAULT_HOME: &str = "/home/ignite";
/// The directory for temporary files.
pub const TMP: &str = "/tmp";

/// The content that an image has in a directory that becomes a home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The directory does not exist.
    Nothing,
    /// The directory exists; its files have not been counted.
    Uncounted,
    /// Little enough to give every replica a copy.
    Small,
    /// Too much to copy. A replica changes it in place, in the writable layer of its container, and
    /// these other paths of the image are mounted read-only.
    Large {
        /// Files and directories outside the home, none of them a link.
        read_only: Vec<String>,
    },
}

/// A home directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Home {
    /// Its path; empty where an image sets none, or `/`.
    pub path: String,
    /// The image's content there, or at [`DEFAULT_HOME`] where `path` is empty; `None` until the
    /// image is inspected.
    pub content: Option<Content>,
}

impl Home {
    /// Whether the image is known to have the directory.
    pub fn is_in_image(&self) -> bool {
        !matches!(self.content, None | Some(Content::Nothing))
    }

    /// The home of a container with this environment, from an image with this home.
    pub fn of(env: &BTreeMap<String, String>, image: &Home) -> Self {
        let chosen = env.get("HOME").map(|path| match normal(path) {
            path if path.is_empty() => DEFAULT_HOME.to_owned(),
            path => path,
        });
        let of_image = match image.path.as_str() {
            "" => DEFAULT_HOME,
            path => path,
        };
        match chosen {
            Some(path) if path != of_image => Self {
                path,
                content: None,
            },
            _ => Self {
                path: of_image.to_owned(),
                content: image.content.clone(),
            },
        }
    }
}

/// Which parts of one replica's file system are writable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Nothing but `/tmp` and home is writable.
    pub read_only: bool,
    /// The home directory.
    pub home: Home,
    /// The root file system is read-only whatever the image has in its home.
    pub always_read_only: bool,
    /// The most bytes in `/tmp`, and in a home without files of the image. They are memory of the
    /// replica and count against its limit.
    pub scratch_bytes: u64,
    /// The app's volume is its home. The value is when the app was created (Unix milliseconds),
    /// which distinguishes its volume from that of an earlier app of the same name. `None` keeps
    /// nothing.
    pub kept_since: Option<i64>,
}

impl Files {
    /// Whether the platform chooses and mounts the home.
    pub fn has_home(&self) -> bool {
        self.read_only || self.kept_since.is_some()
    }

    /// The paths that are mounted read-only although the root file system is not, because the image
    /// has too much in its home to copy. `None` where that does not apply.
    pub fn changed_in_place(&self) -> Option<&[String]> {
        match &self.home.content {
            Some(Content::Large { read_only })
                if self.read_only && self.kept_since.is_none() && !self.always_read_only =>
            {
                Some(read_only)
            }
            _ => None,
        }
    }
}

/// Whether the volume of an app has expired: `used_at_ms` is when the app was last in use.
pub fn is_expired(mode: StorageMode, used_at_ms: i64, now_ms: i64, ttl: Duration) -> bool {
    let idle = now_ms.saturating_sub(used_at_ms);
    // This holds also when nothing is kept any more: an owner who disabled storage by mistake has
    // this long to enable it again.
    mode != StorageMode::Persistent && u128::try_from(idle).is_ok_and(|ms| ms > ttl.as_millis())
}

/// Normalizes a path; the result is empty for `/`, for a path that is not absolute, and for one
/// with a step upwards.
pub fn normal(path: &str) -> String {
    if !path.starts_with('/') {
        return String::new();
    }
    let mut out = String::with_capacity(path.len());
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." {
            return String::new();
        }
        out.push('/');
        out.push_str(part);
    }
    out
}

/// Why the cloud platform refuses an image's user, if it does; it accepts numeric users except
/// root.
pub fn user_incompatibility(user: &str) -> Option<String> {
    let name = user.split(':').next().unwrap_or_default();
    match name.parse::<u32>() {
        Ok(0) => Some("runs as root (USER 0), which the platform refuses; set a numeric USER such as 65532".to_owned()),
        Ok(_) => None,
        Err(_) if name.is_empty() => Some("names no USER and so runs as root, which the platform refuses; set a numeric USER such as 65532".to_owned()),
        Err(_) => Some(format!("has the USER {name:?}; the platform takes numeric ones only, such as 65532")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numeric_users_other_than_root_pass() {
        for good in ["65532", "1000:1000"] {
            assert_eq!(user_incompatibility(good), None, "{good}");
        }
        for bad in ["", "0", "0:0", "root", "nobody:nogroup"] {
            assert!(user_incompatibility(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_volume_goes_when_its_time_is_over_and_never_when_it_is_persistent() {
        let ttl = Duration::from_secs(10);
        for mode in [StorageMode::Ttl, StorageMode::Ephemeral] {
            assert!(is_expired(mode, 5_000, 15_001, ttl));
            assert!(!is_expired(mode, 5_000, 15_000, ttl));
            // The clock was set back.
            assert!(!is_expired(mode, 5_000, 0, ttl));
        }
        assert!(!is_expired(StorageMode::Persistent, 0, i64::MAX, ttl));
    }

    #[test]
    fn home_is_the_apps_then_the_images_then_the_default() {
        let image = Home {
            path: "/home/node".into(),
            content: Some(Content::Small),
        };
        let with = |home: &str| [("HOME".to_owned(), home.to_owned())].into();
        let none = BTreeMap::new();
        assert_eq!(Home::of(&none, &image), image);
        assert_eq!(Home::of(&with("/home//node/"), &image), image);
        let other = Home::of(&with("/data"), &image);
        assert_eq!((other.path.as_str(), other.content), ("/data", None));
        for nowhere in ["/", "", "data", "/a/../.."] {
            let home = Home::of(&with(nowhere), &image);
            assert_eq!((home.path.as_str(), home.content), (DEFAULT_HOME, None));
        }
        // An image without a home had its content inspected in the default home.
        let homeless = Home {
            path: String::new(),
            content: Some(Content::Nothing),
        };
        for env in [none, with(DEFAULT_HOME), with("/")] {
            let home = Home::of(&env, &homeless);
            assert_eq!(home.path, DEFAULT_HOME);
            assert_eq!(home.content, Some(Content::Nothing));
        }
    }
}
