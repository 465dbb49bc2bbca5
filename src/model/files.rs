//! What of a replica's file system can be written to.
//!
//! The contract has the root file system read-only and `$HOME` writable. `/tmp` is writable too,
//! since hardly any program goes without. Where home is comes from the app's environment, else
//! from the image; where both leave it open, or say `/`, it is [`DEFAULT_HOME`].

use std::collections::BTreeMap;

/// Home where neither the app nor the image has one of its own.
pub const DEFAULT_HOME: &str = "/home/ignite";
/// Where programs put what they need for a moment.
pub const TMP: &str = "/tmp";

/// A home directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Home {
    /// Its path; empty where an image has none, or `/`.
    pub path: String,
    /// The image has files there, which must stay visible.
    pub in_image: bool,
}

impl Home {
    /// Home in a container of this environment from an image with this home.
    pub fn of(env: &BTreeMap<String, String>, image: &Home) -> Self {
        let chosen = env.get("HOME").map(|path| normal(path));
        match chosen {
            Some(path) if path.is_empty() => Self::default_home(),
            // The files of other directories in the image are not known of.
            Some(path) if path != image.path => Self {
                path,
                in_image: false,
            },
            _ if image.path.is_empty() => Self::default_home(),
            _ => image.clone(),
        }
    }

    fn default_home() -> Self {
        Self {
            path: DEFAULT_HOME.to_owned(),
            in_image: false,
        }
    }
}

/// What of one replica's file system can be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Nothing but `/tmp` and home can be.
    pub read_only: bool,
    /// The home directory.
    pub home: Home,
    /// Most bytes in `/tmp`, and most in a home without files of the image. They are memory of
    /// the replica and count against its limit.
    pub scratch_bytes: u64,
}

/// A path without what makes no difference; empty for `/`, for what is no absolute path, and for
/// one with a step upwards.
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

/// What the platform would say against an image's user; it takes numeric ones other than root.
pub fn objection_to_user(user: &str) -> Option<String> {
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
            assert_eq!(objection_to_user(good), None, "{good}");
        }
        for bad in ["", "0", "0:0", "root", "nobody:nogroup"] {
            assert!(objection_to_user(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn home_is_the_apps_then_the_images_then_the_default() {
        let image = Home {
            path: "/home/node".into(),
            in_image: true,
        };
        let with = |home: &str| [("HOME".to_owned(), home.to_owned())].into();
        let none = BTreeMap::new();
        assert_eq!(Home::of(&none, &image), image);
        assert_eq!(Home::of(&with("/home//node/"), &image), image);
        let other = Home::of(&with("/data"), &image);
        assert_eq!((other.path.as_str(), other.in_image), ("/data", false));
        for nowhere in ["/", "", "data", "/a/../.."] {
            assert_eq!(Home::of(&with(nowhere), &image).path, DEFAULT_HOME);
        }
        assert_eq!(Home::of(&none, &Home::default()).path, DEFAULT_HOME);
    }
}
