//! Sending a request to a replica that is being thawed.
//!
//! The kernel accepts connections and data for a frozen process, so the request is sent before the
//! engine has answered, and the app finds it when it resumes. If the engine refuses the thaw, the
//! app has not run (and never will: a container whose thaw failed is killed while frozen, never
//! resumed), so a request whose body is still at hand can safely be sent elsewhere. Any other
//! failure leaves open whether the app ran, and the request is not sent twice. A request with a
//! streamed body is sent only once the replica is awake.

use std::{io, mem, sync::Arc, time::Duration};

use http::{Request, Response};
use tokio::sync::watch;

use super::upstream::{self, Answer, Body, Error, Interim, Pool};

/// How long a request waits for its own outcome once it is unknown whether the replica is awake.
/// Meanwhile the replica is killed, which breaks the connection, unless the engine does not answer
/// at all. A connect that gets no answer ends within this time, and proves that nothing was sent.
const LAST_WORD: Duration = Duration::from_secs(6);

/// How a thaw stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thaw {
    Pending,
    Awake,
    /// It was refused, and the container is frozen as before.
    Failed,
    /// It failed, and the app may have run nevertheless.
    Unknown,
}

pub(super) async fn send(
    thaw: watch::Receiver<Thaw>,
    pool: &Arc<Pool>,
    request: &mut Request<Body>,
    interim: Option<&dyn Interim>,
) -> Result<Response<Answer>, Error> {
    let Some(copy) = upstream::copy(request) else {
        return match end(thaw).await {
            Thaw::Awake => pool.exchange(request, interim).await,
            _ => Err(not_awake(pool, mem::take(request))),
        };
    };
    let failed = async {
        match end(thaw.clone()).await {
            Thaw::Failed => true,
            Thaw::Unknown => {
                tokio::time::sleep(LAST_WORD).await;
                false
            }
            Thaw::Awake | Thaw::Pending => std::future::pending().await,
        }
    };
    tokio::select! {
        outcome = pool.exchange(request, interim) => match outcome {
            // The connection broke, perhaps because the thaw failed; then the app has not seen the
            // request.
            Err(Error::Broke(cause)) => match end(thaw).await {
                Thaw::Failed => Err(not_awake(pool, copy)),
                _ => Err(Error::Broke(cause)),
            },
            // Nothing listens: the container has ended, as the thaw is about to find. A retry
            // before that would be granted this replica again.
            Err(refused @ Error::Connect { .. }) => {
                end(thaw).await;
                Err(refused)
            }
            other => other,
        },
        stayed_frozen = failed => Err(match stayed_frozen {
            true => not_awake(pool, copy),
            false => Error::Lost,
        }),
    }
}

async fn end(mut thaw: watch::Receiver<Thaw>) -> Thaw {
    thaw.wait_for(|state| *state != Thaw::Pending)
        .await
        .map_or(Thaw::Unknown, |state| *state)
}

fn not_awake(pool: &Pool, unsent: Request<Body>) -> Error {
    Error::Connect {
        addr: pool.addr(),
        cause: io::Error::other("the replica did not wake from standby"),
        unsent: Some(Box::new(unsent)),
    }
}
