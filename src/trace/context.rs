//! The header `traceparent` of W3C Trace Context, level 1: read from requests, written for apps.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanId, TraceId};

/// The header that carries a trace from one program to the next.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The flag of a trace that is recorded.
const SAMPLED: u8 = 1;

/// What a request says of the trace that it is part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) is_sampled: bool,
}

impl Parent {
    /// `None` without the header, and for one that the specification says to ignore.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        let text = lines.next()?.to_str().ok()?;
        if lines.next().is_some() {
            return None;
        }
        let mut parts = text.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace = TraceId::from(hex(parts.next()?, 32)?);
        let span = SpanId::from(u64::try_from(hex(parts.next()?, 16)?).ok()?);
        let flags = u8::try_from(hex(parts.next()?, 2)?).ok()?;
        // Later versions may have more parts; version 0 has none, and 255 is none.
        let is_known = version != 0xff && (version > 0 || parts.next().is_none());
        let is_valid = trace != TraceId::INVALID && span != SpanId::INVALID;
        (is_known && is_valid).then_some(Self {
            trace,
            span,
            is_sampled: flags & SAMPLED != 0,
        })
    }
}

/// A number in exactly so many hexadecimal digits, in lower case.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    let is_valid = text.len() == digits && text.bytes().all(is_hex);
    is_valid.then(|| u128::from_str_radix(text, 16).ok())?
}

/// The header for a span that is recorded.
pub(super) fn header(trace: TraceId, span: SpanId) -> HeaderValue {
    let text = format!("00-{trace}-{span}-01");
    HeaderValue::try_from(text).expect("hexadecimal digits are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: &str) -> Option<Parent> {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, value.parse().expect("a header"));
        Parent::of(&headers)
    }

    #[test]
    fn a_header_is_read_as_it_is_written() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = parsed(text).expect("valid");
        assert!(parent.is_sampled);
        assert_eq!(header(parent.trace, parent.span), text);
        let unsampled = text.replace("-01", "-00");
        assert!(!parsed(&unsampled).expect("valid").is_sampled);
        let later = text.replacen("00-", "cc-", 1) + "-more";
        assert!(parsed(&later).is_some(), "a later version");
    }

    #[test]
    fn what_the_specification_ignores_is_ignored() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let span = "b7ad6b7169203331";
        for bad in [
            String::new(),
            "00".into(),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-01-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{span}-1"),
            format!("00-+{}-{span}-01", &trace[1..]),
        ] {
            assert_eq!(parsed(&bad), None, "{bad}");
        }
        let mut twice = HeaderMap::new();
        let good = HeaderValue::try_from(format!("00-{trace}-{span}-01")).expect("valid");
        twice.append(TRACEPARENT, good.clone());
        twice.append(TRACEPARENT, good);
        assert_eq!(Parent::of(&twice), None);
    }
}
