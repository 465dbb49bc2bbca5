//! What happens to headers on their way to a replica and back.
//!
//! Hop-by-hop headers stay on their hop (RFC 9110, 7.6.1). Headers that the platform vouches for
//! are removed from what clients and apps send before the platform's own are set. The HTTP library
//! does the framing of messages.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{fleet::Names, model::ExecutionId};

/// The invocation's id, on requests to apps and on every answer.
pub const EXECUTION_ID: HeaderName = HeaderName::from_static("x-ignite-execution-id");
/// `org/name` of the app, on requests to it.
pub const FUNCTION_ID: HeaderName = HeaderName::from_static("x-ignite-function-id");
/// The app's organization, on requests to it.
pub const ORGANIZATION_ID: HeaderName = HeaderName::from_static("x-ignite-organization-id");
/// Which attempt of an asynchronous execution a request to an app is; 1 is the first.
pub const ATTEMPT: HeaderName = HeaderName::from_static("x-ignite-attempt");
/// How many apps a request has passed through, one calling the next; 1 is the first.
pub const HOPS: HeaderName = HeaderName::from_static("x-ignite-hops");
/// The reason of a failure, on answers that the platform made.
pub const ERROR: HeaderName = HeaderName::from_static("x-ignite-error");
/// Set on answers that waited for a replica to start.
pub const COLD_START: HeaderName = HeaderName::from_static("x-ignite-cold-start");
/// Where the time of a cold start went.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const OURS: &str = "x-ignite-";

/// Removes the hop-by-hop headers. `Trailer` stays, and `TE` as `trailers`: without them hyper and
/// apps send no trailers.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have none, and one pass over the names costs less than a search for each.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    // Both may come in several lines, which mean the same as one comma-separated line.
    let named = tokens(headers, &header::CONNECTION);
    let accepts_trailers = tokens(headers, &header::TE)
        .iter()
        .filter_map(|token| token.split(';').next())
        .any(|token| token.trim().eq_ignore_ascii_case("trailers"));
    let named = named.iter().filter_map(|name| name.parse().ok());
    let named: Vec<HeaderName> = named.filter(|name| *name != header::HOST).collect();
    let known = headers.keys().filter(|name| is_hop_by_hop(name)).cloned();
    for name in known.chain(named).collect::<Vec<_>>() {
        headers.remove(name);
    }
    if accepts_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Whether a header is always meant for one hop only.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// The comma-separated tokens of all lines of a header. Copied: messages seldom have more than one.
fn tokens(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    let parts = lines.flat_map(|line| line.split(','));
    parts
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect()
}

/// Removes the platform's names from `Trailer`. hyper sends announced trailers only, so what may
/// not be sent as a header cannot be sent as a trailer either.
pub fn withhold_trailers(headers: &mut HeaderMap) {
    if !headers.contains_key(header::TRAILER) {
        return;
    }
    let mut announced = tokens(headers, &header::TRAILER);
    announced.retain(|name| {
        let name = name.to_ascii_lowercase();
        !is_ours(&name) && name != header::AUTHORIZATION.as_str()
    });
    headers.remove(header::TRAILER);
    if let Ok(value) = HeaderValue::from_str(&announced.join(", "))
        && !value.is_empty()
    {
        headers.insert(header::TRAILER, value);
    }
}

/// Removes from a client's trailers what it may not send as a header either.
pub fn withhold(trailers: &mut HeaderMap) {
    remove_ours(trailers);
    trailers.remove(header::AUTHORIZATION);
}

/// Whether a request is a gRPC call. gRPC-Web, which has another format, is not.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let rest = kind.and_then(|k| k.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Whether a client waits for `100 Continue` before it sends its body.
pub fn expects_continue(headers: &HeaderMap) -> bool {
    let expect = headers.get(header::EXPECT);
    expect.is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Joins the lines of `Cookie`, which HTTP/2 clients may split, into the single line that HTTP/1.1
/// wants (RFC 9113, 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
    let parts: Vec<_> = lines.iter().map(|v| v.as_bytes()).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}

/// Whether only the platform may send the header of this name, in lower case. `_` counts as `-`,
/// since CGI-like servers (WSGI, Rack) map both to the same variable.
pub fn is_ours(name: &str) -> bool {
    let folded = name.bytes().map(|b| if b == b'_' { b'-' } else { b });
    folded.take(OURS.len()).eq(OURS.bytes())
}

/// Removes every `x-ignite-*` header, which only the platform may send.
pub fn remove_ours(headers: &mut HeaderMap) {
    let spoofed: Vec<_> = headers
        .keys()
        .filter(|name| is_ours(name.as_str()))
        .cloned()
        .collect();
    for name in spoofed {
        headers.remove(name);
    }
}

/// Sets the headers that identify the app and the invocation to the app.
pub fn identify(headers: &mut HeaderMap, app: &Names, execution: HeaderValue) {
    remove_ours(headers);
    headers.insert(EXECUTION_ID, execution);
    headers.insert(FUNCTION_ID, app.function.clone());
    headers.insert(ORGANIZATION_ID, app.organization.clone());
}

