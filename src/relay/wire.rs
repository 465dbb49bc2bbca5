//! How both ends use HTTP/2: the limits of the connection, and what a stream is for.

use std::{io, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use h2::{Ping, PingPong, RecvStream, client, server};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use super::{Asked, Limits, Transport};

/// Bytes that one direction of a connection may have on the way: 40 MB/s over a line that takes
/// 3 ms, as to an engine in a virtual machine.
pub(super) const WINDOW: u32 = 128 << 10;
/// Bytes of a frame, and of a connection that are written and not yet sent. Engines copy as much at
/// a time.
pub(super) const FRAME: u32 = 32 << 10;
/// The largest window that there is.
const MAX_WINDOW: usize = (1 << 31) - 1;
/// Most bytes of a stream's head.
const MAX_HEAD: u32 = 16 << 10;
/// The longest message of DNS.
pub(super) const MESSAGE: usize = u16::MAX as usize;
/// Time between two pings. A side whose other end vanished without a word learns it by them.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Longest time for the answer to one.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

const PEER: HeaderName = HeaderName::from_static("peer");
const AT: HeaderName = HeaderName::from_static("at");
const NAMES: HeaderName = HeaderName::from_static("names");
const READY: &str = "http://relay/ready";
const CONNECTION: &str = "http://relay/connection";
const UDP: &str = "http://relay/query/udp";
const TCP: &str = "http://relay/query/tcp";

/// Where a relay listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listens {
    /// Where names are asked for.
    pub names: Option<SocketAddr>,
    /// The listeners for connections, in the order of the plan, and the further ones after them.
    pub connections: Vec<SocketAddr>,
}

/// What a stream is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The first one: the relay listens.
    Ready(Listens),
    /// A connection.
    Connection {
        /// Who connected.
        peer: SocketAddr,
        /// To which of the listeners' addresses.
        at: SocketAddr,
    },
    /// A query of a name.
    Query(Asked),
}

impl Purpose {
    /// The head of a stream for this.
    pub(super) fn request(&self) -> Request<()> {
        let mut request = Request::new(());
        let headers = request.headers_mut();
        let uri = match self {
            Self::Ready(Listens { names, connections }) => {
                headers.extend(names.map(|at| (NAMES, value(at))));
                for at in connections {
                    headers.append(AT, value(*at));
                }
                READY
            }
            Self::Connection { peer, at } => {
                headers.extend([(PEER, value(*peer)), (AT, value(*at))]);
                CONNECTION
            }
            Self::Query(Asked { peer, at, over }) => {
                headers.extend([(PEER, value(*peer)), (AT, value(*at))]);
                match over {
                    Transport::Udp => UDP,
                    Transport::Tcp => TCP,
                }
            }
        };
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(uri);
        request
    }

    /// Reads the head of a stream; `None` for one of another release.
    pub(super) fn of<T>(request: &Request<T>) -> Option<Self> {
        let headers = request.headers();
        let query = |over| {
            let (peer, at) = ends(headers)?;
            Some(Self::Query(Asked { peer, at, over }))
        };
        match request.uri().path() {
            "/ready" => Some(Self::Ready(Listens {
                names: addresses(headers, &NAMES)?.first().copied(),
                connections: addresses(headers, &AT)?,
            })),
            "/connection" => {
                let (peer, at) = ends(headers)?;
                Some(Self::Connection { peer, at })
            }
            "/query/udp" => query(Transport::Udp),
            "/query/tcp" => query(Transport::Tcp),
            _ => None,
        }
    }
}

fn value(addr: SocketAddr) -> HeaderValue {
    HeaderValue::try_from(addr.to_string()).expect("addresses are visible ASCII")
}

fn addresses(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<SocketAddr>> {
    let all = headers.get_all(name).iter();
    all.map(|text| text.to_str().ok()?.parse().ok()).collect()
}

fn ends(headers: &HeaderMap) -> Option<(SocketAddr, SocketAddr)> {
    let one = |name| addresses(headers, name)?.first().copied();
    Some((one(&PEER)?, one(&AT)?))
}

/// HTTP/2 as the relay speaks it.
pub(super) fn client(limits: Limits) -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(all_windows(limits))
        .max_frame_size(FRAME)
        .max_header_list_size(MAX_HEAD)
        .max_send_buffer_size(FRAME as usize)
        .max_local_error_reset_streams(None)
        .enable_push(false);
    builder
}

/// HTTP/2 as the server speaks it.
pub(super) fn server(limits: Limits) -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(all_windows(limits))
        .max_concurrent_streams(u32::try_from(limits.streams()).unwrap_or(u32::MAX))
        .max_frame_size(FRAME)
        .max_header_list_size(MAX_HEAD)
        .max_send_buffer_size(FRAME as usize)
        // Whoever connects and leaves at once must not end what all others have.
        .max_pending_accept_reset_streams(limits.streams())
        .max_local_error_reset_streams(None);
    builder
}

/// As large as the windows of all streams: one that is not read holds up no other.
fn all_windows(limits: Limits) -> u32 {
    let all = limits.streams().saturating_mul(WINDOW as usize);
    u32::try_from(all.min(MAX_WINDOW)).expect("it is less")
}

/// Pings the other end; returns once it does not answer.
pub(super) async fn keep_alive(mut pings: PingPong) -> io::Error {
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        match tokio::time::timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return broken(error),
            Err(_) => {
                return io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("the other end has not answered for {PING_TIMEOUT:?}"),
                );
            }
        }
    }
}

/// Reads all of a short body.
pub(super) async fn message(mut body: RecvStream) -> io::Result<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(broken)?;
        if whole.len() + part.len() > MESSAGE {
            return Err(io::Error::other("a message is longer than messages can be"));
        }
        // An error means that the stream has ended, and the next part says how.
        let _ = body.flow_control().release_capacity(part.len());
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

/// The error of a connection whose stream broke.
pub(super) fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().expect("it is one")
    } else {
        io::Error::new(io::ErrorKind::ConnectionReset, error)
    }
}
