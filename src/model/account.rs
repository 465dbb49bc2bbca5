//! Names of service accounts.

use super::id::InvalidName;

pub use super::id::AccountName;

/// What a client id in the short form begins with.
const PREFIX: &str = "cli-";
/// What a client id in the long form ends with.
const SUFFIX: &str = "@svcacc.dodil.io";

impl AccountName {
    /// The account that a client id names: `cli-NAME` or `NAME@svcacc.dodil.io`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_client_id(id: &str) -> Result<Self, InvalidName> {
        let name = id.strip_prefix(PREFIX).or_else(|| id.strip_suffix(SUFFIX));
        match name {
            Some(name) => name.parse(),
            None => Err(InvalidName(format!(
                "client id {id:?} is neither of the form {PREFIX}NAME nor NAME{SUFFIX}"
            ))),
        }
    }

    /// As [`AccountName::from_client_id`], and the bare name, too.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_user(text: &str) -> Result<Self, InvalidName> {
        Self::from_client_id(text).or_else(|_| text.parse())
    }

    /// The client id in the short form.
    pub fn client_id(&self) -> String {
        format!("{PREFIX}{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_client_id_name_one_account() {
        let of = |id: &str| AccountName::from_client_id(id).map(|n| n.to_string());
        assert_eq!(of("cli-ci").as_deref(), Ok("ci"));
        assert_eq!(of("ci@svcacc.dodil.io").as_deref(), Ok("ci"));
        for wrong in ["ci", "", "cli-", "cli-Ci", "@svcacc.dodil.io", "ci@else.io"] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
        let user = |id: &str| AccountName::from_user(id).map(|n| n.client_id());
        for id in ["ci", "cli-ci", "ci@svcacc.dodil.io"] {
            assert_eq!(user(id).as_deref(), Ok("cli-ci"));
        }
    }
}
