//! Apps under a path, `/_app/{org}/{app}/`, of a host that they share with others.
//!
//! Apps need not know the prefix. Requests have it in `X-Forwarded-Prefix`; in answers it is put
//! before the app's own paths in `Location`, `Content-Location` and the `Path` of cookies. Links in
//! bodies are left as they are.

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{self, CONTENT_LOCATION, LOCATION, SET_COOKIE},
};

use super::{body::Body, request::BY_PATH};
use crate::model::AppId;

/// The path under which clients see an app.
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// A request by path.
pub(super) struct ByPath {
    /// What stands before the app's own paths, without a slash at its end.
    prefix: String,
    /// The path that the app gets.
    pub(super) path: String,
    /// The host that the client asked, as it wrote it.
    host: String,
}

impl ByPath {
    pub(super) fn new(app: &AppId, path: &str, host: Option<&str>) -> Self {
        Self {
            prefix: format!("{BY_PATH}{}/{}", app.org, app.name),
            path: path.to_owned(),
            host: host.unwrap_or_default().to_owned(),
        }
    }

    /// Redirects a request for the app's root that lacks the final slash, without which relative
    /// links would leave the prefix. The client repeats method and body (308).
    pub(super) fn redirect_to_slash(&self, query: Option<&str>) -> Option<Response<Body>> {
        if !self.path.is_empty() {
            return None;
        }
        let query = query.map(|q| format!("?{q}")).unwrap_or_default();
        let to = HeaderValue::try_from(format!("{}/{query}", self.prefix)).ok()?;
        let mut response = Response::new(Body::default());
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        response.headers_mut().insert(LOCATION, to);
        Some(response)
    }

    /// Adds `X-Forwarded-Prefix`, after the prefix of a trusted proxy in front.
    pub(super) fn announce(&mut self, request: &mut HeaderMap) {
        // A header from an untrusted client has been removed already.
        if let Some(before) = request.get(&FORWARDED_PREFIX)
            && let Ok(before) = before.to_str()
        {
            self.prefix = format!("{}{}", before.trim_end_matches('/'), self.prefix);
        }
        if let Ok(prefix) = HeaderValue::from_str(&self.prefix) {
            request.insert(FORWARDED_PREFIX, prefix);
        }
    }

    /// Puts the prefix before the paths in an answer's headers.
    pub(super) fn rewrite(&self, answer: &mut HeaderMap) {
        for name in [LOCATION, CONTENT_LOCATION] {
            if let Some(old) = answer.get(&name)
                && let Some(new) = self.moved(old.as_bytes())
                && let Ok(new) = HeaderValue::from_bytes(&new)
            {
                answer.insert(name, new);
            }
        }
        if let header::Entry::Occupied(mut cookies) = answer.entry(SET_COOKIE) {
            for cookie in cookies.iter_mut() {
                if let Ok(new) = HeaderValue::from_bytes(&self.cookie(cookie.as_bytes())) {
                    *cookie = new;
                }
            }
        }
    }

    /// Moves a URL of the app below the prefix: a path, or a URL with the host that the client
    /// asked for. `None` for any other URL, and for one that is below the prefix already.
    fn moved(&self, url: &[u8]) -> Option<Vec<u8>> {
        let path = self.path_of(url)?;
        let origin = &url[..url.len() - path.len()];
        let path = self.below(path)?;
        Some([origin, &path].concat())
    }

