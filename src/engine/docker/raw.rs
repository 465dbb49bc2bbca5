//! One request to an engine's socket file, for what the client library has no call for.

use std::path::Path;

use bollard::errors::Error as ClientError;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Most bytes of an answer that are read; an engine's description of itself has some 20 KB.
const MAX_ANSWER: usize = 4 << 20;

/// Sends a request with a JSON body, and reads the whole answer.
pub(super) async fn request(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), ClientError> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|cause| ClientError::IOError {
            err: std::io::Error::other(cause),
        })?;
        Ok::<_, ClientError>((status, body.to_bytes()))
    };
    let carried = async {
        // An error of the connection is reported by the exchange, too.
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = exchange => done,
        () = carried => unreachable!("it never ends"),
    }
}
