//! A record of the bytes on one HTTP/1.1 connection to a replica, for what hyper does not offer:
//! the request it has written, and the interim answers before an answer.
//!
//! The bytes of a request that may be sent again are kept until the first byte of the answer
//! arrives: a copy into memory that the connection has anyway, so that a request without trouble
//! allocates nothing. The copy is parsed only if the connection breaks.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    task::Context,
};

use futures_util::task::AtomicWaker;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use parking_lot::Mutex;

/// Most bytes that are kept of a request, or of an incomplete interim answer.
const MOST: usize = 64 * 1024;
/// Memory that a connection keeps for its next request.
const KEPT: usize = 4 * 1024;
/// The start of an interim answer.
const INTERIM: &[u8] = b"HTTP/1.1 1";
/// Most header lines of an interim answer that is passed on.
const HINTS: usize = 64;

/// The record of one connection. Only the task that drives the connection touches it, except to
/// sever it; the locks are for the moment when another task takes over.
#[derive(Debug, Default)]
pub(super) struct SendState {
    /// A streamed body is being sent.
    sending: AtomicBool,
    /// Written bytes are kept in `request`.
    recording: AtomicBool,
    /// No answer has begun yet.
    awaiting: AtomicBool,
    request: Mutex<Vec<u8>>,
    /// `early` is not empty, or was since the request began.
    interim: AtomicBool,
    early: Mutex<Early>,
    /// The peer is out of reach.
    severed: AtomicBool,
    /// Who waits for bytes.
    reader: AtomicWaker,
}

/// Interim answers.
#[derive(Debug, Default)]
struct Early {
    /// The bytes of an incomplete interim answer.
    part: Vec<u8>,
    hints: Vec<HeaderMap>,
}

impl SendState {
    /// Records that a streamed body begins, or that hyper has dropped it.
    pub(super) fn set_sending(&self, sending: bool) {
        self.sending.store(sending, Ordering::Release);
    }

    /// Whether a streamed body is still being sent.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Acquire)
    }

    /// The peer is out of reach: whoever waits for its bytes learns it.
    pub(super) fn sever(&self) {
        self.severed.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// Whether the peer is out of reach; if not, the task is woken when it is.
    pub(super) fn is_severed(&self, cx: &Context<'_>) -> bool {
        self.reader.register(cx.waker());
        self.severed.load(Ordering::Acquire)
    }

    /// The next request begins; with `keep` its bytes are kept until its answer begins.
    pub(super) fn begin(&self, keep: bool) {
        if keep {
            let mut request = self.request.lock();
            request.clear();
            request.shrink_to(KEPT);
        }
        self.interim.store(false, Ordering::Release);
        self.recording.store(keep, Ordering::Release);
        self.awaiting.store(true, Ordering::Release);
    }

    /// Records written bytes.
    pub(super) fn written(&self, data: &[u8]) {
        if self.recording.load(Ordering::Acquire) {
            let mut request = self.request.lock();
            if request.len() + data.len() > MOST {
                self.recording.store(false, Ordering::Release);
                return;
            }
            request.extend_from_slice(data);
        }
    }

    /// Records read bytes.
    pub(super) fn received(&self, data: &[u8]) {
        if !self.awaiting.load(Ordering::Acquire) {
            return;
        }
        self.recording.store(false, Ordering::Release);
        if self.interim.load(Ordering::Acquire) || may_be_interim(data) {
            self.find_hints(data);
        } else {
            self.awaiting.store(false, Ordering::Release);
        }
    }

    /// The request, if it was kept and not a byte of an answer has arrived.
    pub(super) fn unanswered(&self) -> Option<Request<()>> {
        if !self.recording.swap(false, Ordering::AcqRel) {
            return None;
        }
        read_request(&self.request.lock())
    }

    /// Takes the headers of `103 Early Hints` that have arrived since the last call.
    pub(super) fn early_hints(&self) -> Vec<HeaderMap> {
        if !self.interim.load(Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut self.early.lock().hints)
    }

    /// Finds interim answers. hyper reads the same bytes and skips them.
    fn find_hints(&self, data: &[u8]) {
        let mut early = self.early.lock();
        let early = &mut *early;
        self.interim.store(true, Ordering::Release);
        early.part.extend_from_slice(data);
        while may_be_interim(&early.part) {
            if early.part.is_empty() {
                // The next bytes may be an interim answer, too.
                return;
            }
            let mut lines = [httparse::EMPTY_HEADER; HINTS];
            let mut head = httparse::Response::new(&mut lines);
            match head.parse(&early.part) {
                Ok(httparse::Status::Complete(end)) => {
                    // After a 101 the bytes are not HTTP any more.
                    if head.code == Some(101) {
                        break;
                    }
                    if head.code == Some(103) {
                        early.hints.push(read_headers(head.headers));
                    }
                    early.part.drain(..end);
                }
                Ok(httparse::Status::Partial) if early.part.len() <= MOST => return,
                Ok(httparse::Status::Partial) | Err(_) => break,
            }
        }
        early.part = Vec::new();
        self.awaiting.store(false, Ordering::Release);
    }
}

