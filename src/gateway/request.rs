//! Checks the requests of the HTTP listener, and puts them into the form that apps get.

use http::{HeaderValue, Method, Request, Uri, Version, header, uri::PathAndQuery};
use hyper::body::Incoming;

use super::{
    headers::{self, Origin},
    invoke,
};
use crate::{
    fleet::upstream,
    model::{AppId, Failure, Reason},
};

/// What requests by path start with.
pub const BY_PATH: &str = "/_app/";

/// Refuses what a proxy must not forward: tunnels, and requests whose host is given twice, not at
/// all, or in the place of a path (RFC 9112, 3.2), since the app could understand another host than
/// the gateway did.
///
/// # Errors
/// What is wrong with it.
pub fn check<B>(request: &Request<B>) -> Result<(), Failure> {
    let malformed = |what: &str| Err(Failure::new(Reason::MalformedRequest, what));
    if request.method() == Method::CONNECT {
        return Err(Failure::new(
            Reason::MethodNotAllowed,
            "CONNECT is not allowed: this is no proxy to other hosts",
        ));
    }
    // Other servers would take a bare host, as CONNECT has it, for a path.
    if request.uri().authority().is_some() && request.uri().scheme().is_none() {
        return malformed(
            "the request asks for neither a path nor a URL; write the path, such as `GET / HTTP/1.1`, and the host in Host",
        );
    }
    // Only chunked is undone here, so the app could not decode another coding; and a server that
    // parses a list of codings differently would see another end of the request (smuggling).
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return malformed("Transfer-Encoding has to be chunked, said once and alone");
    }
    match request.headers().get_all(header::HOST).iter().count() {
        0 if request.version() == Version::HTTP_11 => {
            malformed("the request has no Host header, which HTTP/1.1 demands")
        }
        0 | 1 => Ok(()),
        _ => malformed("the request has more than one Host header; send one"),
    }
}

/// Whether the request asks to leave HTTP. Only HTTP/1.1 has this header; HTTP/2 has extended
/// CONNECT, which is not supported.
pub fn asks_upgrade<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11 && headers::asks_upgrade(request.headers())
}

/// The host that a request is for.
pub fn host_of<B>(request: &Request<B>) -> Option<&str> {
    // HTTP/2 and absolute-form requests have it in the URI, which takes precedence.
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request
            .headers()
            .get(header::HOST)
            .and_then(|h| h.to_str().ok()),
    }
}

/// The client's request in the form that a replica gets, except for the headers that identify app
/// and invocation. `path` replaces the path of a request by path.
///
/// # Errors
/// MALFORMED_REQUEST when the path cannot be forwarded.
pub fn outbound(
    request: Request<Incoming>,
    origin: Origin<'_>,
    bounds: upstream::Bounds,
    path: Option<&str>,
    upgrade: bool,
) -> Result<Request<upstream::Body>, Failure> {
    let host = host_of(&request).and_then(|h| HeaderValue::from_str(h).ok());
    let (mut head, incoming) = request.into_parts();
    // In the form parsed here: a line that the gateway cannot read must not mean more to the app.
    let protocol = if upgrade {
        headers::upgrade_to(&head.headers)
    } else {
        None
    };
    headers::remove_hop_by_hop(&mut head.headers);
    headers::withhold_trailers(&mut head.headers);
    headers::join_cookies(&mut head.headers);
    headers::set_forwarding_headers(&mut head.headers, origin, host.as_ref());
    if let Some(host) = host {
        head.headers.insert(header::HOST, host);
    }
    let expects = headers::expects_continue(&head.headers);
    if expects && head.version == Version::HTTP_10 {
        // HTTP/1.0 has no interim answers (RFC 9110, 10.1.1).
        head.headers.remove(header::EXPECT);
    }
    let expects = expects && head.version != Version::HTTP_10;
    head.uri = match path {
        Some(path) => rebased(path, head.uri.query())?,
        None => match head.uri.path_and_query() {
            Some(target) if target.as_str() != "/" => target.clone().into(),
            // hyper would send the target of `http://host#…`, which also reads as `/`, empty.
            _ => Uri::default(),
        },
    };
    // Until `invoke` chooses otherwise by the app's protocol.
    head.version = Version::HTTP_11;
    let body = if http_body::Body::is_end_stream(&incoming) {
        upstream::Body::Empty
    } else {
        if http_body::Body::size_hint(&incoming).exact().is_none() {
            // hyper sends a GET or HEAD without its body when nothing says that there is one.
            let chunked = HeaderValue::from_static("chunked");
            head.headers.insert(header::TRANSFER_ENCODING, chunked);
        }
        upstream::Body::streamed(incoming, bounds, headers::withhold)
    };
    let mut request = Request::from_parts(head, body);
    if expects {
        upstream::let_the_app_ask(&mut request);
    }
    if let Some(protocol) = protocol {
        invoke::keep_upgrade(&mut request, protocol);
    }
    Ok(request)
}

/// Splits what follows [`BY_PATH`] into the app and the path that it gets.
///
/// # Errors
/// NOT_FOUND when no app can have that name.
pub fn split_path(rest: &str) -> Result<(AppId, &str), Failure> {
    let mut parts = rest.splitn(3, '/');
    let (org, name) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let path = parts
        .next()
        .map_or("", |_| &rest[org.len() + name.len() + 1..]);
    let id = format!("{org}/{name}").parse().map_err(|e| {
        Failure::new(
            Reason::NotFound,
            format!("{e}; app paths are /_app/{{org}}/{{app}}/…"),
        )
    })?;
    Ok((id, path))
}

fn rebased(path: &str, query: Option<&str>) -> Result<Uri, Failure> {
    let path = if path.is_empty() { "/" } else { path };
    let whole = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    whole.parse::<PathAndQuery>().map(Uri::from).map_err(|e| {
        Failure::new(
            Reason::MalformedRequest,
            format!("the path {path:?} cannot be forwarded: {e}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_in_the_place_of_a_path_is_refused() {
        let asks_for = |target: &str| {
            let request = Request::get(target).header(header::HOST, "x");
            check(&request.body(()).expect("valid"))
        };
        for good in ["/", "/x?y", "http://app-acme.ignite.localhost", "*"] {
            assert!(asks_for(good).is_ok(), "{good}");
        }
        let refused = asks_for("app-acme.ignite.localhost").expect_err("no path");
        assert_eq!(refused.reason, Reason::MalformedRequest);
    }
}
