//! Issuers of tokens elsewhere, as one setting lists them.
//!
//! `URL audience=A orgs=acme,beta scopes=ignite.app-developer; URL …`: the audience and the
//! organizations have no default, since an issuer that serves others as well would open everything.

use std::{fmt, net::IpAddr, str::FromStr};

use http::Uri;

use crate::model::{OrgName, Scopes};

/// An issuer whose tokens are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its identity, exactly as in `iss`; discovery is below it.
    pub url: String,
    /// The audiences of which a token must name one.
    pub audience: Vec<String>,
    /// The organizations that it may speak for; `None` for any.
    pub orgs: Option<Vec<OrgName>>,
    /// What a token opens that names no scope and no role of the platform's.
    pub scopes: Scopes,
}

/// A list of issuers, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Issuers(Vec<Issuer>);

impl Issuer {
    /// Whether its answers cannot be changed on the way.
    pub fn is_private(&self) -> bool {
        let uri: Option<Uri> = self.url.parse().ok();
        uri.is_some_and(|uri| uri.scheme_str() == Some("https") || is_loopback(&uri))
    }

    /// Whether it may speak for an organization.
    pub fn may_speak_for(&self, org: &OrgName) -> bool {
        self.orgs.as_ref().is_none_or(|orgs| orgs.contains(org))
    }
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

impl Issuers {
    /// The issuers.
    pub fn iter(&self) -> impl Iterator<Item = &Issuer> {
        self.0.iter()
    }
}

impl FromStr for Issuers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "none" {
            return Ok(Self::default());
        }
        let mut all: Vec<Issuer> = Vec::new();
        let words = text.split(';').map(str::trim).filter(|w| !w.is_empty());
        for issuer in words.map(str::parse::<Issuer>) {
            let issuer = issuer?;
            if all.iter().any(|known| known.url == issuer.url) {
                return Err(format!("the issuer {} stands there twice", issuer.url));
            }
            all.push(issuer);
        }
        if all.is_empty() {
            return Err("there is no issuer in it; write none for none".to_owned());
        }
        Ok(Self(all))
    }
}

impl FromStr for Issuer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let url = words.next().unwrap_or_default();
        check_url(url)?;
        let (mut audience, mut orgs, mut scopes) = (None, None, Scopes::NONE);
        for word in words {
            let (name, value) = word
                .split_once('=')
                .filter(|(_, value)| !value.is_empty())
                .ok_or_else(|| format!("{word:?} is not of the form name=value"))?;
            match name {
                "audience" => audience = Some(value.split(',').map(str::to_owned).collect()),
                "orgs" if value == "*" => orgs = Some(None),
                "orgs" => orgs = Some(Some(names(value)?)),
                "scopes" => scopes = value.parse()?,
                _ => {
                    return Err(format!(
                        "{name:?} is not a property of an issuer; there are audience, orgs and scopes"
                    ));
                }
            }
        }
        Ok(Self {
            audience: audience.ok_or_else(|| {
                format!("{url} has no audience; write {url} audience=NAME, with the name that its tokens for this server have in `aud`")
            })?,
            orgs: orgs.ok_or_else(|| {
                format!("{url} names no organizations; write orgs=NAME,NAME for those that it may speak for, or orgs=* for all")
            })?,
            url: url.to_owned(),
            scopes,
        })
    }
}

fn names(text: &str) -> Result<Vec<OrgName>, String> {
    let names = text.split(',').map(|name| name.parse::<OrgName>());
    names.collect::<Result<_, _>>().map_err(|e| e.to_string())
}

fn check_url(url: &str) -> Result<(), String> {
    let uri: Option<Uri> = url.parse().ok();
    let is_good = uri.is_some_and(|uri| {
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        let authority = uri.authority().map_or("", |a| a.as_str());
        is_web && !authority.is_empty() && !authority.contains('@') && uri.query().is_none()
    });
    if is_good && !url.contains('#') {
        return Ok(());
    }
    Err(format!(
        "{url:?} is not an issuer: write its URL, such as https://id.example.com/realms/main, and then audience=… and orgs=…"
    ))
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} audience={}", self.url, self.audience.join(","))?;
        match &self.orgs {
            None => f.write_str(" orgs=*")?,
            Some(orgs) => {
                let names: Vec<_> = orgs.iter().map(OrgName::as_str).collect();
                write!(f, " orgs={}", names.join(","))?;
            }
        }
        if self.scopes.is_empty() {
            return Ok(());
        }
        write!(f, " scopes={}", self.scopes)
    }
}

impl fmt::Display for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let all: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_are_written_as_they_are_read_and_say_what_is_missing() {
        for text in [
            "none",
            "https://id.example/realms/x audience=ignite orgs=acme,beta",
            "https://a.example audience=a,b orgs=* scopes=GetApp; http://127.0.0.1:1 audience=i orgs=acme scopes=all",
        ] {
            let issuers: Issuers = text.parse().expect("valid");
            assert_eq!(issuers.to_string(), text);
        }
        let refused = |text: &str| text.parse::<Issuers>().expect_err(text);
        for (text, words) in [
            ("https://a.example", "has no audience"),
            ("https://a.example audience=i", "names no organizations"),
            ("https://a.example audience= orgs=*", "name=value"),
            ("https://a.example audience=i orgs=A", "organization name"),
            ("https://a.example audience=i orgs=* scope=x", "\"scope\""),
            ("https://a.example audience=i orgs=* scopes=x", "\"x\""),
            ("ftp://a.example audience=i orgs=*", "is not an issuer"),
            ("https://u@a.example audience=i orgs=*", "is not an issuer"),
            ("https://a.example?x audience=i orgs=*", "is not an issuer"),
            (";", "no issuer"),
            (
                "https://a audience=i orgs=*;https://a audience=j orgs=*",
                "twice",
            ),
        ] {
            assert!(refused(text).contains(words), "{text}: {}", refused(text));
        }
        let private = |url: &str| {
            let issuer: Issuer = format!("{url} audience=i orgs=*").parse().expect("valid");
            issuer.is_private()
        };
        assert!(private("https://a.example") && private("http://[::1]:8080/x"));
        assert!(!private("http://a.example") && !private("http://10.0.0.1"));
    }
}
