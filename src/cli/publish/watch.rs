//! The events and the log of an app during a publish.

use std::time::Duration;

use tokio::time::sleep;
use tonic::{Code, Response, Status, Streaming};

use super::LOG_LINES;
use crate::{api::proto::v1, cli::context::Session, model::AppId};

/// Delay before a stream that is missing or broken is requested again.
const RETRY: Duration = Duration::from_millis(250);
/// How many events are read after a gap: all that the server keeps.
const ALL_EVENTS: i32 = 256;
/// The longest wait for one answer after the server was lost.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// A version serves once a replica of it is ready.
pub(super) const PUBLISHING: &str = "PUBLISHING";
/// Changed settings serve once a replica with them is ready.
pub(super) const ROLLING_OUT: &str = "ROLLING_OUT";
/// A replica with changed settings did not get ready.
pub(super) const ROLL_OUT_FAILED: &str = "ROLL_OUT_FAILED";

/// What the watch saw of the app.
pub(super) enum Seen {
    Event(v1::AppEvent),
    Line(v1::LogLine),
    /// The server answers but has no event of what is followed, which it would have if that were
    /// under way.
    Nothing,
    /// The app is gone, or not the caller's any more.
    Gone(Box<Status>),
}

/// The events and the log of an app from now on, across gaps in the connection.
pub(super) struct Watch<'a> {
    session: &'a Session,
    app: &'a AppId,
    events: Option<Streaming<v1::AppEvent>>,
    log: Option<Streaming<v1::LogLine>>,
    with_log: bool,
    /// The time of the newest line that was shown, now and when the log was opened: an opened log
    /// begins with lines that were shown before.
    logged_ms: i64,
    opened_ms: i64,
    /// The lines of that newest time, to recognize them.
    logged: Vec<v1::LogLine>,
    /// The shown events of the newest time, to recognize them after a gap.
    shown: Vec<v1::AppEvent>,
    /// An event of the publish was seen.
    begun: bool,
    /// Events were missed, or may have been.
    gap: bool,
    /// Events to show, the next one last.
    waiting: Vec<v1::AppEvent>,
}

impl<'a> Watch<'a> {
    pub(super) async fn from_now(session: &'a Session, app: &'a AppId, with_log: bool) -> Self {
        let mut watch = Self {
            session,
            app,
            events: None,
            log: None,
            with_log,
            logged_ms: 0,
            opened_ms: 0,
            logged: Vec::new(),
            shown: Vec::new(),
            begun: false,
            gap: false,
            waiting: Vec::new(),
        };
        // The latest event separates earlier ones from those of this publish.
        watch.shown = watch.newest(1).await.unwrap_or_default();
        watch
    }

    /// The newest events; `None` when the server cannot be asked.
    async fn newest(&self, limit: i32) -> Result<Vec<v1::AppEvent>, Option<Status>> {
        let request = v1::GetAppEventsRequest {
            organization_name: self.app.org.to_string(),
            app_name: self.app.name.to_string(),
            limit,
        };
        let mut client = self.session.client();
        let asked = tokio::time::timeout(ASK_LIMIT, client.get_app_events(request)).await;
        let answer = asked.map_err(|_| None)?;
        answer.map(|a| a.into_inner().events).map_err(Some)
    }

    /// Drops the streams; missed events are read before new streams are opened.
    pub(super) fn disconnect(&mut self) {
        (self.events, self.log, self.gap) = (None, None, true);
    }

