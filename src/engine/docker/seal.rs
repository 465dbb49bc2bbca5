//! The seal of a container's labels, which proves that this instance wrote them.
//!
//! An engine gives a container the labels of its image, so a label alone proves nothing: the author
//! of an image's Dockerfile writes its labels. The seal is a MAC over the values of all labels that
//! are read, and over the container's name. An image cannot bring a name: without it in the seal,
//! an image of one of our containers (`docker commit`) would make further containers with a valid
//! seal.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{hmac, rand::SystemRandom};

/// Says which labels the seal covers, and how. Other labels need another version, so that what an
/// earlier release has sealed is still checked as it was sealed.
const VERSION: &str = "v1.";

/// The key that seals labels.
#[derive(Clone)]
pub struct Seal(hmac::Key);

impl Seal {
    /// Seals with a secret key that stays the same at the next start.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Seals with a key that is forgotten when this process ends; `None` when the system gives no
    /// random bytes.
    pub fn for_this_run() -> Option<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        key.ok().map(Self)
    }

    /// The seal over a container's name and the values of its labels, in the version's order.
    pub(super) fn over(&self, name: &str, values: &[&str]) -> String {
        let tag = hmac::sign(&self.0, &message(name, values));
        format!("{VERSION}{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// Whether this text is the seal over this name and these values.
    pub(super) fn holds(&self, text: &str, name: &str, values: &[&str]) -> bool {
        let tag = text.strip_prefix(VERSION);
        let tag = tag.and_then(|tag| URL_SAFE_NO_PAD.decode(tag).ok());
        tag.is_some_and(|tag| hmac::verify(&self.0, &message(name, values), &tag).is_ok())
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(..)")
    }
}

/// The parts, each after its length, so that no two lists of parts have the same message.
fn message(name: &str, values: &[&str]) -> Vec<u8> {
    let mut message = Vec::with_capacity(512);
    for part in [VERSION, name].iter().chain(values) {
        message.extend((part.len() as u64).to_be_bytes());
        message.extend(part.as_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    proptest! {
        #[test]
        fn a_seal_holds_for_what_it_was_made_over_and_nothing_else(
            name in ".{0,20}",
            values in vec(".{0,8}", 1..6),
            which in any::<Index>(),
            other in ".{0,8}",
        ) {
            let seal = Seal::new(&[7; 32]);
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            let text = seal.over(&name, &values);
            prop_assert!(seal.holds(&text, &name, &values));
            prop_assert!(!Seal::new(&[8; 32]).holds(&text, &name, &values));

            let mut changed = values.clone();
            let at = which.index(values.len());
            changed[at] = &other;
            prop_assert_eq!(seal.holds(&text, &name, &changed), other == values[at]);
            prop_assert_eq!(seal.holds(&text, &other, &values), other == name);
            // A letter that moves from one value to the next changes the seal, too.
            if let Some((first, rest)) = values[at].split_at_checked(1) {
                let mut moved = values.clone();
                moved[at] = first;
                moved.insert(at + 1, rest);
                prop_assert!(!seal.holds(&text, &name, &moved));
            }
            prop_assert!(!seal.holds(&text[VERSION.len()..], &name, &values));
            prop_assert!(!seal.holds("", &name, &values));
        }
    }
}
