//! A publish or a rollback, followed to its end.
//!
//! The server goes on with it whatever becomes of the call, so what counts is not the call but the
//! app's events: they are shown while it lasts, and tell how it ended when the call broke.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io::{self, IsTerminal as _},
    time::Duration,
};

use futures_util::future::LocalBoxFuture;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use prost::Message as _;
use tokio::time::sleep;
use tonic::{Code, Response, Status, Streaming};

use super::{Context, Error, app::get, context::Session, failure::note, text};
use crate::{
    api::proto::{rpc, v1},
    model::AppId,
};

/// Wait before a stream that is not there yet, or not any more, is asked for again.
const RETRY: Duration = Duration::from_millis(250);
/// Lines of the new version's log that are shown; a broken start tells its last ones anyway.
const LOG_LINES: usize = 20;
/// Events that are looked through after a gap: all that the server keeps.
const ALL_EVENTS: i32 = 256;
/// Longest wait for one answer when the server has been lost.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// Publishes the draft and says on stderr how it goes; warnings too.
///
/// # Errors
/// Why it was not published; [`Error::TimedOut`] when `--timeout` was given, the publish goes on.
pub(super) async fn publish(
    context: &Context,
    session: &Session,
    app: &AppId,
    no_wait: bool,
) -> Result<v1::PublishDraftResponse, Error> {
    let request = v1::PublishDraftRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        skip_ready_check: no_wait,
    };
    let call = || {
        let (mut client, request) = (session.client(), request.clone());
        Box::pin(async move { client.publish_draft(request).await }) as Call<'_, _>
    };
    let what = format!("Publishing {app} (an image that is not there yet is pulled)");
    let published = match follow(context, session, app, &what, call).await? {
        Ended::Answered(published) => published,
        Ended::Active(version) => published_as(session, app, version).await?,
    };
    warn(&published.warnings);
    Ok(published)
}

/// Shows what the server warns of.
pub(super) fn warn(warnings: &[String]) {
    for warning in warnings {
        note(&format!("warning: {}", text::quoted(warning)));
    }
}

/// Rolls back to a version and says on stderr how it goes.
///
/// # Errors
/// As for [`publish`].
pub(super) async fn roll_back(
    context: &Context,
    session: &Session,
    app: &AppId,
    version: u32,
    no_wait: bool,
) -> Result<v1::RollbackAppResponse, Error> {
    let request = v1::RollbackAppRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        version,
        skip_ready_check: no_wait,
    };
    let before = active_version(session, app).await?;
    let call = || {
        let (mut client, request) = (session.client(), request.clone());
        Box::pin(async move { client.rollback_app(request).await }) as Call<'_, _>
    };
    let what = format!("Rolling {app} back to version {version}");
    Ok(match follow(context, session, app, &what, call).await? {
        Ended::Answered(done) => done,
        Ended::Active(version) => v1::RollbackAppResponse {
            active_version: version,
            previous_version: before,
        },
    })
}

/// How it came about.
enum Ended<T> {
    /// The call was answered.
    Answered(T),
    /// The app's events say that this version is active.
    Active(u32),
}

type Call<'a, T> = LocalBoxFuture<'a, Result<Response<T>, Status>>;