    /// The next event or line.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event; it may lose lines of the log.
    pub(super) async fn next(&mut self) -> Seen {
        loop {
            if let Some(event) = self.waiting.pop() {
                self.mark_shown(&event);
                return Seen::Event(event);
            }
            if std::mem::take(&mut self.gap) {
                match self.catch_up().await {
                    Ok(true) => continue,
                    Ok(false) => return Seen::Nothing,
                    Err(Some(status)) if is_final(&status) => return Seen::Gone(Box::new(status)),
                    Err(_) => {
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
            if self.log.is_none() && self.with_log {
                // Refused, perhaps while a container changes state; the next try may succeed.
                self.log = open_log(self.session, self.app).await;
                self.opened_ms = self.logged_ms;
            }
            tokio::select! {
                event = events.message() => match event {
                    Ok(Some(event)) if self.is_old(&event) => {}
                    Ok(Some(event)) => {
                        self.mark_shown(&event);
                        return Seen::Event(event);
                    }
                    Ok(None) | Err(_) => self.disconnect(),
                },
                line = next_line(&mut self.log) => match line {
                    Some(line) if line.timestamp_ms <= self.opened_ms => {}
                    Some(line) => {
                        self.mark_logged(&line);
                        return Seen::Line(line);
                    }
                    None => self.log = None,
                },
            }
        }
    }

    /// Everything up to now that is not yet shown: when the call is answered, the streams may lag
    /// behind it.
    pub(super) async fn drain(&mut self) -> Vec<Seen> {
        let mut events = self.newest(ALL_EVENTS).await.unwrap_or_default();
        events.retain(|e| !self.is_old(e));
        let request = v1::GetAppLogsRequest {
            organization_name: self.app.org.to_string(),
            app_name: self.app.name.to_string(),
            limit: LOG_LINES as i32,
            ..Default::default()
        };
        let mut client = self.session.client();
        let asked = async {
            if self.with_log {
                client.get_app_logs(request).await.ok()
            } else {
                None
            }
        };
        let lines = match tokio::time::timeout(ASK_LIMIT, asked).await {
            Ok(Some(answer)) => answer.into_inner().lines,
            Ok(None) | Err(_) => Vec::new(),
        };
        let news = lines
            .into_iter()
            .filter(|line| line.timestamp_ms >= self.logged_ms && !self.logged.contains(line));
        let events = events.into_iter().map(Seen::Event);
        events.chain(news.map(Seen::Line)).collect()
    }

    fn mark_logged(&mut self, line: &v1::LogLine) {
        self.logged_ms = line.timestamp_ms;
        self.logged.retain(|l| l.timestamp_ms == line.timestamp_ms);
        self.logged.push(line.clone());
    }

    fn is_old(&self, event: &v1::AppEvent) -> bool {
        let last = self.shown.last().map_or(0, |e| e.timestamp_ms);
        event.timestamp_ms < last || self.shown.contains(event)
    }

    pub(super) fn mark_shown(&mut self, event: &v1::AppEvent) {
        self.begun |= begins(event);
        self.shown.retain(|e| e.timestamp_ms == event.timestamp_ms);
        self.shown.push(event.clone());
    }

    async fn open(&mut self) {
        let (org, name) = (self.app.org.to_string(), self.app.name.to_string());
        let events = v1::StreamAppEventsRequest {
            organization_name: org,
            app_name: name,
            // Events from before the stream was opened, too.
            tail: ALL_EVENTS,
        };
        let mut client = self.session.client();
        // Before the first publish there are no events.
        let Ok(events) = client.stream_app_events(events).await else {
            return;
        };
        self.events = Some(events.into_inner());
    }

    /// Queues the missed events and returns whether something to follow was or is under way.
    async fn catch_up(&mut self) -> Result<bool, Option<Status>> {
        // The stream is opened first, so that nothing is lost between the two calls.
        self.open().await;
        let all = self.newest(ALL_EVENTS).await?;
        // A restarted server remembers no events.
        if !self.shown.is_empty() && !self.shown.iter().any(|e| all.contains(e)) {
            (self.shown, self.begun) = (Vec::new(), false);
        }
        let news = all.into_iter().filter(|e| !self.is_old(e));
        self.waiting = news.collect();
        self.waiting.reverse();
        Ok(self.begun || self.waiting.iter().any(begins))
    }
}

/// Whether something that can be followed begins with it.
fn begins(event: &v1::AppEvent) -> bool {
    [PUBLISHING, ROLLING_OUT].contains(&event.r#type.as_str())
}

/// Whether asking again would change nothing.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::NotFound | Code::PermissionDenied | Code::Unauthenticated
    )
}

async fn open_log(session: &Session, app: &AppId) -> Option<Streaming<v1::LogLine>> {
    let request = v1::StreamAppLogsRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        // The container may have started earlier; each line names the version that wrote it.
        tail: LOG_LINES as i32,
        ..Default::default()
    };
    let opened = session.client().stream_app_logs(request).await;
    opened.ok().map(Response::into_inner)
}

/// The next line; `None` when the log has to be reopened.
async fn next_line(log: &mut Option<Streaming<v1::LogLine>>) -> Option<v1::LogLine> {
    if let Some(log) = log
        && let Ok(Some(line)) = log.message().await
    {
        return Some(line);
    }
    sleep(RETRY).await;
    None
}