    fn path_of<'a>(&self, url: &'a [u8]) -> Option<&'a [u8]> {
        if url.starts_with(b"//") {
            return None;
        }
        if url.starts_with(b"/") {
            return Some(url);
        }
        let rest = [&b"http://"[..], b"https://"].iter().find_map(|scheme| {
            let (start, rest) = url.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some(rest)
        })?;
        let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#'));
        let (host, path) = rest.split_at(end.unwrap_or(rest.len()));
        let here = !host.is_empty() && host.eq_ignore_ascii_case(self.host.as_bytes());
        here.then_some(path)
    }

    fn below(&self, path: &[u8]) -> Option<Vec<u8>> {
        let prefix = self.prefix.as_bytes();
        let is_below = path
            .strip_prefix(prefix)
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'/' | b'?' | b'#')));
        if is_below {
            return None;
        }
        let slash: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
        Some([prefix, slash, path].concat())
    }

    /// A cookie for the app alone: its path below the prefix, and no other host than this one,
    /// since apps that share it would share the cookie.
    fn cookie(&self, cookie: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(cookie.len() + self.prefix.len());
        for (n, part) in cookie.split(|b| *b == b';').enumerate() {
            let mut pair = part.splitn(2, |b| *b == b'=');
            let name = pair.next().unwrap_or_default().trim_ascii();
            let value = pair.next().unwrap_or_default().trim_ascii();
            if n > 0 && name.eq_ignore_ascii_case(b"domain") {
                continue;
            }
            if n > 0 {
                out.push(b';');
            }
            let moved = (n > 0 && name.eq_ignore_ascii_case(b"path") && value.starts_with(b"/"))
                .then(|| self.below(value))
                .flatten();
            match moved {
                Some(path) => {
                    out.extend_from_slice(b" Path=");
                    out.extend_from_slice(&path);
                }
                None => out.extend_from_slice(part),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> ByPath {
        let app = "acme/web".parse().expect("valid");
        ByPath::new(&app, path, Some("box.example:8080"))
    }

    #[test]
    fn the_slash_is_added_with_the_query_and_only_where_it_lacks() {
        let to = |path, query| {
            let response = at(path).redirect_to_slash(query)?;
            assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
            Some(
                response.headers()[LOCATION]
                    .to_str()
                    .expect("text")
                    .to_owned(),
            )
        };
        assert_eq!(to("", None).as_deref(), Some("/_app/acme/web/"));
        assert_eq!(to("", Some("a=b")).as_deref(), Some("/_app/acme/web/?a=b"));
        assert_eq!(to("/", Some("a=b")), None);
    }

    #[test]
    fn places_of_the_app_are_put_below_the_prefix_and_others_are_left() {
        for (old, new) in [
            ("/", "/_app/acme/web/"),
            ("/x?y#z", "/_app/acme/web/x?y#z"),
            (
                "http://box.example:8080/x",
                "http://box.example:8080/_app/acme/web/x",
            ),
            (
                "HTTPS://Box.Example:8080",
                "HTTPS://Box.Example:8080/_app/acme/web/",
            ),
            (
                "http://box.example:8080?q",
                "http://box.example:8080/_app/acme/web/?q",
            ),
            ("/_app/acme/webby", "/_app/acme/web/_app/acme/webby"),
            ("/_app/acme/web/x", "/_app/acme/web/x"),
            ("/_app/acme/web", "/_app/acme/web"),
            ("x", "x"),
            ("?q", "?q"),
            ("//else.where/x", "//else.where/x"),
            ("http://else.where/x", "http://else.where/x"),
            ("http://box.example/x", "http://box.example/x"),
            ("mailto:a@b", "mailto:a@b"),
        ] {
            let value = HeaderValue::from_str(old).expect("valid");
            let mut answer =
                HeaderMap::from_iter([(LOCATION, value.clone()), (CONTENT_LOCATION, value)]);
            at("/").rewrite(&mut answer);
            assert_eq!(answer[LOCATION], new);
            assert_eq!(answer[CONTENT_LOCATION], new);
        }
    }

    #[test]
    fn cookies_stay_with_their_app() {
        for (old, new) in [
            ("a=b", "a=b"),
            ("a=b; Path=/", "a=b; Path=/_app/acme/web/"),
            (
                "a=b;path=/x ; HttpOnly",
                "a=b; Path=/_app/acme/web/x; HttpOnly",
            ),
            ("a=b; Path=/_app/acme/web/x", "a=b; Path=/_app/acme/web/x"),
            ("a=b; Path=x; Secure", "a=b; Path=x; Secure"),
            ("a=b; Domain=example; Secure", "a=b; Secure"),
            ("path=/; SameSite=Lax", "path=/; SameSite=Lax"),
        ] {
            let mut answer = HeaderMap::new();
            answer.append(SET_COOKIE, "first=1; Path=/".parse().expect("valid"));
            answer.append(SET_COOKIE, old.parse().expect("valid"));
            at("/").rewrite(&mut answer);
            let all: Vec<_> = answer.get_all(SET_COOKIE).iter().collect();
            assert_eq!(all, ["first=1; Path=/_app/acme/web/", new]);
        }
    }

    #[test]
    fn a_believed_proxy_may_stand_at_a_path_itself() {
        let mut by_path = at("/");
        let mut request =
            HeaderMap::from_iter([(FORWARDED_PREFIX, "/base/".parse().expect("valid"))]);
        by_path.announce(&mut request);
        assert_eq!(request[FORWARDED_PREFIX], "/base/_app/acme/web");
        let mut answer = HeaderMap::from_iter([(LOCATION, "/x".parse().expect("valid"))]);
        by_path.rewrite(&mut answer);
        assert_eq!(answer[LOCATION], "/base/_app/acme/web/x");
    }
}