/// Makes a call and follows the app meanwhile, and on when the call breaks.
async fn follow<'a, T>(
    context: &Context,
    session: &'a Session,
    app: &AppId,
    what: &str,
    call: impl Fn() -> Call<'a, T>,
) -> Result<Ended<T>, Error> {
    let shown = Shown::new(what);
    let work = async {
        let mut watch = Watch::from_now(session, app).await;
        let mut calling = Some(call());
        loop {
            tokio::select! {
                biased;
                answer = async { calling.as_mut().expect("there is one").await }, if calling.is_some() => {
                    calling = None;
                    match answer {
                        Ok(answer) => {
                            watch.rest().await.into_iter().for_each(|seen| shown.seen(&seen));
                            return Ok(Ended::Answered(answer.into_inner()));
                        }
                        Err(status) if is_answer(&status) => return Err(session.refused(status)),
                        Err(status) => shown.line(&format!(
                            "The call broke ({}); what it began is followed on", status.message()
                        )),
                    }
                    watch.lost();
                }
                seen = watch.next() => match seen {
                    Seen::Event(event) => {
                        if calling.is_none() && let Some(end) = end(&event) {
                            return end.map(Ended::Active);
                        }
                        shown.seen(&Seen::Event(event));
                    }
                    Seen::Nothing if calling.is_none() => {
                        shown.line("The server knows nothing of it any more; asking again");
                        calling = Some(call());
                    }
                    seen => shown.seen(&seen),
                }
            }
        }
    };
    let Some(limit) = context.follow_limit else {
        return work.await;
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        note(&format!(
            "it goes on; `ignite app events {}:{}` says how it ends",
            app.org, app.name
        ));
        Err(Error::TimedOut(limit))
    })
}

/// Whether the server itself said so: what only the connection's end says carries no reason.
fn is_answer(status: &Status) -> bool {
    let broken = [
        Code::Unavailable,
        Code::Unknown,
        Code::Internal,
        Code::Cancelled,
        Code::DeadlineExceeded,
    ];
    let says_why = rpc::Status::decode(status.details()).is_ok_and(|s| !s.details.is_empty());
    says_why || !broken.contains(&status.code())
}

/// How a publish ended, when the event says so.
fn end(event: &v1::AppEvent) -> Option<Result<u32, Error>> {
    match event.r#type.as_str() {
        "ACTIVATED" => Some(Ok(event.version)),
        "PUBLISH_FAILED" => Some(Err(Error::PublishFailed(event.message.clone()))),
        _ => None,
    }
}

/// What was seen of the app.
enum Seen {
    Event(v1::AppEvent),
    Line(v1::LogLine),
    /// The server is there and has no event of a publish, which it would have if one went on.
    Nothing,
}

/// The events and the log of an app from now on, over gaps in the connection.
struct Watch<'a> {
    session: &'a Session,
    app: &'a AppId,
    events: Option<Streaming<v1::AppEvent>>,
    log: Option<Streaming<v1::LogLine>>,
    /// The time of the newest line that was told, and of that when the log was opened: it begins
    /// with lines that were told before.
    logged_ms: i64,
    opened_ms: i64,
    /// The lines of that newest time, to know them again.
    logged: Vec<v1::LogLine>,
    /// Those of the newest time that were told, to know them again after a gap.
    told: Vec<v1::AppEvent>,
    /// The publish has been heard of.
    begun: bool,
    /// Events were missed, or may have been.
    gap: bool,
    /// To be told, the next one last.
    waiting: Vec<v1::AppEvent>,
}

impl<'a> Watch<'a> {
    async fn from_now(session: &'a Session, app: &'a AppId) -> Self {
        let mut watch = Self {
            session,
            app,
            events: None,
            log: None,
            logged_ms: 0,
            opened_ms: 0,
            logged: Vec::new(),
            told: Vec::new(),
            begun: false,
            gap: false,
            waiting: Vec::new(),
        };
        // What happened before is known from what comes later by the last of it.
        watch.told = watch.newest(1).await.unwrap_or_default();
        watch
    }

    async fn newest(&self, limit: i32) -> Option<Vec<v1::AppEvent>> {
        let request = v1::GetAppEventsRequest {
            organization_name: self.app.org.to_string(),
            app_name: self.app.name.to_string(),
            limit,
        };
        let mut client = self.session.client();
        let asked = tokio::time::timeout(ASK_LIMIT, client.get_app_events(request)).await;
        Some(asked.ok()?.ok()?.into_inner().events)
    }

    /// The connection is not to be relied on any more.
    fn lost(&mut self) {
        (self.events, self.log, self.gap) = (None, None, true);
    }

