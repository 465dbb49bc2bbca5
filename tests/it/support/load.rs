//! Clients that notice when a request is lost.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use tokio::task::JoinSet;

use super::{
    app::{App, ENGINE_LIMIT},
    eventually,
    ignite::Ignite,
};

/// Clients that call one app without pause until stopped, and fail the test on the first answer
/// that is not a complete 200.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    /// Begins.
    pub(crate) fn on(ignite: &Arc<Ignite>, app: &App) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for client in 0..6 {
            let (ignite, app) = (ignite.clone(), app.clone());
            let (stop, answered) = (stop.clone(), answered.clone());
            // Short requests, and long ones that are in flight whenever something changes.
            let path = if client % 2 == 0 { "/" } else { "/stream/4/20" };
            clients.spawn(async move {
                while !stop.load(Relaxed) {
                    app.get_ok(&ignite, path).await.bytes().await;
                    answered.fetch_add(1, Relaxed);
                }
            });
        }
        Self {
            stop,
            answered,
            clients,
        }
    }

    /// Waits for that many more answers.
    pub(crate) async fn more(&self, answers: usize) {
        let wanted = self.answered.load(Relaxed) + answers;
        eventually(ENGINE_LIMIT, || async {
            (self.answered.load(Relaxed) >= wanted).then_some(())
        })
        .await;
    }

    /// Stops and returns how many requests were made, all answered well.
    pub(crate) async fn end(mut self) -> usize {
        self.stop.store(true, Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a request was lost");
        }
        self.answered.load(Relaxed)
    }
}
