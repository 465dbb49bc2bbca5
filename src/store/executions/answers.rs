//! The committer's answers on their way to whoever asked.
//!
//! Waking a task of another thread is a system call each time. So a batch's answers go to one
//! task for each thread that asked (its desk), which wakes the others from within.

use std::{cell::RefCell, future::Future};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{mpsc, oneshot},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Submitted, committer::Changed};
use crate::model::Failure;

/// Where the answers to one runtime's commands are handed out.
#[derive(Clone)]
pub(super) struct Desk(mpsc::UnboundedSender<Vec<Answer>>);

thread_local! {
    /// The desk of this thread, if it has a runtime of its own, and its task.
    static OWN: RefCell<Option<(Desk, AbortOnDropHandle<()>)>> = const { RefCell::new(None) };
}

impl Desk {
    /// A desk, and what has to run for it to work.
    pub(super) fn new() -> (Self, impl Future<Output = ()>) {
        let (tx, mut rx) = mpsc::unbounded_channel::<Vec<Answer>>();
        let hand_out = async move {
            while let Some(answers) = rx.recv().await {
                answers.into_iter().for_each(Answer::hand_out);
            }
        };
        (Self(tx), hand_out)
    }

    /// The desk nearest to the caller: its thread's own, else this one. Within a tokio runtime.
    pub(super) fn nearest(&self) -> Self {
        if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread {
            return self.clone();
        }
        OWN.with_borrow_mut(|own| match own {
            // That of a runtime before this one is closed.
            Some((desk, _)) if !desk.0.is_closed() => desk.clone(),
            _ => {
                let (desk, hand_out) = Self::new();
                let running = AbortOnDropHandle::new(tokio::spawn(hand_out));
                own.insert((desk, running)).0.clone()
            }
        })
    }
}

/// Takes the answer to one command.
pub(super) struct Reply<T> {
    to: oneshot::Sender<T>,
    desk: Desk,
}

impl<T> Reply<T> {
    /// A reply by way of a desk, and where it arrives.
    pub(super) fn by(desk: Desk) -> (Self, oneshot::Receiver<T>) {
        let (to, answer) = oneshot::channel();
        (Self { to, desk }, answer)
    }

    /// Answers at once.
    pub(super) fn send(self, what: T) {
        // Whoever has left does not want it any more.
        let _ = self.to.send(what);
    }
}

/// An answer on its way to whoever asked.
pub(super) enum Answer {
    Submitted(
        Reply<Result<Submitted, Failure>>,
        Result<Submitted, Failure>,
    ),
    Changed(Reply<Changed>, Changed),
    Forgotten(Reply<Result<(), Failure>>, Result<(), Failure>),
}

impl Answer {
    fn desk(&self) -> &Desk {
        match self {
            Self::Submitted(reply, _) => &reply.desk,
            Self::Changed(reply, _) => &reply.desk,
            Self::Forgotten(reply, _) => &reply.desk,
        }
    }

    fn hand_out(self) {
        match self {
            Self::Submitted(reply, what) => reply.send(what),
            Self::Changed(reply, what) => reply.send(what),
            Self::Forgotten(reply, what) => reply.send(what),
        }
    }
}

/// Has answers handed out, those of one desk together. A desk that is closed has nobody left who
/// waits.
pub(super) fn send(answers: impl Iterator<Item = Answer>) {
    let mut by_desk: Vec<(Desk, Vec<Answer>)> = Vec::new();
    for answer in answers {
        let same = |(desk, _): &&mut (Desk, _)| desk.0.same_channel(&answer.desk().0);
        match by_desk.iter_mut().find(same) {
            Some((_, answers)) => answers.push(answer),
            None => by_desk.push((answer.desk().clone(), vec![answer])),
        }
    }
    for (desk, answers) in by_desk {
        let _ = desk.0.send(answers);
    }
}
