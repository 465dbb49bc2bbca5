//! Address ranges of networks. The engine has few; once it has none left, those of networks that
//! nobody needs any more are freed, and a network is tried once more.

use std::{fmt, sync::Arc};

use bollard::models::{NetworkCreateRequest, NetworkCreateResponse};
use futures_util::future::BoxFuture;

use super::{Error, client::Client};

/// Frees ranges of instances that are gone: who knows of them stands above the engine.
#[derive(Clone)]
pub struct FreeRanges(Arc<FreeFn>);

type FreeFn = dyn Fn() -> BoxFuture<'static, usize> + Send + Sync;

impl FreeRanges {
    /// `free` returns how many it freed.
    pub fn new(free: impl Fn() -> BoxFuture<'static, usize> + Send + Sync + 'static) -> Self {
        Self(Arc::new(free))
    }
}

impl fmt::Debug for FreeRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FreeRanges")
    }
}

/// Makes a network, if need be in a range that had to be freed.
pub(super) async fn create_network(
    client: &Client,
    free: Option<FreeRanges>,
    call: &'static str,
    request: NetworkCreateRequest,
) -> Result<NetworkCreateResponse, Error> {
    let create = || {
        let request = request.clone();
        client.run(call, |docker| async move {
            docker.create_network(request).await
        })
    };
    match (create().await, free) {
        (Err(full), Some(FreeRanges(free))) if full.is_pool_used_up() => match free().await {
            0 => Err(full),
            freed => {
                tracing::warn!(
                    freed,
                    "The engine had no address range left for a network; removed those of instances that are gone"
                );
                create().await
            }
        },
        (made, _) => made,
    }
}
