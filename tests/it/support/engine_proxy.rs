//! A proxy to the engine that a test can cut and restore while the engine itself keeps running.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
    task::{AbortHandle, JoinSet},
};

/// A socket that passes every connection on to the engine's own.
pub(crate) struct EngineProxy {
    dir: TempDir,
    engine: PathBuf,
    accepting: Option<AbortHandle>,
}

impl EngineProxy {
    /// Starts passing connections on to the engine at `DOCKER_HOST`, or at its usual socket.
    pub(crate) fn start() -> Self {
        let host = std::env::var("DOCKER_HOST")
            .unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
        let engine = host.strip_prefix("unix://").unwrap_or_else(|| {
            panic!("this test needs an engine behind a Unix socket; DOCKER_HOST is {host}")
        });
        let mut proxy = Self {
            dir: tempfile::tempdir().expect("a directory for the socket"),
            engine: engine.into(),
            accepting: None,
        };
        proxy.restore();
        proxy
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// What to set `DOCKER_HOST` to.
    pub(crate) fn docker_host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Takes the engine away: breaks every connection and removes the socket.
    pub(crate) fn cut(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            std::fs::remove_file(self.socket()).expect("the socket is there");
            accepting.abort();
        }
    }

    /// Brings the engine back.
    pub(crate) fn restore(&mut self) {
        if self.accepting.is_none() {
            let listener = UnixListener::bind(self.socket()).expect("the socket's path is free");
            self.accepting =
                Some(tokio::spawn(accept(listener, self.engine.clone())).abort_handle());
        }
    }
}

impl Drop for EngineProxy {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Owns the connections that it accepts: they end with it.
async fn accept(listener: UnixListener, engine: PathBuf) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let engine = engine.clone();
        connections.spawn(async move { pass(client, &engine).await });
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(mut client: UnixStream, engine: &Path) {
    if let Ok(mut upstream) = UnixStream::connect(engine).await {
        // Either side may close; the drop closes the other.
        let _ = copy_bidirectional(&mut client, &mut upstream).await;
    }
}
