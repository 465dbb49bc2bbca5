//! Cookies stay with the app that sets them.
//!
//! Browsers send a cookie with `Domain=<base domain>` to the hosts of all apps, and accept one from
//! any of them: an app could read another's session, or plant one of its choice. Browsers do not
//! know the base domain as a public suffix, so the gateway removes the attribute, and the cookie is
//! limited to the app's own host.

use http::{
    HeaderMap, HeaderValue,
    header::{self, SET_COOKIE},
};

/// Removes `Domain` from cookies that other apps would get too.
pub(super) fn confine(answer: &mut HeaderMap, base_domain: &str) {
    // Most answers have no cookies, and `entry` may allocate for one.
    if !answer.contains_key(SET_COOKIE) {
        return;
    }
    let header::Entry::Occupied(mut cookies) = answer.entry(SET_COOKIE) else {
        return;
    };
    for cookie in cookies.iter_mut() {
        if let Some(confined) = confined(cookie.as_bytes(), base_domain)
            && let Ok(confined) = HeaderValue::from_bytes(&confined)
        {
            *cookie = confined;
        }
    }
}

/// The cookie without the attributes; `None` when it can stay as it is.
fn confined(cookie: &[u8], base_domain: &str) -> Option<Vec<u8>> {
    let spreads = |part: &&[u8]| {
        let mut pair = part.splitn(2, |b| *b == b'=');
        let name = pair.next().unwrap_or_default().trim_ascii();
        let value = pair.next().unwrap_or_default().trim_ascii();
        name.eq_ignore_ascii_case(b"domain") && reaches(value, base_domain)
    };
    let mut parts = cookie.split(|b| *b == b';');
    let first = parts.next()?;
    if !parts.clone().any(|part| spreads(&part)) {
        return None;
    }
    let kept = parts.filter(|part| !spreads(part));
    Some(
        std::iter::once(first)
            .chain(kept)
            .collect::<Vec<_>>()
            .join(&b';'),
    )
}

/// Whether a cookie's domain has hosts of other apps below it: the base domain or one above it.
/// A domain that is not a plain name counts, since browsers may decode it, such as `%6cocalhost`.
fn reaches(domain: &[u8], base_domain: &str) -> bool {
    let name = domain.strip_prefix(b".").unwrap_or(domain);
    let name = name.strip_suffix(b".").unwrap_or(name);
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    if !name.iter().all(plain) {
        return true;
    }
    let base = base_domain.as_bytes();
    let Some(cut) = base.len().checked_sub(name.len()) else {
        return false;
    };
    !name.is_empty()
        && base[cut..].eq_ignore_ascii_case(name)
        && (cut == 0 || base[cut - 1] == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cookie: &str) -> String {
        let mut answer = HeaderMap::new();
        answer.append(SET_COOKIE, "first=1; Path=/".parse().expect("valid"));
        answer.append(SET_COOKIE, cookie.parse().expect("valid"));
        confine(&mut answer, "apps.example.com");
        let all: Vec<_> = answer.get_all(SET_COOKIE).iter().collect();
        assert_eq!(all[0], "first=1; Path=/");
        all[1].to_str().expect("text").to_owned()
    }

    #[test]
    fn a_cookie_for_the_base_domain_or_above_is_its_own_hosts_alone() {
        for domain in [
            "apps.example.com",
            ".apps.example.com",
            "Apps.Example.COM",
            "apps.example.com.",
            " apps.example.com ",
            "example.com",
            "com",
            "apps.example.c%6fm",
            "\"apps.example.com\"",
        ] {
            let cookie = format!("a=b; Domain={domain}; Secure");
            assert_eq!(of(&cookie), "a=b; Secure", "{domain:?}");
        }
        let twice = "a=b;domain=x-acme.apps.example.com;DOMAIN =example.com; Path=/";
        assert_eq!(of(twice), "a=b;domain=x-acme.apps.example.com; Path=/");
    }

    #[test]
    fn other_cookies_stay_as_they_are() {
        for cookie in [
            "a=b",
            "domain=example.com",
            "a=b; Domain=",
            "a=b; Domain=x-acme.apps.example.com",
            "a=b; Domain=shop.example",
            "a=b; Domain=s.example.com",
            "a=b; Path=/; SameSite=Lax",
        ] {
            assert_eq!(of(cookie), cookie);
        }
    }
}
