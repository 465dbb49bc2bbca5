//! `ignite draft test`, `ignite version test`: sends one request to code that is not active.

use super::{Context, Error, failure::note, invoke::Sent, output, text};
use crate::{api::proto::v1, model::AppId};

/// Sends a request to a version, or to the draft, and prints the answer; a status of 400 or above
/// from the app fails the command.
pub(super) async fn run(
    context: &Context,
    app: &AppId,
    version: Option<u32>,
    sent: Sent,
) -> Result<(), Error> {
    let request = sent.request(app)?;
    let session = context.connect(&app.org).await?;
    let (name, answer) = match version {
        None => {
            let request = v1::TestDraftRequest {
                organization_name: request.organization_name,
                app_name: request.app_name,
                http: request.http,
                body: request.body,
            };
            let answer = session.answer(session.client().test_draft(request)).await?;
            ("TestDraftResponse", answer)
        }
        Some(version) => {
            let request = v1::TestAppVersionRequest {
                organization_name: request.organization_name,
                app_name: request.app_name,
                version,
                http: request.http,
                body: request.body,
            };
            let answer = session
                .answer(session.client().test_app_version(request))
                .await?;
            // The two answers have the same fields under two names.
            let answer = v1::TestDraftResponse {
                result: answer.result,
            };
            ("TestAppVersionResponse", answer)
        }
    };
    let result = answer.result.clone().unwrap_or_default();
    if context.format.is_structured() {
        context
            .format
            .print_value(&output::dynamic(name, &answer)?)?;
    } else {
        for line in &result.logs {
            note(&format!("log: {}", text::one_line(&line.message)));
        }
        output::raw(&result.body)?;
    }
    match u16::try_from(result.status_code) {
        Ok(status) if status >= 400 => Err(Error::AppFailed(status)),
        _ => Ok(()),
    }
}
