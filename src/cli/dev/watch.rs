//! Changes in a folder; changes in quick succession count as one.

use std::{path::Path, sync::Arc, time::Duration};

use notify::{Event, EventKind, RecursiveMode, Watcher as _};
use tokio::{sync::Notify, time::timeout};

use super::super::{Error, folder::is_left_out};

/// Quiet time after which a change is complete: editors write a file in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// The longest wait for quiet, for a folder that never stops changing.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Watches a folder until dropped.
pub(super) struct Watch {
    changed: Arc<Notify>,
    _watcher: notify::RecommendedWatcher,
}

impl Watch {
    /// Starts watching a folder recursively.
    ///
    /// # Errors
    /// The system's error, such as too many watches.
    pub(super) fn on(folder: &Path) -> Result<Self, Error> {
        let cannot = |e: &dyn std::fmt::Display| {
            Error::Usage(format!(
                "the folder {} cannot be watched: {e}",
                folder.display()
            ))
        };
        // Events carry the canonical path.
        let root = folder.canonicalize().map_err(|e| cannot(&e))?;
        let changed = Arc::new(Notify::new());
        let (notify, top) = (changed.clone(), root.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| may_change_what_is_sent(&event, &top)) {
                notify.notify_one();
            }
        })
        .map_err(|e| cannot(&e))?;
        let watched = watcher.watch(&root, RecursiveMode::Recursive);
        watched.map_err(|e| cannot(&e))?;
        Ok(Self {
            changed,
            _watcher: watcher,
        })
    }

    /// Waits for a change and then for quiet.
    ///
    /// # Cancel safety
    /// Dropping the future may lose the change it waited for; the next call returns later ones.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
        let quiet = async { while timeout(QUIET, self.changed.notified()).await.is_ok() {} };
        let _ = timeout(MAX_WAIT, quiet).await;
    }
}

/// Whether an event may change what is sent. Reading a file is an event too.
fn may_change_what_is_sent(event: &Event, root: &Path) -> bool {
    let is_sent = |path: &Path| !path.strip_prefix(root).is_ok_and(is_left_out);
    !matches!(event.kind, EventKind::Access(_))
        && (event.need_rescan() || event.paths.iter().any(|path| is_sent(path)))
}

#[cfg(test)]
mod tests {
    use notify::event::{AccessKind, ModifyKind};

    use super::*;

    #[test]
    fn reading_a_file_and_what_is_never_sent_change_nothing() {
        let written = EventKind::Modify(ModifyKind::Any);
        let is_change = |kind, path: &str| {
            let event = Event::new(kind).add_path(path.into());
            may_change_what_is_sent(&event, Path::new("/target/fn"))
        };
        assert!(is_change(written, "/target/fn/handler.py"));
        assert!(!is_change(
            EventKind::Access(AccessKind::Any),
            "/target/fn/handler.py"
        ));
        for path in [
            "/target/fn/.git/index",
            "/target/fn/a/.h.py.swp",
            "/target/fn/h.py~",
        ] {
            assert!(!is_change(written, path), "{path}");
        }
    }
}
