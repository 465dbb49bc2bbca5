//! The spinner of a command that waits.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

/// The time between two frames.
const TICK: Duration = Duration::from_millis(100);
/// The newest spinner that draws.
static DRAWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// A spinner with this message on stderr; one that is not `shown` draws nothing.
pub(super) fn spinner(message: String, shown: bool) -> ProgressBar {
    if !shown {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let bar = ProgressBar::new_spinner().with_message(message);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    *DRAWN.lock() = Some(bar.clone());
    bar
}

/// Prints whole lines while no spinner is on the screen, so that the two never share a line.
pub(super) fn beside<T>(print: impl FnOnce() -> T) -> T {
    let drawn = DRAWN.lock().clone();
    match drawn {
        Some(bar) if !bar.is_finished() => bar.suspend(print),
        _ => print(),
    }
}
