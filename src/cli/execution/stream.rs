//! `ignite execution stream`: prints the app's output as it arrives.

use super::connect;
use crate::{
    cli::{Context, Error, failure::note, follow, output},
    model::ExecutionId,
};

/// Prints the output piece by piece, or the result if there were no pieces.
pub(super) async fn run(context: &Context, id: ExecutionId) -> Result<(), Error> {
    let (session, hint) = connect(context).await?;
    let id = id.to_string();
    let mut shown = 0;
    let ended = follow::to_end(context, &session, &id, false, |update| {
        match &update.execution {
            None => {
                shown += update.output_chunk.len();
                output::raw(&update.output_chunk)?;
            }
            // Printed output cannot be taken back, so the user learns that it repeats.
            Some(again) if shown > 0 && !follow::is_over(again) => note(&format!(
                "attempt {} begins; its output comes after that of the one before",
                again.attempt
            )),
            Some(_) => {}
        }
        Ok(())
    })
    .await
    .map_err(|e| e.or_hint(hint))?;
    if shown == 0 {
        output::raw(&ended.result)?;
    } else if shown < ended.result.len() {
        // A late watcher gets only what is kept, and a slow one misses pieces.
        note(&format!(
            "{} bytes of the output are not shown; `ignite execution get {id} --result` prints all",
            ended.result.len() - shown
        ));
    }
    follow::outcome(&ended)
}
