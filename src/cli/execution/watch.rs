//! `ignite execution watch`: prints each change of an execution until it ends.

use super::{connect, tables};
use crate::{
    cli::{
        Context, Error, follow,
        output::{self, Format},
    },
    model::ExecutionId,
};

/// Prints a line for each change; structured formats print every update, output included.
pub(super) async fn run(context: &Context, id: ExecutionId) -> Result<(), Error> {
    let (session, hint) = connect(context).await?;
    let format = context.format;
    let ended = follow::to_end(context, &session, &id.to_string(), true, |update| {
        let message = || output::dynamic("WatchExecutionResponse", update);
        match (format, &update.execution) {
            // One update per line, as the HTTP gateway streams it.
            (Format::Json, _) => output::line(
                &serde_json::to_string(&message()?).map_err(|e| Error::Other(e.into()))?,
            ),
            (Format::Yaml, _) => {
                output::line("---")?;
                format.print_value(&message()?)
            }
            (Format::Table | Format::Wide, Some(execution)) => {
                output::line(&tables::change(execution))
            }
            (Format::Table | Format::Wide, None) => Ok(()),
        }
    })
    .await
    .map_err(|e| e.or_hint(hint))?;
    follow::outcome(&ended)
}
