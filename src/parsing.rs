//! Where what tenants send is read: archives, schemas, ignore files.
//!
//! Reading takes as long as its input makes it, within the input's bounds. So it is done on threads
//! that carry no connection and write no store, a bounded number at a time, of which one
//! organization gets half at most. It ends when whoever asked has left, and when the platform
//! stops; a stop does not wait for it.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::model::{Failure, OrgName, Reason, work::Cancelled};

/// Places to read in; clones share them.
#[derive(Debug, Clone)]
pub struct Parsing {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    places: Arc<Semaphore>,
    /// Places that one organization may have.
    share: usize,
    orgs: Mutex<HashMap<OrgName, Weak<Semaphore>>>,
    stop: CancellationToken,
}

impl Parsing {
    /// So many at once, at least one, half of them for one organization.
    pub fn new(at_once: usize) -> Self {
        Self::shared(at_once, at_once / 2)
    }

    /// So many at once, for whoever comes: those who come have been shared out elsewhere.
    pub fn unshared(at_once: usize) -> Self {
        Self::shared(at_once, at_once)
    }

    fn shared(at_once: usize, share: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                places: Arc::new(Semaphore::new(at_once.max(1))),
                share: share.max(1),
                orgs: Mutex::default(),
                stop: CancellationToken::new(),
            }),
        }
    }

    /// Reads something for an organization, once there is a place. `work` has to ask often whether
    /// it was called off.
    ///
    /// # Errors
    /// What `work` says; SHUTTING_DOWN.
    ///
    /// # Cancel safety
    /// Dropped, the work is called off. Its place is free when it has ended.
    pub async fn run<T: Send + 'static>(
        &self,
        org: &OrgName,
        work: impl FnOnce(Cancelled<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let shared = &self.shared;
        let token = shared.stop.child_token();
        let _left = token.clone().drop_guard();
        let read = async {
            let share = self.share_of(org).acquire_owned().await;
            let place = shared.places.clone().acquire_owned().await;
            let done = tokio::task::spawn_blocking(move || {
                let done = work(&|| token.is_cancelled());
                // With the work, not with whoever waits for it.
                drop((share, place));
                done
            });
            done.await.unwrap_or_else(|_| {
                Err(Failure::new(
                    Reason::Internal,
                    "what was sent could not be read by a fault of the platform; its log has the cause",
                ))
            })
        };
        let done = shared.stop.run_until_cancelled(read).await;
        // Work that was called off may end before this hears of the stop.
        done.filter(|_| !shared.stop.is_cancelled())
            .unwrap_or_else(|| Err(stopping()))
    }

    /// Calls off what is being read, and all that comes from now on.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }

    fn share_of(&self, org: &OrgName) -> Arc<Semaphore> {
        let mut orgs = self.shared.orgs.lock();
        if let Some(share) = orgs.get(org).and_then(Weak::upgrade) {
            return share;
        }
        orgs.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.shared.share));
        orgs.insert(org.clone(), Arc::downgrade(&share));
        share
    }
}

fn stopping() -> Failure {
    Failure::new(
        Reason::ShuttingDown,
        "the platform is stopping and what was sent was not read; try again when it is back",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Work that goes on until it is called off; tells when it has begun and when it has ended.
    fn endless(
        told: mpsc::Sender<&'static str>,
    ) -> impl FnOnce(Cancelled<'_>) -> Result<(), Failure> {
        move |cancelled| {
            let _ = told.send("begun");
            while !cancelled() {
                std::thread::yield_now();
            }
            let _ = told.send("ended");
            Ok(())
        }
    }

    fn org(name: &str) -> OrgName {
        name.parse().expect("a name")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_ends_when_nobody_waits_any_more_and_when_the_platform_stops() {
        let parsing = Parsing::new(2);
        let (tell, told) = mpsc::channel();
        for ending in ["left", "stop"] {
            let (reader, tell) = (parsing.clone(), tell.clone());
            let task = tokio::spawn(async move { reader.run(&org("a"), endless(tell)).await });
            assert_eq!(told.recv(), Ok("begun"));
            match ending {
                "left" => task.abort(),
                _ => {
                    parsing.stop();
                    let refused = task.await.expect("no panic").expect_err("called off");
                    assert_eq!(refused.reason, Reason::ShuttingDown);
                }
            }
            assert_eq!(told.recv(), Ok("ended"), "{ending}");
        }
        let late = parsing.run(&org("a"), |_| Ok(())).await;
        assert!(late.is_err_and(|f| f.reason == Reason::ShuttingDown));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_organization_leaves_a_place_to_others() {
        let parsing = Parsing::new(2);
        let (tell, told) = mpsc::channel();
        let mut greedy = Vec::new();
        for _ in 0..10 {
            let (reader, tell) = (parsing.clone(), tell.clone());
            greedy.push(tokio::spawn(async move {
                reader.run(&org("greedy"), endless(tell)).await
            }));
        }
        assert_eq!(told.recv(), Ok("begun"));
        assert_eq!(parsing.run(&org("other"), |_| Ok(1)).await.ok(), Some(1));
        assert!(told.try_recv().is_err(), "it has more than its share");
        greedy.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