    /// Loses nothing when it is dropped, but for lines of the log.
    async fn next(&mut self) -> Seen {
        loop {
            if let Some(event) = self.waiting.pop() {
                self.tell(&event);
                return Seen::Event(event);
            }
            if std::mem::take(&mut self.gap) {
                match self.missed().await {
                    Ok(true) => continue,
                    Ok(false) => return Seen::Nothing,
                    Err(()) => {
                        self.gap = true;
                        sleep(RETRY).await;
                        continue;
                    }
                }
            }
            if self.events.is_none() {
                self.open().await;
            }
            let Some(events) = &mut self.events else {
                sleep(RETRY).await;
                continue;
            };
            if self.log.is_none() {
                // Refused while a container is between two states, say; the next try may do.
                self.log = open_log(self.session, self.app).await;
                self.opened_ms = self.logged_ms;
            }
            tokio::select! {
                event = events.message() => match event {
                    Ok(Some(event)) if self.is_old(&event) => {}
                    Ok(Some(event)) => {
                        self.tell(&event);
                        return Seen::Event(event);
                    }
                    Ok(None) | Err(_) => self.lost(),
                },
                line = next_line(&mut self.log) => match line {
                    Some(line) if line.timestamp_ms <= self.opened_ms => {}
                    Some(line) => {
                        self.log(&line);
                        return Seen::Line(line);
                    }
                    None => self.log = None,
                },
            }
        }
    }

    /// What happened up to now and was not told: the streams may be behind with it when the call
    /// is answered.
    async fn rest(&mut self) -> Vec<Seen> {
        let mut events = self.newest(ALL_EVENTS).await.unwrap_or_default();
        events.retain(|e| !self.is_old(e));
        let request = v1::GetAppLogsRequest {
            organization_name: self.app.org.to_string(),
            app_name: self.app.name.to_string(),
            limit: LOG_LINES as i32,
            ..Default::default()
        };
        let mut client = self.session.client();
        let asked = tokio::time::timeout(ASK_LIMIT, client.get_app_logs(request)).await;
        let lines = match asked {
            Ok(Ok(answer)) => answer.into_inner().lines,
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        let news = lines
            .into_iter()
            .filter(|line| line.timestamp_ms >= self.logged_ms && !self.logged.contains(line));
        let events = events.into_iter().map(Seen::Event);
        events.chain(news.map(Seen::Line)).collect()
    }

    fn log(&mut self, line: &v1::LogLine) {
        self.logged_ms = line.timestamp_ms;
        self.logged.retain(|l| l.timestamp_ms == line.timestamp_ms);
        self.logged.push(line.clone());
    }

    fn is_old(&self, event: &v1::AppEvent) -> bool {
        let last = self.told.last().map_or(0, |e| e.timestamp_ms);
        event.timestamp_ms < last || self.told.contains(event)
    }

    fn tell(&mut self, event: &v1::AppEvent) {
        self.begun |= event.r#type == "PUBLISHING";
        self.told.retain(|e| e.timestamp_ms == event.timestamp_ms);
        self.told.push(event.clone());
    }

    async fn open(&mut self) {
        let (org, name) = (self.app.org.to_string(), self.app.name.to_string());
        let events = v1::StreamAppEventsRequest {
            organization_name: org,
            app_name: name,
            // What came before it was opened.
            tail: ALL_EVENTS,
        };
        let mut client = self.session.client();
        // Before the first publish there is nothing yet.
        let Ok(events) = client.stream_app_events(events).await else {
            return;
        };
        self.events = Some(events.into_inner());
    }

    /// Looks at what was missed; whether a publish was or is under way.
    async fn missed(&mut self) -> Result<bool, ()> {
        // First, so that nothing is lost between the two.
        self.open().await;
        let all = self.newest(ALL_EVENTS).await.ok_or(())?;
        // A server that was started again remembers nothing.
        if !self.told.is_empty() && !self.told.iter().any(|e| all.contains(e)) {
            (self.told, self.begun) = (Vec::new(), false);
        }
        let news = all.into_iter().filter(|e| !self.is_old(e));
        self.waiting = news.collect();
        self.waiting.reverse();
        Ok(self.begun || self.waiting.iter().any(|e| e.r#type == "PUBLISHING"))
    }
}

async fn open_log(session: &Session, app: &AppId) -> Option<Streaming<v1::LogLine>> {
    let request = v1::StreamAppLogsRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        // The container may have begun before this is heard; which version wrote it is told.
        tail: LOG_LINES as i32,
        ..Default::default()
    };
    let opened = session.client().stream_app_logs(request).await;
    opened.ok().map(Response::into_inner)
}

/// The next line; `None` when the log has to be opened again.
async fn next_line(log: &mut Option<Streaming<v1::LogLine>>) -> Option<v1::LogLine> {
    if let Some(log) = log
        && let Ok(Some(line)) = log.message().await
    {
        return Some(line);
    }
    sleep(RETRY).await;
    None
}

/// Progress on stderr: a line that moves on a terminal, one line for each step elsewhere.
struct Shown {
    bar: ProgressBar,
    version: Cell<u32>,
    lines: Cell<usize>,
    /// Lines that were heard before the version that is published; its first ones may be among
    /// them, since the events and the log are two streams.
    early: RefCell<VecDeque<v1::LogLine>>,
}

impl Shown {
    fn new(what: &str) -> Self {
        let bar = if io::stderr().is_terminal() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TURN);
        bar.set_message(what.to_owned());
        let shown = Self {
            bar,
            version: Default::default(),
            lines: Default::default(),
            early: Default::default(),
        };
        if shown.bar.is_hidden() {
            note(&format!("{what} …"));
        }
        shown
    }

    fn line(&self, line: &str) {
        if self.bar.is_hidden() {
            note(line)
        } else {
            self.bar.println(text::shown(line))
        }
    }

    fn seen(&self, seen: &Seen) {
        match seen {
            Seen::Event(event) => self.event(event),
            Seen::Line(line) => self.log(line),
            Seen::Nothing => {}
        }
    }

    /// What happens to the version that is published; the end is told by the command.
    fn event(&self, event: &v1::AppEvent) {
        if event.r#type == "PUBLISHING" {
            self.version.set(event.version);
            let early = self.early.take();
            early.iter().for_each(|line| self.log(line));
        }
        let of_it = event.version == self.version.get() && event.version != 0;
        let told_later = [
            "ACTIVATED",
            "PUBLISH_FAILED",
            "START_FAILED",
            "REFUSED_IN_CLOUD",
            "WARNING",
            "SCALED",
        ];
        if of_it && !told_later.contains(&event.r#type.as_str()) {
            self.line(&format!("  {}", text::quoted(&event.message)));
        }
    }

