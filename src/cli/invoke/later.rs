//! `ignite invoke --async`: prints the id at once, or with `--wait` the result once the execution
//! ends.

use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
};

use super::{Args, print_head};
use crate::{
    api::proto::v1,
    cli::{Context, Error, context::Session, failure::note, follow, output},
};

/// The metadata key under which a repeated submit returns the first id.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Checks only that the key can be sent; the server enforces the rest.
pub(super) fn key(text: &str) -> Result<MetadataValue<Ascii>, String> {
    MetadataValue::try_from(text)
        .map_err(|_| "a key is of visible ASCII characters, such as a UUID".to_owned())
}

/// Submits the request, and waits for the execution to end if `--wait` was given.
pub(super) async fn run(
    context: &Context,
    session: &Session,
    args: Args,
    request: v1::InvokeRequest,
) -> Result<(), Error> {
    let mut request = Request::new(request);
    if let Some(key) = args.idempotency_key {
        request.metadata_mut().insert(IDEMPOTENCY_KEY, key);
    }
    let accepted = session
        .answer(session.client().invoke_async(request))
        .await?;
    let (id, format) = (&accepted.execution_id, context.format);
    if !args.wait {
        return if format.is_structured() {
            format.print_value(&output::dynamic("InvokeAsyncResponse", &accepted)?)
        } else {
            output::line(id)
        };
    }
    // Printed before the wait, so that a user who interrupts it has the id.
    note(&format!("accepted as {id}"));
    let ended = follow::to_end(context, session, id, true, |_| Ok(())).await?;
    let outcome = follow::outcome(&ended);
    if format.is_structured() {
        let answer = v1::GetExecutionResponse {
            execution: Some(ended),
        };
        format.print_value(&output::dynamic("GetExecutionResponse", &answer)?)?;
        return outcome;
    }
    // An execution that the app never answered has no head.
    if args.include && ended.status_code > 0 {
        print_head(
            ended.status_code,
            &ended.response_headers,
            &ended.repeated_headers,
        )?;
    }
    output::raw(&ended.result)?;
    if format == output::Format::Wide {
        let ran = ended.metrics.unwrap_or_default();
        note(&format!(
            "{}: status {}, {} bytes, {} ms",
            ended.id, ended.status_code, ran.result_size_bytes, ran.execution_ms
        ));
    }
    outcome
}
