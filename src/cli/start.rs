//! `ignite` alone: what it is, whether a server answers, and what to do next.

use std::time::Duration;

use serde_json::json;

use super::{Context, Error, context::Global, output};
use crate::{api::proto::v1, config::Source};

/// Longest wait for the server's answer.
const LIMIT: Duration = Duration::from_secs(3);

/// The next commands where no server answers, and where one does.
const NEXT: [[(&str, &str); 3]; 2] = [
    [
        (
            "ignite doctor",
            "check that this machine has what is needed",
        ),
        ("ignite serve", "run the server here"),
        (
            "ignite context add NAME --api-endpoint URL --use",
            "use one elsewhere",
        ),
    ],
    [
        (
            "ignite app deploy hello --code DIR",
            "publish a folder, and print its URL",
        ),
        ("ignite status", "see what runs"),
        ("ignite top", "watch apps and replicas"),
    ],
];

/// Prints the page; that no server answers is no failure.
pub(super) async fn run(global: Global, vars: &impl Source) -> Result<(), Error> {
    let timeout = Some(global.timeout.unwrap_or(LIMIT));
    let mut context = Context::new(Global { timeout, ..global }, vars)?;
    let found = ask(&mut context).await;
    let at = context.endpoint().to_string();
    let next = NEXT[usize::from(found.is_ok())];
    if context.format.is_structured() {
        let (version, why) = match &found {
            Ok(health) => (Some(&health.version), None),
            Err(error) => (None, Some(error.message())),
        };
        return context.format.print_value(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "server": { "endpoint": at, "answers": found.is_ok(), "version": version, "why": why },
            "next": next.map(|(command, _)| command),
        }));
    }
    let says = match &found {
        Ok(health) => format!(
            "The server at {at} answers: ignite {}, {}, {}.",
            health.version, health.status, health.engine
        ),
        Err(error) => format!("No server answers: {}.", error.message()),
    };
    output::line(&format!(
        "ignite {} is a serverless platform on one machine: apps are containers that\n\
         start with their first request and go to sleep without any.\n\n{says}\n",
        env!("CARGO_PKG_VERSION")
    ))?;
    let longest = next.iter().map(|(command, _)| command.len()).max();
    let width = longest.unwrap_or_default();
    for (command, what) in next {
        output::line(&format!("  {command:width$}  {what}"))?;
    }
    output::line("\nAll commands: ignite --help")
}

async fn ask(context: &mut Context) -> Result<v1::HealthCheckResponse, Error> {
    let org = context.org()?;
    let session = context.connect(&org).await?;
    let mut client = session.client();
    session
        .answer(client.health_check(v1::HealthCheckRequest {}))
        .await
}
