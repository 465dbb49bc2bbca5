//! Delivers the committer's answers to the callers.
//!
//! Waking a task of another thread costs a system call each time. So the answers of a batch are
//! grouped by the runtime that asked, and each group goes to one task of that runtime (its
//! [`ReplyBatcher`]), which wakes the callers from within.

use std::{cell::RefCell, future::Future, sync::Arc};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{mpsc, oneshot},
};
use tokio_util::task::AbortOnDropHandle;

use super::Submitted;
use crate::model::{
    Failure,
    execution::{Refused, State},
};

/// The new state after a change, or why it was refused.
pub(super) type Changed = Result<Result<Arc<State>, Refused>, Failure>;

/// Delivers answers within one runtime, a batch at a time.
#[derive(Clone)]
pub(super) struct ReplyBatcher(mpsc::UnboundedSender<Vec<Answer>>);

thread_local! {
    /// The batcher of this thread, if it has a runtime of its own, and its task.
    static OWN: RefCell<Option<(ReplyBatcher, AbortOnDropHandle<()>)>> = const { RefCell::new(None) };
}

impl ReplyBatcher {
    /// A batcher and the future that delivers its answers, which the caller spawns.
    pub(super) fn new() -> (Self, impl Future<Output = ()>) {
        let (tx, mut rx) = mpsc::unbounded_channel::<Vec<Answer>>();
        let deliver = async move {
            while let Some(answers) = rx.recv().await {
                answers.into_iter().for_each(Answer::deliver);
            }
        };
        (Self(tx), deliver)
    }

    /// The batcher of the caller's runtime: its thread's own when the runtime has a single thread,
    /// else this one. Must be called within a tokio runtime.
    pub(super) fn for_this_runtime(&self) -> Self {
        if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread {
            return self.clone();
        }
        OWN.with_borrow_mut(|own| match own {
            // A batcher of an earlier runtime on this thread is closed.
            Some((batcher, _)) if !batcher.0.is_closed() => batcher.clone(),
            _ => {
                let (batcher, deliver) = Self::new();
                let running = AbortOnDropHandle::new(tokio::spawn(deliver));
                own.insert((batcher, running)).0.clone()
            }
        })
    }
}

/// Where the answer to one command goes.
pub(super) struct Reply<T> {
    to: oneshot::Sender<T>,
    batcher: ReplyBatcher,
}

impl<T> Reply<T> {
    /// A reply that a batcher delivers, and its receiving end.
    pub(super) fn through(batcher: ReplyBatcher) -> (Self, oneshot::Receiver<T>) {
        let (to, answer) = oneshot::channel();
        (Self { to, batcher }, answer)
    }

    /// Answers at once.
    pub(super) fn send(self, what: T) {
        // A caller that is gone needs no answer.
        let _ = self.to.send(what);
    }
}

/// An answer and the reply that it goes to.
pub(super) enum Answer {
    Submitted(
        Reply<Result<Submitted, Failure>>,
        Result<Submitted, Failure>,
    ),
    Changed(Reply<Changed>, Changed),
    Forgotten(Reply<Result<(), Failure>>, Result<(), Failure>),
}

impl Answer {
    fn batcher(&self) -> &ReplyBatcher {
        match self {
            Self::Submitted(reply, _) => &reply.batcher,
            Self::Changed(reply, _) => &reply.batcher,
            Self::Forgotten(reply, _) => &reply.batcher,
        }
    }

    fn deliver(self) {
        match self {
            Self::Submitted(reply, what) => reply.send(what),
            Self::Changed(reply, what) => reply.send(what),
            Self::Forgotten(reply, what) => reply.send(what),
        }
    }
}

/// Sends each batcher its answers as one group. A closed batcher's runtime is gone, and so are its
/// callers.
pub(super) fn send(answers: impl Iterator<Item = Answer>) {
    let mut by_batcher: Vec<(ReplyBatcher, Vec<Answer>)> = Vec::new();
    for answer in answers {
        let same =
            |(batcher, _): &&mut (ReplyBatcher, _)| batcher.0.same_channel(&answer.batcher().0);
        match by_batcher.iter_mut().find(same) {
            Some((_, answers)) => answers.push(answer),
            None => by_batcher.push((answer.batcher().clone(), vec![answer])),
        }
    }
    for (batcher, answers) in by_batcher {
        let _ = batcher.0.send(answers);
    }
}
