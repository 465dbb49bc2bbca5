//! What goes over one HTTP/1.1 connection to a replica, beside hyper, which keeps no request that
//! it has written and tells of no answer that does not begin.
//!
//! Of a request that may be sent again the bytes are kept until the first of the answer comes: a
//! copy into memory that the connection has anyway, so that the way of a request that goes well
//! allocates nothing. It is read again only when the connection broke.

use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use parking_lot::Mutex;

/// What is kept of a request, or of an interim answer that has not come whole.
const MOST: usize = 64 * 1024;
/// Memory that a connection keeps for its next request.
const KEPT: usize = 4 * 1024;
/// What an interim answer starts with.
const INTERIM: &[u8] = b"HTTP/1.1 1";
/// Header lines of interim answers that are passed on.
const HINTS: usize = 64;

/// What is being sent and received on one connection. All of it is touched by the task that drives
/// the connection; the lock is for the moment in which that changes.
#[derive(Debug, Default)]
pub(super) struct SendState {
    /// A client's body is being sent.
    sending: AtomicBool,
    /// What is written is kept in `request`.
    recording: AtomicBool,
    /// No answer has begun yet.
    awaiting: AtomicBool,
    request: Mutex<Vec<u8>>,
    /// `early` has something in it.
    interim: AtomicBool,
    early: Mutex<Early>,
}

/// Interim answers.
#[derive(Debug, Default)]
struct Early {
    /// One of which more is to come.
    part: Vec<u8>,
    hints: Vec<HeaderMap>,
}

impl SendState {
    /// A streamed body begins, or has left hyper's hands.
    pub(super) fn set_sending(&self, sending: bool) {
        self.sending.store(sending, Ordering::Release);
    }

    /// Whether a streamed body is still being sent.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Acquire)
    }

    /// The next request begins; whether it is kept until its answer begins.
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

    /// These bytes were written.
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

    /// These bytes were read.
    pub(super) fn received(&self, data: &[u8]) {
        if !self.awaiting.load(Ordering::Acquire) {
            return;
        }
        self.recording.store(false, Ordering::Release);
        if self.interim.load(Ordering::Acquire) || may_be_interim(data) {
            self.look_for_hints(data);
        } else {
            self.awaiting.store(false, Ordering::Release);
        }
    }

    /// The request to which not a byte of an answer has come, if it was kept.
    pub(super) fn unanswered(&self) -> Option<Request<()>> {
        if !self.recording.swap(false, Ordering::AcqRel) {
            return None;
        }
        read_request(&self.request.lock())
    }

    /// The headers of `103 Early Hints` that have come since.
    pub(super) fn early_hints(&self) -> Vec<HeaderMap> {
        if !self.interim.load(Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut self.early.lock().hints)
    }

    /// hyper reads the same bytes and skips what is found here.
    fn look_for_hints(&self, data: &[u8]) {
        let mut early = self.early.lock();
        let early = &mut *early;
        self.interim.store(true, Ordering::Release);
        early.part.extend_from_slice(data);
        while may_be_interim(&early.part) {
            if early.part.is_empty() {
                // The next answer may be one, too.
                return;
            }
            let mut lines = [httparse::EMPTY_HEADER; HINTS];
            let mut head = httparse::Response::new(&mut lines);
            match head.parse(&early.part) {
                Ok(httparse::Status::Complete(end)) => {
                    // After a 101 nothing is HTTP any more.
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

/// A request without a body as hyper has written it.
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
