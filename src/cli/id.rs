//! App ids as users write them: `org:app`, or `app` in the organization in use.

use super::Error;
use crate::model::{AppId, AppName, OrgName};

/// An id on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AppArg {
    /// The organization, if the id names one.
    pub(super) org: Option<OrgName>,
    /// The app.
    pub(super) name: AppName,
}

impl std::str::FromStr for AppArg {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        // The API writes ids with a slash; a pasted one is accepted too.
        let (org, name) = match s.split_once([':', '/']) {
            Some((org, name)) => (Some(org), name),
            None => (None, s),
        };
        let form = |e: &dyn std::fmt::Display| format!("{e}; write org:app, or app");
        Ok(Self {
            org: org.map(|o| o.parse().map_err(|e| form(&e))).transpose()?,
            name: name.parse().map_err(|e| form(&e))?,
        })
    }
}

impl AppArg {
    /// The full id, with the organization in use if this one names none.
    ///
    /// # Errors
    /// The error of `org`, which is called only when the id names no organization.
    pub(super) fn within(
        self,
        org: impl FnOnce() -> Result<OrgName, Error>,
    ) -> Result<AppId, Error> {
        Ok(AppId {
            org: self.org.map_or_else(org, Ok)?,
            name: self.name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_an_organization_or_take_the_one_in_use() {
        let whole = |s: &str| {
            let id: AppArg = s.parse().expect("valid");
            id.within(|| Ok("local".parse().expect("a name")))
                .expect("whole")
                .to_string()
        };
        assert_eq!(whole("a.b"), "local/a.b");
        assert_eq!(whole("acme:a"), "acme/a");
        assert_eq!(whole("acme/a"), "acme/a");
        for wrong in ["", ":a", "acme:", "acme:a:b", "Acme:a", "a b"] {
            let refused = wrong.parse::<AppArg>().expect_err(wrong);
            assert!(refused.contains("org:app"), "{refused}");
        }
    }
}