    fn log(&self, line: &v1::LogLine) {
        if self.version.get() == 0 {
            let mut early = self.early.borrow_mut();
            if early.len() == LOG_LINES {
                early.pop_front();
            }
            early.push_back(line.clone());
            return;
        }
        if line.version != self.version.get() {
            return;
        }
        let seen = self.lines.get();
        self.lines.set(seen + 1);
        match seen {
            0..LOG_LINES => self.line(&format!("  | {}", text::one_line(&line.message))),
            LOG_LINES => self.line("  | … (`ignite app logs` has the rest)"),
            _ => {}
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

async fn active_version(session: &Session, app: &AppId) -> Result<u32, Error> {
    let got = session.answer(session.client().get_app(get(app))).await?;
    Ok(got.app.unwrap_or_default().active_version)
}

/// What PublishDraft would have answered.
async fn published_as(
    session: &Session,
    app: &AppId,
    version: u32,
) -> Result<v1::PublishDraftResponse, Error> {
    let got = session.answer(session.client().get_app(get(app))).await?;
    let meta = got.app.unwrap_or_default();
    let request = v1::GetAppVersionRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        version,
    };
    let version = session
        .answer(session.client().get_app_version(request))
        .await?;
    Ok(v1::PublishDraftResponse {
        version: version.version,
        public_urls: meta.public_urls,
        ..Default::default()
    })
}
