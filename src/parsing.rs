//! Where what tenants send is read: archives, schemas, ignore files.
//!
//! Reading takes as long as its input makes it, within the input's bounds. So it is done on threads
//! that carry no connection and write no store, a bounded number at a time, of which one
//! organization gets half at most. It ends when whoever asked has left, and when the platform
//! stops; a stop does not wait for it.

use tokio_util::sync::CancellationToken;

use crate::{
    model::{AppId, Failure, Reason, work::Cancelled},
    places::Places,
};

/// Places to read in; clones share them.
#[derive(Clone)]
pub struct Parsing {
    places: Places,
    stop: CancellationToken,
}

impl Parsing {
    /// So many at once, at least one, half of them for one organization.
    pub fn new(at_once: usize) -> Self {
        Self::of(at_once, at_once / 2)
    }

    /// So many at once, for whoever comes: those who come have been shared out elsewhere.
    pub fn unshared(at_once: usize) -> Self {
        Self::of(at_once, at_once)
    }

    fn of(at_once: usize, share: usize) -> Self {
        Self {
            places: Places::new(at_once.max(1), share.max(1)),
            stop: CancellationToken::new(),
        }
    }

    /// Reads something for an app, once there is a place. `work` has to ask often whether
    /// it was called off.
    ///
    /// # Errors
    /// What `work` says; SHUTTING_DOWN.
    ///
    /// # Cancel safety
    /// Dropped, the work is called off. Its place is free when it has ended.
    pub async fn run<T: Send + 'static>(
        &self,
        app: &AppId,
        work: impl FnOnce(Cancelled<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let token = self.stop.child_token();
        let _left = token.clone().drop_guard();
        let read = async {
            let place = self.places.acquire(app).await;
            let done = tokio::task::spawn_blocking(move || {
                let done = work(&|| token.is_cancelled());
                // With the work, not with whoever waits for it.
                drop(place);
                done
            });
            done.await.unwrap_or_else(|_| {
                Err(Failure::new(
                    Reason::Internal,
                    "what was sent could not be read by a fault of the platform; its log has the cause",
                ))
            })
        };
        let done = self.stop.run_until_cancelled(read).await;
        // Work that was called off may end before this hears of the stop.
        done.filter(|_| !self.stop.is_cancelled())
            .unwrap_or_else(|| Err(stopping()))
    }

    /// Calls off what is being read, and all that comes from now on.
    pub fn stop(&self) {
        self.stop.cancel();
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

    fn of(org: &str) -> AppId {
        format!("{org}/app").parse().expect("a name")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_ends_when_nobody_waits_any_more_and_when_the_platform_stops() {
        let parsing = Parsing::new(2);
        let (tell, told) = mpsc::channel();
        for ending in ["left", "stop"] {
            let (reader, tell) = (parsing.clone(), tell.clone());
            let task = tokio::spawn(async move { reader.run(&of("a"), endless(tell)).await });
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
        let late = parsing.run(&of("a"), |_| Ok(())).await;
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
                reader.run(&of("greedy"), endless(tell)).await
            }));
        }
        assert_eq!(told.recv(), Ok("begun"));
        assert_eq!(parsing.run(&of("other"), |_| Ok(1)).await.ok(), Some(1));
        assert!(told.try_recv().is_err(), "it has more than its share");
        greedy.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
