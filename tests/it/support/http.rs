//! A small HTTP/1.1 client: any Host, trailers, chunks one by one, a drop in mid-flight. One
//! connection per request, closed when the request or its answer is dropped.

use std::{
    convert::Infallible,
    fmt, io,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, StatusCode,
    body::{Frame, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    task::AbortHandle,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

/// Why there is no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The connection could not be made.
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    /// The connection or the protocol broke.
    #[error("{0:?}")]
    Http(#[from] hyper::Error),
}

/// A request that is being put together.
pub(crate) struct Request {
    addr: SocketAddr,
    from: Option<IpAddr>,
    inner: hyper::Request<UnsyncBoxBody<Bytes, Infallible>>,
}

/// A request to `addr`; `path` may have a query.
pub(crate) fn request(addr: SocketAddr, method: Method, path: &str) -> Request {
    let inner = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, addr.to_string())
        .body(Full::default().boxed_unsync())
        .unwrap_or_else(|e| panic!("{path:?} is no request target: {e}"));
    Request {
        addr,
        from: None,
        inner,
    }
}

impl Request {
    /// Sends it from an address of this machine.
    pub(crate) fn from(mut self, address: IpAddr) -> Self {
        self.from = Some(address);
        self
    }

    /// Replaces the Host header.
    pub(crate) fn host(self, host: &str) -> Self {
        self.header(HOST.as_str(), host)
    }

    /// Sets a header, over an earlier one of this name.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a header name");
        self.inner
            .headers_mut()
            .insert(name, value.parse().expect("a header value"));
        self
    }

    /// Adds a header beside earlier ones of this name.
    pub(crate) fn add_header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a header name");
        self.inner
            .headers_mut()
            .append(name, value.parse().expect("a header value"));
        self
    }

    /// Sends this bearer token.
    pub(crate) fn token(self, token: &str) -> Self {
        self.header(AUTHORIZATION.as_str(), &format!("Bearer {token}"))
    }

    /// Sends a body with a length.
    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        *self.inner.body_mut() = Full::new(body.into()).boxed_unsync();
        self
    }

    /// Sends a JSON body.
    pub(crate) fn json(mut self, value: &Value) -> Self {
        self.inner
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body(value.to_string())
    }

    /// Sends a body without length, a chunk for each message, until the sender is dropped.
    pub(crate) fn body_from(mut self, chunks: mpsc::Receiver<Bytes>) -> Self {
        let frames = ReceiverStream::new(chunks).map(|chunk| Ok(Frame::data(chunk)));
        *self.inner.body_mut() = StreamBody::new(frames).boxed_unsync();
        self
    }

    /// Sends it and waits for the head of the answer.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, as a client does that leaves.
    pub(crate) async fn send(self) -> Result<Answer, Error> {
        let stream = match self.from {
            None => TcpStream::connect(self.addr).await?,
            Some(from) => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::new(from, 0))?;
                socket.connect(self.addr).await?
            }
        };
        stream.set_nodelay(true)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = Connection(tokio::spawn(connection).abort_handle());
        let (head, body) = sender.send_request(self.inner).await?.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            trailers: None,
            body,
            _connection: connection,
        })
    }
}

/// The task of one connection, which ends with this.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The head of an answer, and its body as it comes.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    trailers: Option<HeaderMap>,
    body: Incoming,
    _connection: Connection,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.status, self.headers)
    }
}

impl Answer {
    /// A header's text; `None` when it is missing.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("header text"))
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            match self.body.frame().await?.map(Frame::into_data) {
                Ok(Ok(data)) => return Some(Ok(data)),
                Ok(Err(frame)) => self.trailers = frame.into_trailers().ok(),
                Err(error) => return Some(Err(error.into())),
            }
        }
    }

    /// The rest of the body, and the trailers if there were any.
    pub(crate) async fn whole(mut self) -> Result<(Bytes, Option<HeaderMap>), Error> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await {
            body.extend_from_slice(&chunk?);
        }
        Ok((body.into(), self.trailers))
    }

    /// The rest of the body.
    ///
    /// # Panics
    /// When it breaks off.
    pub(crate) async fn bytes(self) -> Bytes {
        self.whole().await.expect("a whole body").0
    }

    /// The rest of the body as text.
    ///
    /// # Panics
    /// When it breaks off or is not UTF-8.
    pub(crate) async fn text(self) -> String {
        String::from_utf8(self.bytes().await.into()).expect("a body of text")
    }

    /// The rest of the body as JSON; null for an empty one.
    ///
    /// # Panics
    /// When it breaks off or is not JSON, with the body.
    pub(crate) async fn json(self) -> Value {
        let text = self.text().await;
        if text.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in the body {text:?}"))
    }
}
