//! Threads that parse tenants' input: archives, schemas, ignore files.
//!
//! Parsing takes as long as its input demands, within the input's bounds. So it runs on threads
//! that carry no connection and write no store, and that get a CPU after those that do; a bounded
//! number at a time, at most half of them for one organization. It is cancelled when its caller
//! leaves or the platform stops; a stop does not wait for it.

use std::{io, thread};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    fair_limiter::FairLimiter,
    model::{AppId, Failure, Reason, work::Cancelled},
};

/// The niceness of a parsing thread: beside one that carries requests it gets a tenth of a CPU
/// (Linux, `sched(7)`), and all of it while no other needs it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NICENESS: i32 = 10;

/// Threads that parse tenants' input, a bounded number at once; clones share the bound.
#[derive(Clone)]
pub struct Parsing {
    limiter: FairLimiter,
    stop: CancellationToken,
}

impl Parsing {
    /// At most `at_once` threads, and at least one; one organization gets half at most.
    pub fn new(at_once: usize) -> Self {
        Self::of(at_once, at_once / 2)
    }

    /// At most `at_once` threads, without a bound per organization: the caller shares them out.
    pub fn unshared(at_once: usize) -> Self {
        Self::of(at_once, at_once)
    }

    fn of(at_once: usize, share: usize) -> Self {
        Self {
            limiter: FairLimiter::new(at_once.max(1), share.max(1)),
            stop: CancellationToken::new(),
        }
    }

    /// Parses something for an app, once it gets a permit. `work` has to check often whether it was
    /// cancelled.
    ///
    /// # Errors
    /// The error of `work`; SHUTTING_DOWN.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the work. Its permit is free once it has ended.
    pub async fn run<T: Send + 'static>(
        &self,
        app: &AppId,
        work: impl FnOnce(Cancelled<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let token = self.stop.child_token();
        let _left = token.clone().drop_guard();
        let read = async {
            let permit = self.limiter.acquire(app).await;
            let done = start(move || {
                let done = work(&|| token.is_cancelled());
                // The permit is released by the work, not by its caller, who may have left.
                drop(permit);
                done
            })
            .map_err(|e| no_thread(&e))?;
            done.await.unwrap_or_else(|_| {
                Err(Failure::new(
                    Reason::Internal,
                    "the input could not be parsed because of a fault of the platform; its log has the cause",
                ))
            })
        };
        let done = self.stop.run_until_cancelled(read).await;
        // Cancelled work may end before this task hears of the stop.
        done.filter(|_| !self.stop.is_cancelled())
            .unwrap_or_else(|| Err(stopping()))
    }

    /// Cancels all current and future parsing.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

/// Runs work on a new thread, since a thread that has lowered its priority may not be allowed to
/// raise it again.
///
/// # Errors
/// When the system gives no thread.
fn start<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (done, ended) = oneshot::channel();
    thread::Builder::new()
        .name("parse".to_owned())
        .spawn(move || {
            lower_priority();
            // Fails when the caller has left.
            let _ = done.send(work());
        })?;
    Ok(ended)
}

/// Lowers this thread's priority. On systems other than Linux niceness belongs to the whole
/// process.
fn lower_priority() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "A parsing thread keeps its normal priority");
    }
}

fn no_thread(error: &io::Error) -> Failure {
    Failure::new(
        Reason::Internal,
        "the input could not be parsed, since the system gives the platform no more threads; try again, or have its limit of processes raised (ulimit -u, TasksMax=)",
    )
    .with_detail(error.to_string())
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

    /// Work that runs until it is cancelled; reports its beginning and its end.
    fn endless(
        report: mpsc::Sender<&'static str>,
    ) -> impl FnOnce(Cancelled<'_>) -> Result<(), Failure> {
        move |cancelled| {
            let _ = report.send("begun");
            while !cancelled() {
                std::thread::yield_now();
            }
            let _ = report.send("ended");
            Ok(())
        }
    }

    fn of(org: &str) -> AppId {
        format!("{org}/app").parse().expect("a name")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_ends_when_nobody_waits_any_more_and_when_the_platform_stops() {
        let parsing = Parsing::new(2);
        let (report, reports) = mpsc::channel();
        for ending in ["left", "stop"] {
            let (reader, report) = (parsing.clone(), report.clone());
            let task = tokio::spawn(async move { reader.run(&of("a"), endless(report)).await });
            assert_eq!(reports.recv(), Ok("begun"));
            match ending {
                "left" => task.abort(),
                _ => {
                    parsing.stop();
                    let refused = task.await.expect("no panic").expect_err("called off");
                    assert_eq!(refused.reason, Reason::ShuttingDown);
                }
            }
            assert_eq!(reports.recv(), Ok("ended"), "{ending}");
        }
        let late = parsing.run(&of("a"), |_| Ok(())).await;
        assert!(late.is_err_and(|f| f.reason == Reason::ShuttingDown));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn whoever_reads_gives_way_to_all_others_and_they_stay_as_they_are() {
        let niceness = || rustix::process::getpriority_process(None).expect("it is known");
        let before = niceness();
        let read = Parsing::new(1).run(&of("a"), move |_| Ok(niceness())).await;
        assert_eq!(read.ok(), Some((before + NICENESS).min(19)));
        assert_eq!(niceness(), before);
    }

    #[tokio::test]
    async fn a_panic_frees_its_permit_and_is_the_fault_of_the_platform() {
        let parsing = Parsing::new(1);
        let failed = parsing.run::<()>(&of("a"), |_| panic!("a fault")).await;
        assert!(failed.is_err_and(|f| f.reason == Reason::Internal));
        assert_eq!(parsing.run(&of("b"), |_| Ok(1)).await.ok(), Some(1));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_organization_leaves_a_permit_to_others() {
        let parsing = Parsing::new(2);
        let (report, reports) = mpsc::channel();
        let mut greedy = Vec::new();
        for _ in 0..10 {
            let (reader, report) = (parsing.clone(), report.clone());
            greedy.push(tokio::spawn(async move {
                reader.run(&of("greedy"), endless(report)).await
            }));
        }
        assert_eq!(reports.recv(), Ok("begun"));
        assert_eq!(parsing.run(&of("other"), |_| Ok(1)).await.ok(), Some(1));
        assert!(reports.try_recv().is_err(), "it has more than its share");
        greedy.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
