//! The committer's answers on their way to whoever asked.

use std::future::Future;

use tokio::sync::{mpsc, oneshot};

use super::{Submitted, committer::Changed};
use crate::model::Failure;

/// An answer on its way to whoever asked.
pub(super) enum Answer {
    Submitted(
        oneshot::Sender<Result<Submitted, Failure>>,
        Result<Submitted, Failure>,
    ),
    Changed(oneshot::Sender<Changed>, Changed),
    Forgotten(oneshot::Sender<Result<(), Failure>>, Result<(), Failure>),
}

/// Where the committer puts the answers of a batch, and the task that hands them out: waking
/// that one task and letting it wake the others costs far less than waking each from outside
/// the runtime.
pub(super) struct Answers(mpsc::UnboundedSender<Vec<Answer>>);

impl Answers {
    /// Has these handed out. Nobody takes them once the store is closed.
    pub(super) fn send(&self, answers: Vec<Answer>) {
        let _ = self.0.send(answers);
    }
}

pub(super) fn channel() -> (Answers, impl Future<Output = ()>) {
    let (tx, mut rx) = mpsc::unbounded_channel::<Vec<Answer>>();
    let hand_out = async move {
        while let Some(batch) = rx.recv().await {
            for answer in batch {
                // Whoever has left does not want it any more.
                match answer {
                    Answer::Submitted(to, what) => drop(to.send(what)),
                    Answer::Changed(to, what) => drop(to.send(what)),
                    Answer::Forgotten(to, what) => drop(to.send(what)),
                }
            }
        }
    };
    (Answers(tx), hand_out)
}
