//! `ignite top`: apps and replicas, redrawn in place.

use std::{
    io::IsTerminal as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use comfy_table::Table;
use console::Term;
use serde_json::{Value, json};

use super::{
    Context, Error,
    context::Session,
    id::AppArg,
    output::{self, dynamic, or_dash, plain, table},
    overview::{self, Seen},
};
use crate::{api::proto::v1, config::parse_duration, model::OrgName};

/// Shortest time between two looks: each asks after every app.
const SHORTEST: Duration = Duration::from_millis(200);

/// What to show, and how often.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this app, as org:app or app [default: all apps of the organization].
    id: Option<AppArg>,
    /// Print one table and end, as without a terminal.
    #[arg(long)]
    once: bool,
    /// The time between two looks.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval < SHORTEST {
        let shortest = humantime::format_duration(SHORTEST);
        return Err(format!("{text} is too short; {shortest} is the shortest"));
    }
    Ok(interval)
}

/// Shows them until Ctrl-C, or once.
pub(super) async fn run(context: &Context, args: Args) -> Result<(), Error> {
    let (org, app) = match args.id {
        Some(id) => {
            let app = context.app(id)?;
            (app.org.clone(), Some(app))
        }
        None => (context.org()?, None),
    };
    let session = context.connect(&org).await?;
    let look = async |session: &Session| {
        let apps = match &app {
            Some(app) => session.app(app).await?.app.into_iter().collect(),
            None => overview::apps(session, &org).await?,
        };
        overview::look_at(session, apps).await
    };
    let seen = look(&session).await?;
    let live = !args.once && !context.format.is_structured() && std::io::stdout().is_terminal();
    if !live {
        return print(context, &seen);
    }
    let screen = Screen::new();
    screen.draw(&head(&org, &seen), &seen)?;
    let watch = async {
        let mut session = Some(session);
        loop {
            tokio::time::sleep(args.interval).await;
            if session.is_none() {
                session = context.connect(&org).await.ok();
            }
            let seen = match &session {
                Some(session) => look(session).await.map_err(|e| e.message()),
                None => Err("the server does not answer".to_owned()),
            };
            match seen {
                Ok(seen) => screen.draw(&head(&org, &seen), &seen)?,
                Err(why) => {
                    session = None;
                    screen.draw(&format!("{why}; asking again"), &[])?;
                }
            }
        }
    };
    tokio::select! {
        ended = watch => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

fn print(context: &Context, seen: &[Seen]) -> Result<(), Error> {
    if !context.format.is_structured() {
        return output::columns(shown(seen));
    }
    let each = seen.iter().map(|seen| {
        let replicas = v1::ListAppReplicasResponse {
            replicas: seen.replicas.clone(),
        };
        Ok(json!({
            "app": seen.app.id,
            "state": dynamic("GetAppStateResponse", &seen.state)?,
            "replicas": dynamic("ListAppReplicasResponse", &replicas)?,
        }))
    });
    let each: Result<Vec<Value>, Error> = each.collect();
    context.format.print_value(&json!({ "apps": each? }))
}

/// The line above the table.
fn head(org: &OrgName, seen: &[Seen]) -> String {
    let sum = |of: fn(&v1::GetAppStateResponse) -> u32| -> u32 {
        seen.iter().map(|seen| of(&seen.state)).sum()
    };
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    format!(
        "{org}  {now}  {} apps, {} replicas, {} requests in flight, {} held",
        seen.len(),
        sum(|s| s.running_replicas),
        sum(|s| s.in_flight),
        sum(|s| s.held),
    )
}

/// A row for each app, and below it one for each of its replicas.
fn shown(seen: &[Seen]) -> Table {
    let mut table = table(&[
        "APP",
        "STATE",
        "VERSION",
        "REPLICAS",
        "IN FLIGHT",
        "HELD",
        "STANDBY",
        "AGE",
    ]);
    for Seen {
        app,
        state,
        replicas,
    } in seen
    {
        let name = v1::DeploymentState::try_from(state.deployment_state).unwrap_or_default();
        table.add_row([
            app.id.clone(),
            plain(name.as_str_name(), "DEPLOYMENT_STATE"),
            or_dash(&number(state.active_version)).to_owned(),
            format!("{}/{}", state.running_replicas, state.desired_replicas),
            state.in_flight.to_string(),
            state.held.to_string(),
            state.standby_replicas.to_string(),
            "-".to_owned(),
        ]);
        for replica in replicas {
            table.add_row([
                format!("  {}", replica.replica_id),
                replica.state.clone(),
                replica.version.to_string(),
                "-".to_owned(),
                replica.in_flight.to_string(),
                "-".to_owned(),
                "-".to_owned(),
                age(replica.started_at_ms),
            ]);
        }
    }
    table
}

fn number(number: u32) -> String {
    match number {
        0 => String::new(),
        number => number.to_string(),
    }
}

/// How long ago something was, in its two largest units.
fn age(ms: i64) -> String {
    let then = u64::try_from(ms).ok().filter(|ms| *ms > 0);
    let then = then.and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
    let Some(age) = then.and_then(|then| SystemTime::now().duration_since(then).ok()) else {
        return "-".to_owned();
    };
    let text = humantime::format_duration(Duration::from_secs(age.as_secs())).to_string();
    text.split(' ').take(2).collect::<String>()
}

/// The terminal, on a screen of its own that is left as it was.
struct Screen(Term);

impl Screen {
    fn new() -> Self {
        let term = Term::buffered_stdout();
        // What the terminal does not understand changes nothing.
        let _ = term
            .write_str("\x1b[?1049h")
            .and_then(|()| term.hide_cursor());
        Self(term)
    }

    /// Draws over what was there, without a moment in which nothing is.
    fn draw(&self, head: &str, seen: &[Seen]) -> Result<(), Error> {
        let (height, width) = self.0.size();
        let (height, width) = (usize::from(height), usize::from(width));
        let body = output::text_of(shown(seen));
        let mut lines: Vec<&str> = std::iter::once(head).chain(body.lines()).collect();
        let more = lines.len().saturating_sub(height.saturating_sub(1));
        if more > 0 {
            lines.truncate(height.saturating_sub(2));
        }
        self.0.move_cursor_to(0, 0)?;
        for line in lines {
            let line = super::text::one_line(line);
            self.0
                .write_str(&console::truncate_str(&line, width, "…"))?;
            self.0.write_str("\x1b[K\n")?;
        }
        if more > 0 {
            self.0
                .write_str(&format!("… and {} more lines\x1b[K", more + 1))?;
        }
        self.0.clear_to_end_of_screen()?;
        Ok(self.0.flush()?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.0.show_cursor();
        let _ = self.0.write_str("\x1b[?1049l");
        let _ = self.0.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_stand_above_their_replicas() {
        let seen = Seen {
            app: v1::AppMeta {
                id: "acme/a".to_owned(),
                ..Default::default()
            },
            state: v1::GetAppStateResponse {
                deployment_state: v1::DeploymentState::Running.into(),
                active_version: 3,
                running_replicas: 1,
                desired_replicas: 2,
                ..Default::default()
            },
            replicas: vec![v1::Replica {
                replica_id: "01h".to_owned(),
                state: "ready".to_owned(),
                version: 3,
                ..Default::default()
            }],
        };
        let text = output::text_of(shown(&[seen]));
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[1],
            ["acme/a", "running", "3", "1/2", "0", "0", "0", "-"]
        );
        assert_eq!(lines[2], ["01h", "ready", "3", "-", "0", "-", "-", "-"]);
        assert_eq!(age(0), "-");
        assert!(interval("1ms").is_err() && interval("200ms").is_ok());
    }
}
