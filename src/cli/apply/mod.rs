//! `ignite apply`: brings apps to what a file says of them.
//!
//! The file is TOML with a table for each app, whose keys are the options of `ignite app deploy`:
//!
//! ```toml
//! [apps.web]
//! code = "./web"
//! allow-unauthenticated = true
//! env = { LOG_LEVEL = "info" }
//! ```
//!
//! An app is compared with what it is before anything is done, so that a second run changes nothing.
//! A setting that the file does not name stays as it is; the environment is that of the file.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tonic::Code;

use super::{
    Context, Error,
    app::hosts,
    build::Lines,
    context::Session,
    deploy,
    failure::{note, unreadable},
    output::{self, table},
    overview, publish,
};
use crate::{
    api::proto::{local::v1 as local, v1},
    model::{AppId, OrgName},
};

mod compare;
mod file;

use compare::Change;
use file::Wanted;

/// Longest file; a description of an app takes a few hundred bytes.
const MAX_BYTES: u64 = 4 << 20;

/// Which file, and how far to go.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file, or - for stdin; paths in it count from its folder.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Only say what would change.
    #[arg(long, visible_alias = "diff")]
    dry_run: bool,
    /// Delete the apps of the organization that the file does not name.
    #[arg(long)]
    prune: bool,
    /// Publish even code that is unchanged, such as that of a tag or branch that has moved.
    #[arg(long)]
    republish: bool,
    /// Do not ask before apps are deleted.
    #[arg(short, long)]
    yes: bool,
}

/// What is to be done with an app.
struct Step {
    app: AppId,
    action: Action,
    changes: Vec<Change>,
    /// The URL, once it is published.
    url: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Create,
    Update,
    Keep,
    Delete,
}

impl Action {
    fn name(self, is_done: bool) -> &'static str {
        match (self, is_done) {
            (Action::Create, false) => "create",
            (Action::Create, true) => "created",
            (Action::Update, false) => "update",
            (Action::Update, true) => "updated",
            (Action::Keep, _) => "unchanged",
            (Action::Delete, false) => "delete",
            (Action::Delete, true) => "deleted",
        }
    }
}

/// Compares every app, then changes what differs, app by app; the first failure ends it.
pub(super) async fn run(context: &Context, args: Args) -> Result<(), Error> {
    let text = read(&args.file)?;
    let folder = match args.file.parent() {
        Some(folder) if args.file.as_os_str() != "-" => folder,
        _ => Path::new(""),
    };
    let all = file::parse(&text, folder)?;
    let mut wanted = Vec::new();
    for one in all {
        let app = context.app(one.id.clone())?;
        if wanted.iter().any(|(other, _)| *other == app) {
            return Err(Error::Usage(format!("the file names {app} twice")));
        }
        wanted.push((app, one));
    }
    let org = context.org()?;
    let mut plan = Vec::new();
    for (app, one) in &wanted {
        let session = context.connect(&app.org).await?;
        plan.push(compare(&session, app, one, args.republish).await?);
    }
    let gone = if args.prune {
        superfluous(context, &org, &wanted).await?
    } else {
        Vec::new()
    };
    if !args.dry_run {
        if !gone.is_empty() && !args.yes {
            confirm(&gone)?;
        }
        for (step, (app, one)) in plan.iter_mut().zip(wanted) {
            let session = context.connect(&app.org).await?;
            let done = Box::pin(carry_out(context, &session, step, one)).await;
            done.inspect_err(|_| note(&format!("{app} is not as the file says")))?;
        }
    }
    for app in gone {
        if !args.dry_run {
            let session = context.connect(&app.org).await?;
            deploy::delete(&session, &app).await?;
        }
        plan.push(Step {
            app,
            action: Action::Delete,
            changes: Vec::new(),
            url: None,
        });
    }
    print(context, &plan, !args.dry_run)
}

fn read(path: &Path) -> Result<String, Error> {
    let cannot = |e: io::Error| unreadable("the file", path, &e);
    let mut text = String::new();
    if path.as_os_str() == "-" {
        let stdin = io::stdin().lock();
        stdin
            .take(MAX_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(cannot)?;
    } else {
        let file = std::fs::File::open(path).map_err(cannot)?;
        file.take(MAX_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(cannot)?;
    }
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::Usage(format!(
            "the file {} has more than 4 MiB; is it the right one?",
            path.display()
        )));
    }
    Ok(text)
}

