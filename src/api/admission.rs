//! Admission of gRPC calls: a message is read only for a caller with a valid token.
//!
//! Messages may be as large as code is, and are read whole before a method sees them. So the token
//! is checked first, as the JSON gateway does for requests that have a body. Methods find the
//! caller in the extensions of the call and decide what it may do. The few methods that need no
//! token are read up to a smaller bound.

use std::{error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use tonic::{Status, body::Body};

use super::{
    buffers::{Buffers, Metered, Reserved},
    status::to_status,
};
use crate::{
    gateway::{Gateway, peer::ClientAddress},
    identity::Caller,
    model::{Failure, Reason},
};

/// The prefix of methods that need a token; reflection and gRPC's own health need none.
const OURS: &str = "/dodil.ignite.";
/// Needs no token either, by the contract, and is not counted, so that it answers during a flood.
const HEALTH: &str = "/dodil.ignite.v1.ComputeService/HealthCheck";
/// These need no token and are counted, since an answer has up to a megabyte.
const CATALOG: [&str; 2] = [
    "/dodil.ignite.v1.ComputeService/ListPublicCatalog",
    "/dodil.ignite.v1.ComputeService/GetPublicCatalogDetail",
];
/// Most bytes of the message of a call without a token: a few short fields.
const OPEN_BYTES: usize = 4096;
/// Longest time to read such a call.
const OPEN_TIME: Duration = Duration::from_secs(30);
/// The bytes of a message's prefix that hold its length.
const LENGTH: std::ops::Range<usize> = 1..5;

/// Whether a call is to one of gRPC's services (reflection, health), which need no token and may
/// stream.
fn is_foreign(path: &str) -> bool {
    !path.starts_with(OURS)
}

/// Whether a method of ours needs no token.
fn is_open(path: &str) -> bool {
    path == HEALTH || CATALOG.contains(&path)
}

/// Whether a call counts as one of those without a token, which are bounded in number and time.
pub(super) fn is_counted(path: &str) -> bool {
    is_foreign(path) || CATALOG.contains(&path)
}

/// Checks the token of a call, and puts the caller into its extensions.
///
/// # Errors
/// UNAUTHENTICATED, except for methods that need no token.
pub(super) fn admit<B>(
    gateway: &Gateway,
    call: &mut Request<B>,
    from: ClientAddress,
) -> Result<(), Failure> {
    call.extensions_mut().insert(from);
    let path = call.uri().path();
    if !is_foreign(path) && !is_open(path) {
        let caller = gateway.caller(call.headers(), from.0)?;
        call.extensions_mut().insert(caller);
    }
    Ok(())
}

/// The call with a body that is counted as it arrives; the body of a method that needs no token is
/// read here, since tonic would allocate as much as the message claims to hold. The caller keeps
/// the reservation until the call is answered.
///
/// # Errors
/// BODY_TOO_LARGE, TOO_MANY_REQUESTS, or why the body broke off.
pub(super) async fn bounded<B>(
    call: Request<B>,
    buffers: &Buffers,
) -> Result<(Request<Body>, Option<Arc<Reserved>>), Status>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (head, body) = call.into_parts();
    if is_foreign(head.uri.path()) {
        return Ok((Request::from_parts(head, Body::new(body)), None));
    }
    if !is_open(head.uri.path()) {
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let caller = head.extensions.get::<Arc<Caller>>();
        let reserved = buffers.reserve(caller.and_then(|c| c.orgs.first()), announced);
        let reserved = Arc::new(reserved.map_err(|failure| to_status(&failure, false))?);
        let body = Metered::new(body, reserved.clone(), announced);
        return Ok((Request::from_parts(head, Body::new(body)), Some(reserved)));
    }
    let read = Limited::new(body, OPEN_BYTES).collect();
    let Ok(read) = tokio::time::timeout(OPEN_TIME, read).await else {
        return Err(to_status(&too_slow(), false));
    };
    let body = read.map_err(|e| {
        if e.is::<LengthLimitError>() {
            to_status(&too_long(), false)
        } else {
            Status::from_error(e)
        }
    })?;
    let body = body.to_bytes();
    let says = body.get(LENGTH).and_then(|n| n.try_into().ok());
    if says.is_some_and(|n| u32::from_be_bytes(n) as usize > OPEN_BYTES) {
        return Err(to_status(&too_long(), false));
    }
    Ok((Request::from_parts(head, Body::new(Full::new(body))), None))
}

fn too_long() -> Failure {
    Failure::new(
        Reason::BodyTooLarge,
        format!(
            "the message of a call that needs no token is over {OPEN_BYTES} bytes; its few fields are short"
        ),
    )
}

fn too_slow() -> Failure {
    Failure::new(
        Reason::ClientTooSlow,
        format!("the message of a call that needs no token did not come within {OPEN_TIME:?}"),
    )
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tonic::Code;

    use super::*;
    use crate::api::status::ERROR_HEADER;

    /// How many bytes of a call pass whose message claims `says` bytes, of which `sent` follow.
    async fn read(path: &str, says: u32, sent: usize) -> Result<usize, Status> {
        let mut head = vec![0];
        head.extend(says.to_be_bytes());
        // The prefix arrives in pieces.
        let pieces = [head.split_off(3), vec![0; sent / 2], vec![0; sent / 2]];
        let frames = std::iter::once(head).chain(pieces);
        let frames = frames.map(|data| Ok::<_, Infallible>(Frame::data(Bytes::from(data))));
        let call = Request::post(path).body(StreamBody::new(stream::iter(frames)));
        let buffers = Buffers::new(1 << 20, 1 << 20, Duration::ZERO);
        let (call, _reserved) = bounded(call.expect("a call"), &buffers).await?;
        let body = call.into_body().collect().await?;
        Ok(body.to_bytes().len())
    }

    #[tokio::test]
    async fn a_stranger_cannot_have_a_long_message_buffered() {
        for open in [HEALTH, CATALOG[0], CATALOG[1]] {
            assert_eq!(read(open, 0, 0).await.expect("read"), 5);
            assert_eq!(read(open, 2048, 2048).await.expect("read"), 2053);
            for (says, sent) in [(8192, 8192), (40 << 20, 8192), (40 << 20, 2)] {
                let refused = read(open, says, sent).await.expect_err("too long");
                assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
                let reason = refused.metadata().get(ERROR_HEADER).expect("a reason");
                assert_eq!(reason, Reason::BodyTooLarge.as_str());
            }
        }
        let other = "/dodil.ignite.v1.ComputeService/SaveDraft";
        assert_eq!(read(other, 8192, 8192).await.expect("read"), 8197);
    }
}
