//! Publishes the outcome of a batch, once it is on disk or has failed, to readers, the executor and
//! the callers. The committer decides what is written and when.

use super::{
    Shared, Submitted,
    answers::{self, Answer},
    batch::Effect,
};
use crate::model::Failure;

/// Makes the batch visible to readers and answers its callers; `failed` says why it is not on disk.
pub(super) fn show(shared: &Shared, effects: Vec<Effect>, failed: Option<&Failure>) {
    let effects = effects.into_iter();
    answers::send(effects.filter_map(|effect| match failed {
        None => done(shared, effect),
        Some(why) => refused(effect, why),
    }));
}

fn done(shared: &Shared, effect: Effect) -> Option<Answer> {
    Some(match effect {
        Effect::Accepted(live, unended, reply) => {
            let id = live.identity.id;
            shared.config.metrics.executions.accepted();
            shared.live.insert(live.clone(), unended);
            shared.run(live);
            Answer::Submitted(reply, Ok(Submitted { id, known: false }))
        }
        Effect::Deduplicated(id, reply) => {
            Answer::Submitted(reply, Ok(Submitted { id, known: true }))
        }
        Effect::Changed(live, state, reply) => {
            if state.status.is_terminal() {
                // From here on it is read from disk; its watchers still hold it.
                shared.live.remove(&live);
                let executions = &shared.config.metrics.executions;
                executions.ended(state.status.as_label());
            }
            live.show(state.clone());
            Answer::Changed(reply?, Ok(Ok(state)))
        }
        Effect::Refused(refused, reply) => Answer::Changed(reply, Ok(Err(refused))),
        Effect::Forgotten(reply) => Answer::Forgotten(reply, Ok(())),
    })
}

fn refused(effect: Effect, why: &Failure) -> Option<Answer> {
    let why = why.clone();
    Some(match effect {
        Effect::Accepted(_, _, reply) | Effect::Deduplicated(_, reply) => {
            Answer::Submitted(reply, Err(why))
        }
        Effect::Changed(_, _, reply) => Answer::Changed(reply?, Err(why)),
        Effect::Refused(_, reply) => Answer::Changed(reply, Err(why)),
        Effect::Forgotten(reply) => Answer::Forgotten(reply, Err(why)),
    })
}