/// How many apps a request says that it has passed through. Of several numbers the largest counts,
/// and one that is too large to read is over any limit: a client can only make its own request end
/// sooner. What is no number counts as absent, as does a header that an app leaves out.
pub fn hops(headers: &HeaderMap) -> u32 {
    // One look-up for a request that comes from outside.
    let mut lines = headers.get_all(HOPS).iter().peekable();
    if lines.peek().is_none() {
        return 0;
    }
    let numbers = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let numbers = numbers.map(|n| n.parse().unwrap_or(u32::MAX));
    numbers.max().unwrap_or(0)
}

/// The number as a header.
pub fn hops_value(hops: u32) -> HeaderValue {
    match hops {
        // Nearly all requests, without an allocation.
        1 => HeaderValue::from_static("1"),
        more => more.into(),
    }
}

/// A value as text: as UTF-8 where it is valid, else as ISO 8859-1, so that no byte is lost.
pub fn header_text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => value.iter().copied().map(char::from).collect(),
    }
}

/// An invocation's id as the value of a header.
pub fn execution_value(id: ExecutionId) -> HeaderValue {
    HeaderValue::from_bytes(&id.to_ascii()).expect("an id is ASCII")
}

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The client's address as `X-Forwarded-For` has it.
    pub address: &'a HeaderValue,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Whether the forwarding headers that the client sent are believed.
    pub trusted: bool,
}

/// Whether a header, in lower case, says where a request came from.
fn is_forwarding_header(name: &str) -> bool {
    name.starts_with("x-forwarded-") || name == "forwarded" || name == "x-real-ip"
}

/// Removes forwarding headers: all of an untrusted peer's, and those spelled with `_` always, since
/// servers that map `_` and `-` to the same variable would take them for the gateway's.
fn remove_forwarding_headers(headers: &mut HeaderMap, trusted: bool) {
    let goes = |name: &str| {
        if name.contains('_') {
            is_forwarding_header(&name.replace('_', "-"))
        } else {
            !trusted && is_forwarding_header(name)
        }
    };
    let doubtful: Vec<_> = headers
        .keys()
        .filter(|name| goes(name.as_str()))
        .cloned()
        .collect();
    for name in doubtful {
        headers.remove(name);
    }
}

