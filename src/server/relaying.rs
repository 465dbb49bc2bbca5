//! Keeps a relay running: a new one whenever one is lost. What it carries is served as what comes to
//! this process's own listeners is.
//!
//! The address that containers know is that of their network's bridge, whichever relay listens
//! there, so nothing changes for them but that connections break off and names are unknown for the
//! moment that a start takes.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{
    backoff::Backoff,
    engine::{Error, docker::Docker},
    gateway::{FromApps, listener::Streams},
    relay::{self, Front, Link, Listens, Plan},
    resolver::{self, Resolver},
};

/// Longest time from the start of a relay until it listens.
const LISTENING: Duration = Duration::from_secs(30);
/// Pause after a relay was lost. It doubles with each one that is lost soon after.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A relay that has run for as long was no failed start.
const STEADY: Duration = Duration::from_secs(60);

/// What is known of the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It is being started.
    Starting,
    /// It carries, and listens there.
    Carries(Listens),
    /// There is none, for this reason; another one is tried after a pause.
    Lost(String),
}

/// What serves calls that a relay carries.
pub(super) struct Served {
    pub(super) streams: Streams<FromApps>,
    pub(super) resolver: Resolver,
    /// Counts the connections.
    pub(super) tasks: TaskTracker,
}

/// Serves what a relay carries once the server runs; until then it waits.
pub(super) struct OnceServed(pub(super) watch::Receiver<Option<Arc<Served>>>);

impl OnceServed {
    /// `None` once the server stops.
    async fn served(&self) -> Option<Arc<Served>> {
        let mut served = self.0.clone();
        let served = served.wait_for(Option::is_some).await.ok()?;
        served.clone()
    }
}

impl Front for OnceServed {
    async fn connection(&self, stream: relay::Stream, peer: SocketAddr, _at: SocketAddr) {
        let Some(served) = self.served().await else {
            return;
        };
        let _counted = served.tasks.token();
        let closed = stream.ended();
        served.streams.serve(stream, peer, closed).await;
    }

    async fn answer(&self, query: Bytes, asked: relay::Asked) -> Option<Vec<u8>> {
        let IpAddr::V4(here) = asked.at.ip() else {
            return None;
        };
        let asked = resolver::Asked {
            client: asked.peer.ip(),
            here,
            over: match asked.over {
                relay::Transport::Udp => resolver::Transport::Udp,
                relay::Transport::Tcp => resolver::Transport::Tcp,
            },
        };
        self.served().await?.resolver.answer(&query, asked).await
    }
}

/// Keeps a relay running until dropped, and publishes what is known of it. Dropping it closes the
/// connection to the relay, upon which the relay ends.
pub(super) async fn keep<F: Front>(
    engine: Arc<Docker>,
    mut plan: Plan,
    front: Arc<F>,
    state: watch::Sender<State>,
) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let begun = Instant::now();
        state.send_replace(State::Starting);
        let why = match run_one(&engine, &plan, front.clone(), &state).await {
            Ok(lost) => format!("the connection to the relay ended: {lost}"),
            Err(error) => error.to_string(),
        };
        if begun.elapsed() >= STEADY {
            backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        }
        if let State::Carries(listens) = &*state.borrow() {
            // Containers know these.
            let first = listens.connections.iter().take(plan.listeners.len());
            plan.listeners = first.map(|at| vec![*at]).collect();
        }
        let pause = backoff.next_wait();
        tracing::warn!(why, retry_in = ?pause, "Apps cannot call apps, since there is no relay; starting another one");
        state.send_replace(State::Lost(why));
        tokio::time::sleep(pause).await;
    }
}

/// Runs one relay until it is lost; returns how.
async fn run_one<F: Front>(
    engine: &Docker,
    plan: &Plan,
    front: Arc<F>,
    state: &watch::Sender<State>,
) -> Result<io::Error, Error> {
    let (memory, sockets) = (plan.limits.memory(), plan.limits.streams());
    let starting = engine.start_relay(plan.arguments(), memory, sockets);
    let relay = starting.await?;
    let (id, last_words) = (relay.id, relay.last_words);
    let establishing = Link::establish(relay.io, plan.limits);
    let lost = match tokio::time::timeout(LISTENING, establishing).await {
        Ok(Ok(link)) => {
            let listens = link.listens().clone();
            tracing::info!(relay = %id, names = ?listens.names, connections = ?listens.connections, "A relay carries calls between apps");
            state.send_replace(State::Carries(listens));
            link.serve(front).await
        }
        Ok(Err(error)) => error,
        Err(_) => io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it did not listen within {LISTENING:?}"),
        ),
    };
    engine.remove_relay(&id).await;
    let said = last_words.get();
    Ok(if said.is_empty() {
        lost
    } else {
        io::Error::new(lost.kind(), format!("{lost}; it said: {said}"))
    })
}
