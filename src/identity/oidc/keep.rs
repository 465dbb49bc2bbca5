//! Keeps the keys of issuers up to date in the background, and a copy of them for the next start.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep, sleep_until};

use super::{fetch::Client, jwks};
use crate::{
    backoff::Backoff,
    config::Issuer,
    identity::{
        folder,
        trust::{Foreign, Key},
        verifier::Verifier,
    },
    model::hex,
};

/// Least time between two fetches from an issuer.
const LEAST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause after a fetch that failed.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The issuers as they are at a start, with the keys that were kept.
pub(in crate::identity) fn remembered<'a>(
    data_dir: &Path,
    issuers: impl Iterator<Item = &'a Issuer>,
) -> Vec<Foreign> {
    let of = |issuer: &Issuer| {
        let kept = folder::read(&copy_of(data_dir, issuer)).ok().flatten();
        let keys = kept.and_then(|bytes| jwks::parse(&bytes).ok());
        Foreign {
            issuer: Arc::new(issuer.clone()),
            keys: Arc::new(keys.unwrap_or_default()),
        }
    };
    issuers.map(of).collect()
}

/// Where a copy of an issuer's keys is kept.
fn copy_of(data_dir: &Path, issuer: &Issuer) -> PathBuf {
    let name = hex::encode(&Sha256::digest(&issuer.url)[..16]);
    folder::path(data_dir)
        .join("issuers")
        .join(format!("{name}.json"))
}

/// Keeps the keys of one issuer up to date, for ever.
pub(in crate::identity) async fn keep(
    verifier: Arc<Verifier>,
    index: usize,
    client: Client,
    data_dir: PathBuf,
    refresh: Duration,
) {
    let issuer = verifier.trust().foreign[index].issuer.clone();
    let fetches = verifier.fetches()[index].clone();
    let copy = copy_of(&data_dir, &issuer);
    let mut known = Vec::new();
    let retries = || Backoff::new(LEAST_PAUSE, LONGEST_RETRY);
    let mut failing: Option<Backoff> = None;
    loop {
        let began = Instant::now();
        fetches.begin();
        let fetched = client.keys(&issuer.url).await;
        let pause = match fetched {
            Ok((keys, text)) => {
                if failing.take().is_some() {
                    tracing::info!(issuer = issuer.url, "The issuer answers again");
                }
                // What was found under the same keys holds on.
                if text != known {
                    take(&verifier, index, keys);
                    store(copy.clone(), text.clone()).await;
                    known = text;
                }
                refresh
            }
            Err(error) => {
                if failing.is_none() {
                    tracing::warn!(
                        issuer = issuer.url,
                        error = format!("{error:#}"),
                        "The keys of an issuer cannot be fetched; those that are known are used meanwhile"
                    );
                }
                failing.get_or_insert_with(retries).next_wait().min(refresh)
            }
        };
        fetches.end();
        tokio::select! {
            () = sleep(pause) => {}
            () = fetches.wanted() => sleep_until(began + LEAST_PAUSE).await,
        }
    }
}

/// Has tokens be checked against these keys from now on.
fn take(verifier: &Verifier, index: usize, keys: HashMap<String, Key>) {
    let keys = Arc::new(keys);
    verifier.replace(|trust| {
        let mut foreign = trust.foreign.clone();
        foreign[index].keys = keys;
        trust.with(foreign)
    });
}

/// Keeps a copy for the next start. Without it, that start waits for the issuer.
async fn store(path: PathBuf, text: Vec<u8>) {
    let stored = tokio::task::spawn_blocking(move || folder::write(&path, &text));
    if let Ok(Err(error)) = stored.await {
        tracing::warn!(%error, "The keys of an issuer could not be kept for the next start");
    }
}
