//! `ignite execution get`: shows one execution, or only its result.

use super::{connect, tables};
use crate::{
    api::proto::v1,
    cli::{Context, Error, follow, output},
    model::ExecutionId,
};

/// The longest text of a result shown below the table; `--result` prints all of it.
const SHOWN_BYTES: usize = 16 * 1024;

/// Which execution, and which part of it.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The execution's id, exec_...
    id: ExecutionId,
    /// Print only the bytes of the result, whatever -o says.
    #[arg(long)]
    result: bool,
}

/// Fetches the execution and prints it.
pub(super) async fn run(context: &Context, args: Args) -> Result<(), Error> {
    let (session, hint) = connect(context).await?;
    let request = v1::GetExecutionRequest {
        execution_id: args.id.to_string(),
    };
    let got = session
        .answer(session.client().get_execution(request))
        .await
        .map_err(|e| e.or_hint(hint))?;
    let execution = got.execution.clone().unwrap_or_default();
    if args.result {
        return result(&execution);
    }
    context
        .format
        .print("GetExecutionResponse", &got, |_| tables::one(&execution))?;
    match readable(&execution.result) {
        Some(text) if !context.format.is_structured() => output::line(&format!("\n{text}")),
        _ => Ok(()),
    }
}

/// Prints the raw result. A missing result fails the command, and so does a failed execution, just
/// as an app's failure fails `invoke`: a script must not take an error page for a result.
fn result(execution: &v1::Execution) -> Result<(), Error> {
    if !follow::is_over(execution) {
        return Err(Error::ExecutionFailed(format!(
            "{id} has not ended; `ignite execution stream {id}` waits for its result",
            id = execution.id
        )));
    }
    output::raw(&execution.result)?;
    follow::outcome(execution)
}

/// The result if a person can read it: text without terminal control characters. Truncated if long.
fn readable(result: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(result).ok()?;
    let is_text = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    if text.is_empty() || !text.chars().all(is_text) {
        return None;
    }
    let shown = &text[..text.floor_char_boundary(SHOWN_BYTES)];
    Some(match text.len() - shown.len() {
        0 => shown.trim_end_matches('\n').to_owned(),
        more => format!("{shown}\n... and {more} bytes more; --result prints all"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_readable_and_long_text_is_cut_between_characters() {
        assert_eq!(
            readable(b"{\"a\":\t1}\r\n").as_deref(),
            Some("{\"a\":\t1}\r")
        );
        for other in [&b""[..], b"\xff", b"\x1b[2J", b"a\0"] {
            assert_eq!(readable(other), None, "{other:?}");
        }
        let long = "ä".repeat(SHOWN_BYTES / 2 + 1);
        let long = format!("a{long}");
        let cut = readable(long.as_bytes()).expect("text");
        assert!(cut.ends_with("ä\n... and 4 bytes more; --result prints all"));
    }
}
