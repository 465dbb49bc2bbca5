//! What an image reference can mean to the engine, and who may use it.
//!
//! An engine accepts more than names: a full content id, and any prefix of one, with or without
//! `sha256:`. A prefix of two digits can find an image that was not meant to be shared, so prefixes
//! are always refused. Between organizations that do not trust each other, only a registry decides
//! who may use an image, so there a reference must be the name of an image in a registry.

use super::{
    id::{InstanceId, OrgName},
    trust::Trust,
};

/// The length of a content id in hex digits.
const ID_DIGITS: usize = 64;
/// The prefix of the names of images built here, before the instance.
const BUILT: &str = "ignite-";

/// The form of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A full content id.
    Id,
    /// Text that an engine accepts as the beginning of an id.
    IdPrefix,
    /// A name.
    Name,
}

/// How an engine may read a reference.
pub fn form(reference: &str) -> Form {
    let digits = reference.strip_prefix("sha256:").unwrap_or(reference);
    let is_hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    match is_hex {
        false => Form::Name,
        true if digits.len() == ID_DIGITS => Form::Id,
        true => Form::IdPrefix,
    }
}

/// Which images an organization may name.
#[derive(Debug, Clone)]
pub struct Naming {
    /// Whom the platform serves.
    pub trust: Trust,
    /// The instance whose builds are the platform's own.
    pub instance: InstanceId,
}

impl Naming {
    /// Refuses a reference that `org` may not use.
    ///
    /// # Errors
    /// A sentence with the remedy.
    pub fn check(&self, org: &OrgName, reference: &str) -> Result<(), String> {
        let isolates = self.trust.isolates_organizations();
        match form(reference) {
            Form::IdPrefix => Err(format!(
                "{reference:?} may be the beginning of an image's id, which could be anybody's image; {}",
                remedy(reference)
            )),
            Form::Id if isolates => Err(format!(
                "{reference:?} is the id of an image, and this platform takes images by their name in a registry only (--trust {}); give a reference such as registry.example/team/app:1.0",
                self.trust
            )),
            Form::Name if isolates && is_built(reference) && !self.is_own(org, reference) => {
                Err(format!(
                    "{reference:?} is called as images are that this platform builds, and is none of organization {org}; give a reference to a registry, such as registry.example/team/app:1.0"
                ))
            }
            Form::Id | Form::Name => Ok(()),
        }
    }

    /// Whether this is the name of an image that was built here for `org`.
    pub fn is_own(&self, org: &OrgName, reference: &str) -> bool {
        let own = format!("{BUILT}{}/{org}/", self.instance);
        // Builds have no digest in a registry; by a digest an engine might find anyone's image.
        familiar(reference).starts_with(&own) && !reference.contains('@')
    }
}

fn remedy(reference: &str) -> String {
    if reference.contains(':') {
        "give the image's name, or its id in full".to_owned()
    } else {
        format!("write it with a tag or registry, as in {reference}:latest")
    }
}

/// Whether a name is one that the platform gives to its builds, or to the mark of an instance.
/// Docker Hub has no such organization.
fn is_built(reference: &str) -> bool {
    familiar(reference).starts_with(BUILT)
}

/// A name without the optional prefixes of Docker Hub.
fn familiar(reference: &str) -> &str {
    let name = reference
        .strip_prefix("docker.io/")
        .or_else(|| reference.strip_prefix("index.docker.io/"))
        .unwrap_or(reference);
    name.strip_prefix("library/").unwrap_or(name)
}

/// The reference by digest to the image that `reference` names by tag; a given digest is kept.
pub fn by_digest(reference: &str, digest: &str) -> String {
    if reference.contains('@') {
        return reference.to_owned();
    }
    let last = reference.rfind('/').map_or(0, |slash| slash + 1);
    let name = match reference[last..].find(':') {
        Some(colon) => &reference[..last + colon],
        None => reference,
    };
    format!("{name}@{digest}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naming(trust: Trust) -> Naming {
        Naming {
            trust,
            instance: "0a1b2c3d4e5f".parse().expect("an instance"),
        }
    }

    fn org(name: &str) -> OrgName {
        name.parse().expect("an organization")
    }

    #[test]
    fn what_an_engine_takes_for_an_id_is_told_from_names() {
        let id = "ab".repeat(32);
        for prefix in [
            "a",
            "12",
            "beef",
            "BEEF",
            "0123456789ab",
            "sha256:ab",
            &id[1..],
        ] {
            assert_eq!(form(prefix), Form::IdPrefix, "{prefix}");
        }
        assert_eq!(form(&id), Form::Id);
        assert_eq!(form(&format!("sha256:{id}")), Form::Id);
        for name in [
            "redis",
            "beef:latest",
            "beef/beef",
            "docker.io/library/beef",
            "sha256:latest",
            "",
            &format!("beef@sha256:{id}"),
        ] {
            assert_eq!(form(name), Form::Name, "{name}");
        }
    }

    #[test]
    fn who_may_name_what_follows_trust() {
        let (acme, id) = (org("acme"), "0f".repeat(32));
        let full = format!("sha256:{id}");
        for trust in Trust::ALL {
            let naming = naming(trust);
            let why = naming.check(&acme, "beef").expect_err("a prefix");
            assert!(why.contains("beef:latest"), "{why}");
            assert!(naming.check(&acme, "sha256:beef").is_err());
            assert_eq!(naming.check(&acme, "registry.example/a:1"), Ok(()));
            assert_eq!(naming.check(&acme, "ignite-0a1b2c3d4e5f/acme/a:1"), Ok(()));
            let isolates = trust.isolates_organizations();
            for others in [
                id.as_str(),
                &full,
                "ignite-0a1b2c3d4e5f/globex/a:1",
                "docker.io/ignite-0a1b2c3d4e5f/globex/a:1",
                "index.docker.io/ignite-0a1b2c3d4e5f/globex/a:1",
                "ignite-other/acme/a:1",
                &format!("ignite-0a1b2c3d4e5f/acme/a@{full}"),
                "ignite-0a1b2c3d4e5f:mark",
            ] {
                assert_eq!(naming.check(&acme, others).is_err(), isolates, "{others}");
            }
        }
    }

    #[test]
    fn a_digest_takes_the_place_of_a_tag() {
        for (reference, pinned) in [
            ("redis", "redis@d"),
            ("h:5000/a/b", "h:5000/a/b@d"),
            ("h:5000/a/b:1", "h:5000/a/b@d"),
            ("a@sha256:00", "a@sha256:00"),
        ] {
            assert_eq!(by_digest(reference, "d"), pinned);
        }
    }

    proptest! {
        /// An engine finds ids by any prefix: none of these may pass.
        #[test]
        fn no_beginning_of_an_id_is_ever_allowed(digits in "[0-9a-fA-F]{1,63}", with in any::<bool>()) {
            let reference = if with { format!("sha256:{digits}") } else { digits };
            for trust in Trust::ALL {
                prop_assert!(naming(trust).check(&org("acme"), &reference).is_err());
            }
        }
    }
}