fn may_be_interim(data: &[u8]) -> bool {
    let n = data.len().min(INTERIM.len());
    data[..n] == INTERIM[..n]
}

fn read_headers(lines: &[httparse::Header<'_>]) -> HeaderMap {
    let line = |line: &httparse::Header<'_>| {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(line.value).ok()?))
    };
    let mut headers = HeaderMap::new();
    for (name, value) in lines.iter().filter_map(line) {
        headers.append(name, value);
    }
    headers
}

/// Parses a request without a body as hyper has written it.
fn read_request(bytes: &[u8]) -> Option<Request<()>> {
    let count = bytes.split(|b| *b == b'\n').count();
    let mut lines = vec![httparse::EMPTY_HEADER; count];
    let mut head = httparse::Request::new(&mut lines);
    let whole = head.parse(bytes).ok()?;
    if whole != httparse::Status::Complete(bytes.len()) {
        return None;
    }
    let mut request = Request::builder()
        .method(head.method?)
        .uri(head.path?)
        .body(())
        .ok()?;
    *request.headers_mut() = read_headers(head.headers);
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_hints_are_found_however_they_are_cut_and_nothing_after_the_answer_begins_is() {
        let all = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\n\r\n\
            HTTP/1.1 102 Processing\r\n\r\n\
            HTTP/1.1 103 Early Hints\r\nx: \xff\r\n\r\n\
            HTTP/1.1 200 OK\r\ncontent-length: 31\r\n\r\n\
            HTTP/1.1 103 E\r\nlink: no\r\n\r\n";
        for at in 1..all.len() {
            let send_state = SendState::default();
            send_state.begin(false);
            let mut hints = Vec::new();
            for part in [&all[..at], &all[at..]] {
                send_state.received(part);
                hints.extend(send_state.early_hints());
            }
            assert_eq!(hints.len(), 2, "cut at {at}");
            let links: Vec<_> = hints[0].get_all("link").iter().collect();
            assert_eq!(links, ["</a>", "</b>"]);
            assert_eq!(hints[1]["x"].as_bytes(), b"\xff");
        }
    }

    #[test]
    fn a_request_is_there_again_until_its_answer_begins() {
        let head = b"PUT /a?b=%20 HTTP/1.1\r\nhost: x\r\nx-b: \xfe\r\ncontent-length: 0\r\n\r\n";
        let send_state = SendState::default();
        send_state.begin(true);
        send_state.written(&head[..9]);
        assert!(
            send_state.unanswered().is_none(),
            "not all of it was written"
        );
        send_state.begin(true);
        send_state.written(&head[..9]);
        send_state.written(&head[9..]);
        let again = send_state.unanswered().expect("it can be read");
        assert_eq!(
            (again.method(), again.uri()),
            (&http::Method::PUT, &"/a?b=%20".parse().expect("a path"))
        );
        assert_eq!(again.headers()["x-b"].as_bytes(), b"\xfe");
        assert_eq!(again.headers().len(), 3);
        assert!(send_state.unanswered().is_none(), "once");
        send_state.begin(true);
        send_state.written(head);
        send_state.received(b"H");
        assert!(send_state.unanswered().is_none(), "an answer has begun");
        send_state.begin(false);
        send_state.written(head);
        assert!(send_state.unanswered().is_none());
    }
}
