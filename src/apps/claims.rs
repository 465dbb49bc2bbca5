//! Claims: the newest publish, rollback or delete of an app supersedes the ones before it.
//!
//! A publish waits for a replica for as long as a start may take, and holds its app's deploy lock
//! meanwhile. The next operation must not queue behind that wait, least of all the one that repairs
//! an app that cannot start. So each operation claims the app before it waits for the lock, and
//! that cancels the waits of the operation that held the claim before.

use std::{collections::HashMap, future::Future};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::model::{AppId, Failure, Reason};

/// The newest claim of each app.
pub(super) struct Claims {
    /// Cancels all waits.
    stopping: CancellationToken,
    newest: Mutex<HashMap<AppId, CancellationToken>>,
}

/// The claim of one operation on its app, dropped when the operation ends.
pub(super) struct Claim {
    app: AppId,
    stopping: CancellationToken,
    /// Cancelled by the next claim.
    cancelled: CancellationToken,
}

impl Claims {
    pub(super) fn new(stopping: CancellationToken) -> Self {
        Self {
            stopping,
            newest: Mutex::default(),
        }
    }

    /// Claims the app and cancels the previous claim.
    pub(super) fn make(&self, app: &AppId) -> Claim {
        let cancelled = self.stopping.child_token();
        let mut newest = self.newest.lock();
        // Drops the claims of operations that have ended.
        newest.retain(|_, claim| !claim.is_cancelled());
        if let Some(before) = newest.insert(app.clone(), cancelled.clone()) {
            before.cancel();
        }
        Claim {
            app: app.clone(),
            stopping: self.stopping.clone(),
            cancelled,
        }
    }
}

impl Claim {
    /// Runs work that may take as long as a pull or a start, until another operation claims the app
    /// or the platform stops.
    ///
    /// # Errors
    /// ABORTED or SHUTTING_DOWN in these cases; else the error of the work.
    pub(super) async fn wait<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let outcome = self.cancelled.run_until_cancelled(work).await;
        outcome.unwrap_or_else(|| {
            if self.stopping.is_cancelled() {
                return Err(stopping());
            }
            Err(Failure::new(
                Reason::Aborted,
                format!(
                    "another publish, rollback or delete of app {} came between, so this one has changed nothing; try again if it is still wanted",
                    self.app
                ),
            ))
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.cancelled.cancel();
    }
}

/// The failure of work that the platform's stop cancelled.
pub(super) fn stopping() -> Failure {
    Failure::new(
        Reason::ShuttingDown,
        "the platform is stopping, nothing has changed; try again when it is back",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_claim_ends_the_waits_of_the_one_before_of_its_app() {
        let stop = CancellationToken::new();
        let claims = Claims::new(stop.clone());
        let id = |text: &str| text.parse::<AppId>().expect("valid");
        let for_ever = std::future::pending::<Result<(), Failure>>;
        let other = claims.make(&id("o/b"));
        let first = claims.make(&id("o/a"));
        let (waited, second) = tokio::join!(first.wait(for_ever()), async {
            tokio::task::yield_now().await;
            claims.make(&id("o/a"))
        });
        let failure = waited.expect_err("called off");
        assert_eq!(failure.reason, Reason::Aborted);
        assert!(
            failure.message.contains("app o/a came between"),
            "{failure}"
        );
        // The end of the first claim affects neither the second nor another app.
        drop(first);
        second.wait(async { Ok(()) }).await.expect("goes on");
        other.wait(async { Ok(()) }).await.expect("goes on");
        drop(second);
        let third = claims.make(&id("o/a"));
        assert_eq!(claims.newest.lock().len(), 2, "what has ended is forgotten");
        stop.cancel();
        let failure = third.wait(for_ever()).await.expect_err("stops");
        assert_eq!(failure.reason, Reason::ShuttingDown);
    }
}
