//! A test's script of an image's containers, and the counts of calls.

use std::time::Duration;

use crate::{
    engine::{Endpoints, Error, Listening},
    model::Platform,
};

/// How containers of one image behave.
#[derive(Debug, Clone)]
pub struct Script {
    /// How long the image's pull takes; the first [`Engine::ensure_image`] waits for it.
    pub pull: Duration,
    /// Why the image is not available, if so.
    pub pull_error: Option<Error>,
    /// How long a create takes.
    pub create: Duration,
    /// Why a create fails, if so; after the delay. [`Error::TimedOut`] still leaves the container
    /// behind, as a slow engine does.
    pub create_error: Option<Error>,
    /// How long a start takes.
    pub start: Duration,
    /// Why a start fails, if so; after the delay.
    pub start_error: Option<Error>,
    /// Whether a start panics, as if the platform's own code were wrong.
    pub start_panics: bool,
    /// How long a stop takes, at most the grace.
    pub stop: Duration,
    /// How long a freeze takes.
    pub pause: Duration,
    /// Why a freeze fails, if so.
    pub pause_error: Option<Error>,
    /// How long a thaw takes.
    pub resume: Duration,
    /// Why a thaw fails, if so.
    pub resume_error: Option<Error>,
    /// Why a container cannot be prepared, if so; it takes as long as a create.
    pub prepare_error: Option<Error>,
    /// The memory that a container reports.
    pub memory: Option<u64>,
    /// How often its containers were refused another process.
    pub forks_refused: u64,
    /// When after its start the container ends by itself, and with which code.
    pub exits: Option<(Duration, i64)>,
    /// The result of [`Engine::log_tail`].
    pub log: Vec<String>,
    /// Where its containers are reached; `None` gives each its own address.
    pub endpoints: Option<Endpoints>,
    /// How long after its start the app listens.
    pub ready: Duration,
    /// The status of its responses on the health path; `None` accepts connections and never
    /// responds.
    pub status: Option<u16>,
    /// The result of [`Engine::listening`].
    pub listening: Option<Listening>,
    /// The image's user.
    pub user: String,
    /// The image's platform; unset, it fits every host.
    pub platform: Platform,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            pull: Duration::ZERO,
            pull_error: None,
            create: Duration::from_millis(50),
            create_error: None,
            start: Duration::from_millis(200),
            start_error: None,
            start_panics: false,
            stop: Duration::from_millis(10),
            pause: Duration::from_millis(15),
            pause_error: None,
            resume: Duration::from_millis(10),
            resume_error: None,
            prepare_error: None,
            memory: Some(1 << 20),
            forks_refused: 0,
            exits: None,
            log: Vec::new(),
            endpoints: None,
            ready: Duration::ZERO,
            status: Some(200),
            listening: None,
            user: "1000".into(),
            platform: Platform::default(),
        }
    }
}

/// How often each call was made, failed ones too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Health checks.
    pub info: usize,
    /// Images requested.
    pub ensure_image: usize,
    /// Containers created.
    pub create: usize,
    /// Containers started.
    pub start: usize,
    /// Containers frozen.
    pub pause: usize,
    /// Containers thawed.
    pub resume: usize,
    /// Containers prepared.
    pub prepare: usize,
    /// Inspections.
    pub inspect: usize,
    /// Containers stopped.
    pub stop: usize,
    /// Containers removed.
    pub remove: usize,
    /// Lists requested.
    pub list: usize,
    /// Requests that apps have run, without health checks.
    pub requests: usize,
}