/// Sets where a request came from. Continues the chain that a trusted peer sends; starts a new one
/// for others.
pub fn set_forwarding_headers(
    headers: &mut HeaderMap,
    origin: Origin<'_>,
    host: Option<&HeaderValue>,
) {
    let trusted = origin.trusted;
    remove_forwarding_headers(headers, trusted);
    let mut chain = origin.address.clone();
    if trusted && headers.contains_key(&FORWARDED_FOR) {
        let mut before = tokens(headers, &FORWARDED_FOR);
        before.extend(chain.to_str().map(str::to_owned));
        if let Ok(whole) = HeaderValue::try_from(before.join(", ")) {
            chain = whole;
        }
    }
    headers.insert(FORWARDED_FOR, chain);
    if !trusted || !headers.contains_key(&FORWARDED_PROTO) {
        let scheme = if origin.secure { "https" } else { "http" };
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if !trusted || !headers.contains_key(&FORWARDED_HOST) {
        match host {
            Some(host) => headers.insert(FORWARDED_HOST, host.clone()),
            None => headers.remove(FORWARDED_HOST),
        };
    }
}

/// Whether a request claims that a proxy received it over TLS. Only a trusted proxy is believed.
pub fn says_https(headers: &HeaderMap) -> bool {
    let scheme = headers.get(&FORWARDED_PROTO);
    scheme.is_some_and(|scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// The protocols that a request offers to upgrade to, in one line.
pub fn upgrade_to(headers: &HeaderMap) -> Option<HeaderValue> {
    HeaderValue::try_from(tokens(headers, &header::UPGRADE).join(", ")).ok()
}

/// Whether a request asks to leave HTTP (`Connection: upgrade`). An upgrade to `h2c` does not
/// count: it stays HTTP, and requests inside such a tunnel would bypass the rules for headers ("h2c
/// smuggling").
pub fn asks_upgrade(headers: &HeaderMap) -> bool {
    let to = tokens(headers, &header::UPGRADE);
    !to.is_empty()
        && !to
            .iter()
            .any(|protocol| protocol.eq_ignore_ascii_case("h2c"))
        && tokens(headers, &header::CONNECTION)
            .iter()
            .any(|token| token.eq_ignore_ascii_case("upgrade"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn hop_by_hop_headers_go_and_te_trailers_stays() {
        let mut h = map(&[
            ("connection", "close, X-Hop, te"),
            ("connection", "x-other"),
            ("x-hop", "1"),
            ("x-other", "1"),
            ("keep-alive", "5"),
            ("te", "gzip"),
            ("te", "trailers;q=1"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-kept", "1"),
        ]);
        remove_hop_by_hop(&mut h);
        assert_eq!(
            h,
            map(&[("trailer", "x-sum"), ("x-kept", "1"), ("te", "trailers")])
        );
    }

    #[test]
    fn the_platforms_headers_cannot_be_sent_by_others() {
        let mut h = map(&[
            ("x-ignite-organization-id", "evil"),
            ("x-ignite-anything", "x"),
            ("x_ignite_organization-id", "evil"),
            ("x-ok", "1"),
        ]);
        let execution = "exec_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().expect("valid");
        let names = Names::of(&"acme/a".parse().expect("valid"));
        identify(&mut h, &names, execution_value(execution));
        assert_eq!(h.get(ORGANIZATION_ID).expect("set"), "acme");
        assert_eq!(h.get(FUNCTION_ID).expect("set"), "acme/a");
        assert_eq!(
            h.get(EXECUTION_ID).expect("set"),
            "exec_01ARZ3NDEKTSV4RRFFQ69G5FAV"
        );
        assert!(!h.contains_key("x-ignite-anything") && h.contains_key("x-ok"));
        assert!(!h.contains_key("x_ignite_organization-id"));
    }

    #[test]
    fn hops_are_never_fewer_than_any_line_says() {
        let of = |lines: &[&'static str]| {
            let lines = lines.iter().map(|line| ("x-ignite-hops", *line));
            hops(&map(&lines.collect::<Vec<_>>()))
        };
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&["3"]), 3);
        assert_eq!(of(&["3", "1"]), 3);
        assert_eq!(of(&["1, 4", "x"]), 4);
        assert_eq!(of(&["99999999999999999999"]), u32::MAX);
        for none in ["", "-1", "+1", "1x", "x"] {
            assert_eq!(of(&[none]), 0, "{none:?}");
        }
        assert_eq!(hops_value(1), "1");
        assert_eq!(hops_value(17), "17");
    }

    #[test]
    fn trailers_cannot_say_what_headers_cannot() {
        let mut h = map(&[
            ("trailer", "x-sum, X-Ignite-Function-Id"),
            ("trailer", "Authorization"),
        ]);
        withhold_trailers(&mut h);
        assert_eq!(h, map(&[("trailer", "x-sum")]));
        let mut h = map(&[("trailer", "x-ignite-error")]);
        withhold_trailers(&mut h);
        assert!(h.is_empty());
    }

    #[test]
    fn only_other_protocols_are_upgrades() {
        let to = |protocol| {
            asks_upgrade(&map(&[
                ("connection", "keep-alive"),
                ("connection", "Upgrade, HTTP2-Settings"),
                ("upgrade", protocol),
            ]))
        };
        assert!(to("websocket"));
        assert!(!to("h2c") && !to("websocket, H2C"));
        assert!(!asks_upgrade(&map(&[("upgrade", "websocket")])));
    }

    #[test]
    fn grpc_is_told_from_its_like() {
        let is = |kind| is_grpc(&map(&[("content-type", kind)]));
        assert!(is("application/grpc") && is("application/grpc+proto") && is("application/grpc;x"));
        assert!(!is("application/grpc-web") && !is("application/json"));
        assert!(!is_grpc(&map(&[])));
    }

    #[test]
    fn cookies_that_http2_split_are_one_line() {
        let mut h = map(&[("cookie", "a=1"), ("cookie", "b=2")]);
        join_cookies(&mut h);
        assert_eq!(h, map(&[("cookie", "a=1; b=2")]));
    }

    #[test]
    fn forwarding_headers_count_from_a_trusted_peer_only() {
        let sent = map(&[
            ("x-forwarded-for", "9.9.9.9, 8.8.8.8"),
            ("x-forwarded-for", "7.7.7.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x-forwarded_proto", "evil"),
            ("x-real-ip", "9.9.9.9"),
            ("forwarded", "for=9.9.9.9"),
        ]);
        let mut h = sent.clone();
        set_forwarding_headers(
            &mut h,
            Origin {
                address: &HeaderValue::from_static("127.0.0.1"),
                secure: false,
                trusted: true,
            },
            None,
        );
        assert!(h.contains_key("x-real-ip") && h.contains_key("x-forwarded-port"));
        assert!(!h.keys().any(|name| name.as_str().contains('_')), "{h:?}");
        assert_eq!(
            h.get("x-forwarded-for").expect("set"),
            "9.9.9.9, 8.8.8.8, 7.7.7.7, 127.0.0.1"
        );
        assert_eq!(h.get("x-forwarded-proto").expect("set"), "https");
        let mut h = sent;
        set_forwarding_headers(
            &mut h,
            Origin {
                address: &HeaderValue::from_static("10.0.0.7"),
                secure: false,
                trusted: false,
            },
            None,
        );
        assert_eq!(h.len(), 2, "{h:?}");
        assert_eq!(h.get("x-forwarded-for").expect("set"), "10.0.0.7");
        assert_eq!(h.get("x-forwarded-proto").expect("set"), "http");
    }
}