/// What differs between an app and what the file says of it.
async fn compare(
    session: &Session,
    app: &AppId,
    one: &Wanted,
    republish: bool,
) -> Result<Step, Error> {
    let deploy::Args {
        source,
        settings,
        hosts,
        ..
    } = &one.args;
    let mut step = Step {
        app: app.clone(),
        action: Action::Create,
        changes: Vec::new(),
        url: None,
    };
    // Read in any case: code that cannot be read is told before anything is changed.
    let save = source.save(app)?.request;
    let meta = match session.app(app).await {
        Err(e) if e.code() == Some(Code::NotFound) => {
            settings.create(app)?;
            step.changes.push(Change::code("", &source.name()));
            return Ok(step);
        }
        got => got?.app.unwrap_or_default(),
    };
    step.url = meta.public_urls.first().cloned();
    if let Some(update) = settings.update(app, &Default::default())? {
        step.changes = compare::settings(&update, &meta)?;
    }
    let request = local::ListHostsRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
    };
    let listed = session.answer(session.hosts().list_hosts(request)).await?;
    for host in hosts {
        let is_there = listed
            .hosts
            .iter()
            .any(|h| h.host.eq_ignore_ascii_case(host));
        if !is_there {
            step.changes.push(Change::host(host));
        }
    }
    let active = active_code(session, app, &meta).await?;
    let is_same = compare::same_code(save.code.as_ref(), active.as_ref());
    if republish || !is_same {
        step.changes.push(Change::code(
            if active.is_some() { "version" } else { "" },
            &source.name(),
        ));
    }
    step.action = if step.changes.is_empty() {
        Action::Keep
    } else {
        Action::Update
    };
    Ok(step)
}

/// The code of the version that requests go to, if there is one.
async fn active_code(
    session: &Session,
    app: &AppId,
    meta: &v1::AppMeta,
) -> Result<Option<v1::CodeSource>, Error> {
    if meta.active_version == 0 {
        return Ok(None);
    }
    let request = v1::GetAppCodeRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        version: meta.active_version,
    };
    let got = session
        .answer(session.client().get_app_code(request))
        .await?;
    Ok(got.code)
}

/// The apps of the organization that the file does not name.
async fn superfluous(
    context: &Context,
    org: &OrgName,
    wanted: &[(AppId, Wanted)],
) -> Result<Vec<AppId>, Error> {
    if wanted.iter().all(|(app, _)| app.org != *org) {
        return Err(Error::Usage(format!(
            "--prune deletes the apps of organization {org} that the file does not name, and it names none of them; name the organization with --org"
        )));
    }
    let session = context.connect(org).await?;
    let apps = overview::apps(&session, org).await?;
    let ids = apps.iter().filter_map(overview::id_of);
    Ok(ids
        .filter(|id| !wanted.iter().any(|(app, _)| app == id))
        .collect())
}

/// Asks whether apps may be deleted; without a terminal it has to be said on the command line.
fn confirm(gone: &[AppId]) -> Result<(), Error> {
    let names: Vec<String> = gone.iter().map(ToString::to_string).collect();
    let names = names.join(", ");
    if !io::stdin().is_terminal() {
        return Err(Error::Usage(format!(
            "--prune would delete {names}; say --yes to do so"
        )));
    }
    let mut err = io::stderr().lock();
    write!(err, "Delete {names} with all versions? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Error::Usage("nothing was changed".to_owned()))
}

async fn carry_out(
    context: &Context,
    session: &Session,
    step: &mut Step,
    one: Wanted,
) -> Result<(), Error> {
    let app = &step.app;
    if step.action == Action::Keep {
        return Ok(());
    }
    let deploy::Args {
        source, settings, ..
    } = &one.args;
    let republished = step.changes.iter().any(Change::is_code);
    let created = match step.action {
        Action::Create => deploy::create(session, app, settings).await?,
        _ => {
            if step.changes.iter().any(Change::is_setting)
                && let Some(request) = settings.update(app, &Default::default())?
            {
                // What is published next has them, too, and waits for them.
                if republished {
                    deploy::change(session, app, request).await?;
                } else {
                    publish::update(context, session, app, request).await?;
                }
            }
            deploy::Created::before()
        }
    };
    let work = async {
        for host in &one.args.hosts {
            hosts::add(session, app, host.clone()).await?;
        }
        if !republished {
            return Ok(None);
        }
        deploy::save(session, &one.args.source, source.save(app)?.request).await?;
        let build = source.is_built().then_some(Lines::Hidden);
        let published = publish::build_and_publish(context, session, app, build, false).await?;
        Ok(published.public_urls.first().cloned())
    };
    let url = Box::pin(created.or_remove(session, app, work)).await?;
    step.url = url.or_else(|| step.url.take());
    Ok(())
}

fn print(context: &Context, plan: &[Step], is_done: bool) -> Result<(), Error> {
    if context.format.is_structured() {
        let apps: Vec<Value> = plan
            .iter()
            .map(|step| {
                json!({
                    "app": step.app.to_string(),
                    "action": step.action.name(false),
                    "done": is_done && step.action != Action::Keep,
                    "changes": step.changes.iter().map(Change::for_programs).collect::<Vec<_>>(),
                    "url": step.url,
                })
            })
            .collect();
        return context.format.print_value(&json!({ "apps": apps }));
    }
    let mut shown = table(&["APP", "ACTION", "WHAT", "FROM", "TO"]);
    for step in plan {
        let (name, action) = (step.app.to_string(), step.action.name(is_done));
        if step.changes.is_empty() {
            shown.add_row([&name, action, "-", "-", "-"]);
        }
        for change in &step.changes {
            let [what, from, to] = change.for_people();
            shown.add_row([
                &name,
                action,
                &what,
                output::or_dash(&from),
                output::or_dash(&to),
            ]);
        }
    }
    output::columns(shown)?;
    let differ = plan.iter().filter(|step| step.action != Action::Keep);
    if !is_done && differ.count() > 0 {
        note("nothing was changed; leave --dry-run out to do this");
    }
    Ok(())
}
