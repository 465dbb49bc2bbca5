//! What is shown of a publish while it runs.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io::{self, IsTerminal as _},
};

use indicatif::ProgressBar;

use super::{
    LOG_LINES,
    watch::{PUBLISHING, ROLL_OUT_FAILED, ROLLING_OUT, Seen},
};
use crate::{
    api::proto::v1,
    cli::{failure::note, spinner::spinner, text},
};

/// Progress on stderr: a spinner on a terminal, one line per step elsewhere.
pub(super) struct Progress {
    bar: ProgressBar,
    version: Cell<u32>,
    lines: Cell<usize>,
    /// Lines that arrived before the event that names the version: the events and the log are two
    /// streams, so the version's first lines may be among them.
    early: RefCell<VecDeque<v1::LogLine>>,
}

impl Progress {
    pub(super) fn new(what: &str) -> Self {
        let shown = Self {
            bar: spinner(what.to_owned(), io::stderr().is_terminal()),
            version: Default::default(),
            lines: Default::default(),
            early: Default::default(),
        };
        if shown.bar.is_hidden() {
            note(&format!("{what} …"));
        }
        shown
    }

    pub(super) fn line(&self, line: &str) {
        note(line);
    }

    pub(super) fn show(&self, seen: &Seen) {
        match seen {
            Seen::Event(event) => self.event(event),
            Seen::Line(line) => self.log(line),
            Seen::Nothing | Seen::Gone(_) => {}
        }
    }

    /// Shows an event of the version being published; the command itself reports the end.
    fn event(&self, event: &v1::AppEvent) {
        if [PUBLISHING, ROLLING_OUT].contains(&event.r#type.as_str()) {
            self.version.set(event.version);
            let early = self.early.take();
            early.iter().for_each(|line| self.log(line));
        }
        let of_it = event.version == self.version.get() && event.version != 0;
        let reported_later = [
            "ACTIVATED",
            "PUBLISH_FAILED",
            ROLL_OUT_FAILED,
            "START_FAILED",
            "REFUSED_IN_CLOUD",
            "WARNING",
            "SCALED",
        ];
        if of_it && !reported_later.contains(&event.r#type.as_str()) {
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

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
