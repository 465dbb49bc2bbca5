//! A change of settings, followed until requests see it.
//!
//! The server answers once the change is stored. When replicas serve that do not have it, it starts
//! one with it beside them; an event says so before the answer, and others say how that ends.

use super::{
    progress::Progress,
    watch::{ROLL_OUT_FAILED, ROLLING_OUT, Seen, Watch},
    within,
};
use crate::{
    api::proto::v1,
    cli::{Context, Error, context::Session, failure::warn},
    model::AppId,
};

/// From here on what was readied serves.
const ACTIVATED: &str = "ACTIVATED";

/// Changes the settings and says on stderr how that goes; warnings too.
///
/// # Errors
/// Why it was refused, or does not serve; [`Error::TimedOut`] when `--timeout` was given, the server
/// goes on.
pub(in crate::cli) async fn update(
    context: &Context,
    session: &Session,
    app: &AppId,
    request: v1::UpdateAppConfigRequest,
) -> Result<v1::UpdateAppConfigResponse, Error> {
    let mut watch = Watch::from_now(session, app, false).await;
    let updated = session
        .answer(session.client().update_app_config(request))
        .await?;
    warn(&updated.warnings);
    let mut begun = Vec::new();
    for seen in watch.drain().await {
        if let Seen::Event(event) = seen {
            watch.mark_shown(&event);
            begun.push(event);
        }
    }
    match since_begun(&begun) {
        [] => {}
        since => match since.iter().find_map(end) {
            Some(end) => end?,
            None => {
                let shown = Progress::new(&format!("Updating {app}"));
                let since = since.iter().cloned().map(Seen::Event);
                since.for_each(|seen| shown.show(&seen));
                within(context, app, to_end(session, &mut watch, &shown)).await?;
            }
        },
    }
    Ok(updated)
}

/// The events from the newest on with which replicas with the change were begun.
fn since_begun(events: &[v1::AppEvent]) -> &[v1::AppEvent] {
    let begun = events.iter().rposition(|e| e.r#type == ROLLING_OUT);
    begun.map_or(&[], |at| &events[at..])
}

/// How it ended, when the event says so.
fn end(event: &v1::AppEvent) -> Option<Result<(), Error>> {
    match event.r#type.as_str() {
        ACTIVATED => Some(Ok(())),
        ROLL_OUT_FAILED => Some(Err(Error::PublishFailed(event.message.clone()))),
        _ => None,
    }
}

async fn to_end(session: &Session, watch: &mut Watch<'_>, shown: &Progress) -> Result<(), Error> {
    loop {
        match watch.next().await {
            Seen::Event(event) => match end(&event) {
                Some(end) => return end,
                None => shown.show(&Seen::Event(event)),
            },
            Seen::Line(_) => {}
            // The server was started again, and starts replicas with what is stored.
            Seen::Nothing => return Ok(()),
            Seen::Gone(status) => return Err(session.refused(*status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_waits_for_what_it_has_begun_and_what_has_not_ended() {
        let waits = |types: &[&str]| {
            let event = |name: &&str| v1::AppEvent {
                r#type: (*name).to_owned(),
                ..Default::default()
            };
            let events: Vec<_> = types.iter().map(event).collect();
            let since = since_begun(&events);
            match since.iter().find_map(end) {
                Some(end) => end.map(|()| false).map_err(drop),
                None => Ok(!since.is_empty()),
            }
        };
        assert_eq!(waits(&[]), Ok(false));
        assert_eq!(waits(&["SCALED", ACTIVATED]), Ok(false));
        assert_eq!(waits(&[ROLLING_OUT]), Ok(true));
        assert_eq!(
            waits(&[ACTIVATED, ROLLING_OUT, "REPLICA_CREATING"]),
            Ok(true)
        );
        assert_eq!(waits(&[ROLLING_OUT, "REPLICA_READY", ACTIVATED]), Ok(false));
        assert_eq!(waits(&[ROLLING_OUT, ROLL_OUT_FAILED]), Err(()));
        // Of the change before.
        assert_eq!(waits(&[ROLL_OUT_FAILED, ROLLING_OUT]), Ok(true));
    }
}
