//! `ignite status`: the server, its engine, the apps and the executions on one screen.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    Context, Error,
    context::Session,
    output::{self, plain, rows},
    overview, ready,
};
use crate::{
    api::proto::{
        local::v1 as local,
        v1::{self, ExecutionStatus},
    },
    clock::now_ms,
    model::OrgName,
};

/// Executions are counted up to here.
const MOST: i32 = 1000;
/// Ended executions are counted if they were accepted within this time.
const RECENT: Duration = Duration::from_secs(3600);

/// What there is to see.
struct Status {
    org: OrgName,
    health: v1::HealthCheckResponse,
    /// What `/readyz` answers; `None` for a server elsewhere.
    ready: Option<Value>,
    apps: Vec<v1::AppMeta>,
    executions: Vec<(ExecutionStatus, Count)>,
}

/// A number of executions, and whether there are more.
#[derive(Clone, Copy)]
struct Count {
    number: usize,
    more: bool,
}

impl Count {
    fn shown(self) -> String {
        format!("{}{}", self.number, if self.more { "+" } else { "" })
    }
}

/// Prints it; fails when the server is reached and not well.
pub(super) async fn run(context: &Context) -> Result<(), Error> {
    let org = context.org()?;
    let session = context.connect(&org).await?;
    let status = look(context, &session, org).await?;
    if context.format.is_structured() {
        context.format.print_value(&status.for_programs(context))?;
    } else {
        output::columns(rows(&status.for_people(context)))?;
    }
    match status.ill() {
        Some(why) => Err(Error::Unreachable(why)),
        None => Ok(()),
    }
}

async fn look(context: &Context, session: &Session, org: OrgName) -> Result<Status, Error> {
    let health = session.client();
    let asked = async {
        let mut client = health;
        client.health_check(v1::HealthCheckRequest {}).await
    };
    let health = session.answer(asked).await?;
    let ready = match context.near() {
        Some((dir, _)) => Some(match ready::answer(dir).await {
            Ok((_, answer)) => answer,
            Err(error) => json!({ "ready": false, "checks": { "http": error.message() } }),
        }),
        None => None,
    };
    let apps = overview::apps(session, &org).await?;
    let mut executions = Vec::new();
    for status in [
        ExecutionStatus::Pending,
        ExecutionStatus::Running,
        ExecutionStatus::Completed,
        ExecutionStatus::Failed,
        ExecutionStatus::Timeout,
    ] {
        executions.push((status, count(session, &org, status).await?));
    }
    Ok(Status {
        org,
        health,
        ready,
        apps,
        executions,
    })
}

async fn count(session: &Session, org: &OrgName, status: ExecutionStatus) -> Result<Count, Error> {
    let is_over = !matches!(status, ExecutionStatus::Pending | ExecutionStatus::Running);
    let recent = i64::try_from(RECENT.as_millis()).unwrap_or(i64::MAX);
    let request = local::ListExecutionsRequest {
        organization_name: org.to_string(),
        status: status.into(),
        from_ms: if is_over { now_ms() - recent } else { 0 },
        limit: MOST,
        ..Default::default()
    };
    let page = session
        .answer(session.executions().list_executions(request))
        .await?;
    Ok(Count {
        number: page.executions.len(),
        more: !page.next_cursor.is_empty(),
    })
}

impl Status {
    /// What is wrong with the server, if anything is.
    fn ill(&self) -> Option<String> {
        let checks = self.failed_checks();
        if !checks.is_empty() {
            return Some(format!("the server is not ready: {}", checks.join("; ")));
        }
        (self.health.status != "ok").then(|| {
            format!(
                "the server is {}: {}",
                self.health.status, self.health.engine
            )
        })
    }

    fn failed_checks(&self) -> Vec<String> {
        let checks = self.ready.as_ref().and_then(|r| r["checks"].as_object());
        let failed = checks.into_iter().flatten().filter_map(|(name, outcome)| {
            let why = outcome.as_str().filter(|outcome| *outcome != "ok")?;
            Some(format!("{name}: {why}"))
        });
        failed.collect()
    }

    fn warnings(&self) -> Vec<String> {
        let all = self.ready.as_ref().and_then(|r| r["warnings"].as_array());
        let texts = all.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    }

    fn for_people(&self, context: &Context) -> Vec<(&'static str, String)> {
        let state = match self.ill() {
            None => "ready".to_owned(),
            Some(why) => why,
        };
        let mut all = vec![
            (
                "server",
                format!("{}, ignite {}", context.endpoint(), self.health.version),
            ),
            ("health", state),
            ("engine", self.health.engine.clone()),
        ];
        all.extend(
            self.warnings()
                .into_iter()
                .map(|warning| ("warning", warning)),
        );
        if let Some((dir, serving)) = context.near() {
            all.push(("apps and JSON", serving.http));
            all.push(("data", dir.display().to_string()));
            all.push(("process", serving.pid.to_string()));
        }
        all.push(("organization", self.org.to_string()));
        let states = overview::by_state(&self.apps);
        let states = states.into_iter().map(|(state, count)| {
            format!("{count} {}", plain(state.as_str_name(), "DEPLOYMENT_STATE"))
        });
        let states: Vec<String> = states.collect();
        all.push((
            "apps",
            match self.apps.len() {
                0 => "none".to_owned(),
                count => format!("{count}: {}", states.join(", ")),
            },
        ));
        let of = |wanted: &[ExecutionStatus]| {
            let found = self.executions.iter().filter(|(s, _)| wanted.contains(s));
            let texts = found.map(|(status, count)| {
                let name = plain(status.as_str_name(), "EXECUTION_STATUS");
                format!("{} {name}", count.shown())
            });
            texts.collect::<Vec<_>>().join(", ")
        };
        use ExecutionStatus::{Completed, Failed, Pending, Running, Timeout};
        all.push(("executions", of(&[Pending, Running])));
        all.push(("in the last hour", of(&[Completed, Failed, Timeout])));
        all
    }

    fn for_programs(&self, context: &Context) -> Value {
        let near = context.near();
        let states: Map<String, Value> = overview::by_state(&self.apps)
            .into_iter()
            .map(|(state, count)| (state.as_str_name().to_owned(), count.into()))
            .collect();
        let executions: Map<String, Value> = self
            .executions
            .iter()
            .map(|(status, count)| {
                let value = json!({ "count": count.number, "more": count.more });
                (status.as_str_name().to_owned(), value)
            })
            .collect();
        json!({
            "healthy": self.ill().is_none(),
            "server": {
                "endpoint": context.endpoint().to_string(),
                "version": self.health.version,
                "status": self.health.status,
                "http": near.as_ref().map(|(_, serving)| &serving.http),
                "dataDir": near.as_ref().map(|(dir, _)| dir),
                "pid": near.as_ref().map(|(_, serving)| serving.pid),
            },
            "engine": self.health.engine,
            "ready": self.ready,
            "organization": self.org.as_str(),
            "apps": { "total": self.apps.len(), "byState": states },
            "executions": executions,
        })
    }
}
