//! Signals: which stop a server, which reload its configuration, which it ignores.

use std::{fs, time::Duration};

use anyhow::Result;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use super::Reload;

/// Signals within this time of the first count as copies of it: longer than a wrapper needs to pass
/// one on, shorter than a person needs to lose patience.
const SAME_SIGNAL: Duration = Duration::from_millis(500);
/// SIGHUP's bit in the kernel's masks of signals: it is number 1.
const HANGUP_BIT: u64 = 1;

/// SIGINT, SIGTERM and SIGHUP, from before the first work on.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` where this process was started with SIGHUP ignored, as by `nohup`.
    hangup: Option<Signal>,
    /// Whether SIGHUP stops the server instead of reloading its configuration.
    ends_at_hangup: bool,
}

impl Signals {
    /// Registers the handlers.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub(super) fn new(ephemeral: bool) -> Result<Self> {
        let hangup = if ignored().is_some_and(|mask| mask & HANGUP_BIT != 0) {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
            // Checked now, since a terminal that has hung up cannot be opened.
            ends_at_hangup: ephemeral || fs::File::open("/dev/tty").is_ok(),
        })
    }

    /// Waits for the first signal that stops the server.
    pub(super) async fn first(&mut self, reload: &Reload) {
        loop {
            let name = tokio::select! {
                name = stopping(&mut self.interrupt, &mut self.terminate) => name,
                () = next(&mut self.hangup) => if self.ends_at_hangup { "SIGHUP" } else {
                    match reload() {
                        Ok(done) => tracing::info!(signal = "SIGHUP", "Reloaded: {done}"),
                        Err(error) => tracing::error!(signal = "SIGHUP", "Not reloaded, everything goes on as before: {error:#}"),
                    }
                    continue;
                },
            };
            tracing::info!(signal = name, "Stopping; a second signal stops at once");
            return;
        }
    }

    /// Waits for a second signal, which ends the process at once. Wrappers such as `timeout`
    /// deliver one signal twice, to the process and to its group; such a copy does not count, nor
    /// does a terminal that hangs up meanwhile.
    pub(super) async fn again(&mut self) {
        let first = Instant::now();
        let name = loop {
            let name = stopping(&mut self.interrupt, &mut self.terminate).await;
            if first.elapsed() >= SAME_SIGNAL {
                break name;
            }
        };
        tracing::warn!(
            signal = name,
            "Stopping at once; containers may stay until the next start or `ignite prune`"
        );
    }
}

async fn stopping(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

async fn next(hangup: &mut Option<Signal>) {
    match hangup {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The mask of signals that this process was started to ignore; `None` where the kernel does not
/// say.
fn ignored() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}
