//! The version of the engine's API that calls are made in.
//!
//! The client library puts none into its calls, which then mean whatever the engine's newest version
//! makes of them. So the newest version that both sides know goes before every path, once the engine
//! has said what it knows.

use std::fmt;

use bollard::{API_DEFAULT_VERSION, models::SystemVersion};
use http::Uri;

/// A version of the engine's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ApiVersion {
    major: usize,
    minor: usize,
}

impl ApiVersion {
    /// The newest one that is known here.
    const NEWEST: Self = Self {
        major: API_DEFAULT_VERSION.major_version,
        minor: API_DEFAULT_VERSION.minor_version,
    };

    /// The newest one that both sides know; `None` for an engine that does not say which it knows.
    ///
    /// # Errors
    /// In words, when the engine refuses every version that is known here.
    pub(super) fn for_engine(version: &SystemVersion) -> Result<Option<Self>, String> {
        let said = |api: &Option<String>| api.as_deref().and_then(Self::parse);
        let Some(newest) = said(&version.api_version) else {
            return Ok(None);
        };
        let chosen = newest.min(Self::NEWEST);
        match said(&version.min_api_version) {
            Some(least) if least > chosen => Err(format!(
                "it takes version {least} of its API and later, and this release of ignite speaks {} at most; use a newer release",
                Self::NEWEST
            )),
            _ => Ok(Some(chosen)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }

    /// A client that makes its calls in this version.
    pub(super) fn put_on(self, client: bollard::Docker) -> bollard::Docker {
        client.with_request_modifier(move |mut request| {
            if let Some(uri) = self.put_before(request.uri()) {
                *request.uri_mut() = uri;
            }
            request
        })
    }

    /// The URI with the version before its path.
    pub(super) fn put_before(self, uri: &Uri) -> Option<Uri> {
        let path = uri.path_and_query()?;
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(format!("/v{self}{path}").parse().ok()?);
        Uri::from_parts(parts).ok()
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(least: &str, newest: &str) -> Result<String, String> {
        let said = serde_json::json!({"MinAPIVersion": least, "ApiVersion": newest});
        let said = serde_json::from_value(said).expect("a version");
        ApiVersion::for_engine(&said).map(|v| v.map_or_else(String::new, |v| v.to_string()))
    }

    #[test]
    fn the_newest_version_that_both_sides_know_is_spoken() {
        let newest = ApiVersion::NEWEST.to_string();
        for (least, known, spoken) in [
            ("1.12", "1.41", "1.41"),
            ("1.44", "1.52", "1.52"),
            ("1.44", "1.999", newest.as_str()),
            ("", "", ""),
        ] {
            assert_eq!(of(least, known).as_deref(), Ok(spoken), "{least} {known}");
        }
        let why = of("1.998", "1.999").expect_err("too new");
        assert!(
            why.contains("1.998") && why.contains("newer release"),
            "{why}"
        );
    }

    #[test]
    fn a_version_goes_before_the_path_and_the_query_stays() {
        let version = ApiVersion::parse("1.44").expect("a version");
        let uri: Uri = "unix://abc/containers/json?all=true"
            .parse()
            .expect("a URI");
        let put = version.put_before(&uri).expect("a path");
        assert_eq!(put.to_string(), "unix://abc/v1.44/containers/json?all=true");
    }
}
