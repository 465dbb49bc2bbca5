//! `ignite app replicas` and `ignite app events`.

use tonic::Code;

use crate::{
    api::proto::v1,
    cli::{
        Context, Error,
        context::Session,
        id::AppArg,
        output::{Format, dynamic, line, or_dash, table, time},
        reconnect::{Newest, Reconnect, is_loss, is_lost},
        text,
    },
    model::AppId,
};

/// How many events a server keeps of an app.
const ALL_EVENTS: i32 = 256;

/// Lists the replicas.
pub(super) async fn list(context: &Context, id: AppArg) -> Result<(), Error> {
    let app = context.app(id)?;
    let session = context.connect(&app.org).await?;
    let request = v1::ListAppReplicasRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
    };
    let listed = session
        .answer(session.client().list_app_replicas(request))
        .await?;
    context
        .format
        .print("ListAppReplicasResponse", &listed, |_| {
            let mut table = table(&[
                "REPLICA",
                "STATE",
                "DEPTH",
                "VERSION",
                "IN FLIGHT",
                "ADDRESS",
                "STARTED",
                "NOT READY",
            ]);
            for r in &listed.replicas {
                table.add_row([
                    r.replica_id.clone(),
                    r.state.clone(),
                    r.depth.clone(),
                    r.version.to_string(),
                    r.in_flight.to_string(),
                    or_dash(&r.address).to_owned(),
                    time(r.started_at_ms),
                    or_dash(&r.not_ready).to_owned(),
                ]);
            }
            table
        })
}

/// Prints events, one per line; with `follow`, new ones as they happen.
pub(super) async fn events(
    context: &Context,
    id: AppArg,
    limit: u16,
    follow: bool,
) -> Result<(), Error> {
    let app = context.app(id)?;
    let session = context.connect(&app.org).await?;
    if !follow {
        let request = v1::GetAppEventsRequest {
            organization_name: app.org.to_string(),
            app_name: app.name.to_string(),
            limit: limit.into(),
        };
        let got = session
            .answer(session.client().get_app_events(request))
            .await?;
        if matches!(context.format, Format::Json | Format::Yaml) {
            return context
                .format
                .print_value(&dynamic("GetAppEventsResponse", &got)?);
        }
        return got.events.iter().try_for_each(|e| print(context.format, e));
    }
    let request = v1::StreamAppEventsRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        tail: limit.into(),
    };
    follow_events(context, &session, &app, request).await
}

/// Prints events as they happen, also after the server was started again, until the app is gone.
async fn follow_events(
    context: &Context,
    session: &Session,
    app: &AppId,
    mut request: v1::StreamAppEventsRequest,
) -> Result<(), Error> {
    let reconnect = Reconnect::new(context, app.org.clone());
    let mut newest = Newest::new();
    let mut client = session.client();
    let mut stream = session
        .answer(client.stream_app_events(request.clone()))
        .await?;
    loop {
        match stream.message().await {
            Ok(Some(event)) => {
                reconnect.is_well();
                if newest.take(event.timestamp_ms, event.clone()) {
                    print(context.format, &event)?;
                }
                continue;
            }
            Ok(None) => {}
            Err(status) if is_lost(&status) => {}
            Err(status) => return Err(session.refused(status)),
        }
        newest.gap();
        // All that the server keeps.
        request.tail = ALL_EVENTS;
        stream = loop {
            let again = reconnect.session().await?;
            let mut client = again.client();
            let opened = again
                .answer(client.stream_app_events(request.clone()))
                .await;
            match opened {
                Ok(stream) => break stream,
                Err(error) if error.code() == Some(Code::NotFound) => return Ok(()),
                Err(error) if is_loss(&error) => {}
                Err(error) => return Err(error),
            }
        };
    }
}

fn print(format: Format, e: &v1::AppEvent) -> Result<(), Error> {
    match format {
        Format::Json | Format::Yaml => {
            let event = dynamic("AppEvent", e)?;
            // One per line, so that a program can read them as they arrive.
            line(&serde_json::to_string(&event).map_err(|e| Error::Other(e.into()))?)
        }
        Format::Table | Format::Wide => line(&format!(
            "{}  {:<17}  {}  {}",
            time(e.timestamp_ms),
            e.r#type,
            or_dash(&e.replica_id),
            text::quoted(&e.message)
        )),
    }
}
