//! A scripted engine for simulations under tokio's paused clock.
//!
//! A test scripts per image how long calls take, how they fail, when the container ends and where
//! it is reached; [`Fake`] counts the calls and lets the test kill containers and take the whole
//! engine away. It has no network and no process behind it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::sleep;

use self::state::{Made, State};
use super::{Container, ContainerId, ContainerSpec, ContainerState, Error};

mod calls;
mod script;
mod state;
#[cfg(test)]
mod tests;

pub use script::{Counts, Script};

/// The engine; clones share one state.
#[derive(Clone, Default)]
pub struct Fake {
    /// Never held across an await.
    state: Arc<Mutex<State>>,
}

impl Fake {
    /// An engine that runs and has no containers; every image exists and behaves by default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the behaviour of containers of `image` from now on.
    pub fn script(&self, image: &str, script: Script) {
        self.state.lock().scripts.insert(image.to_owned(), script);
    }

    /// Makes calls fail for want of a file descriptor, or ends that.
    pub fn set_no_descriptors(&self, none: bool) {
        self.state.lock().no_descriptors = none;
    }

    /// Takes the engine away or brings it back. Going away ends the event streams; containers
    /// continue.
    pub fn set_unreachable(&self, unreachable: bool) {
        let mut state = self.state.lock();
        state.unreachable = unreachable;
        if unreachable {
            state.listeners.clear();
        }
    }

    /// Gives no events from now on: every event stream ends at once.
    pub fn mute(&self) {
        let mut state = self.state.lock();
        state.mute = true;
        state.listeners.clear();
    }

    /// How often each call was made.
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// All containers, running or not, in the order of their creation.
    pub fn containers(&self) -> Vec<Container> {
        self.state.lock().all()
    }

    /// The running containers, in the order of their creation.
    pub fn live(&self) -> Vec<Container> {
        let running = |c: &Container| !c.is_holder && matches!(c.state, ContainerState::Running(_));
        self.containers().into_iter().filter(running).collect()
    }

    /// The most containers that ever ran at once.
    pub fn most_running(&self) -> usize {
        self.state.lock().most_running
    }

    /// Ends a running container with `code` and notifies the listeners; leaves others alone.
    pub fn kill(&self, id: &ContainerId, code: i64) {
        self.state.lock().end(id, code, false);
    }

    /// As [`Self::kill`], for its memory limit.
    pub fn oom_kill(&self, id: &ContainerId) {
        self.state.lock().end(id, 137, true);
    }

    /// As [`Self::kill`] without an event, as when one is lost.
    pub fn kill_silently(&self, id: &ContainerId, code: i64) {
        if let Some(made) = self.state.lock().containers.get_mut(&id.0) {
            made.state = ContainerState::Exited {
                code,
                oom_killed: false,
            };
        }
    }

    /// Removes a container behind the platform's back.
    pub fn vanish(&self, id: &ContainerId) {
        let mut state = self.state.lock();
        state.end(id, 137, false);
        state.containers.remove(&id.0);
    }

    /// Adds a container of an earlier run, as a start after a crash finds it.
    pub fn leave_behind(&self, spec: &ContainerSpec, state: ContainerState) -> ContainerId {
        self.state.lock().make(spec, state)
    }

    /// The app's current response at this address on its health path: a status, or `None` when it
    /// never responds.
    ///
    /// # Errors
    /// Nothing listens there.
    pub fn answer(&self, at: SocketAddr) -> Result<Option<u16>, Refused> {
        let state = self.state.lock();
        let networked = |made: &Made| match &made.holder {
            Some(holder) => matches!(
                state.containers.get(&holder.0).map(|h| &h.state),
                Some(ContainerState::Running(_))
            ),
            None => true,
        };
        let here = |made: &&Made| made.is_at(at) && !made.is_holder && networked(made);
        // Most have the address that their number gives; the others are searched for.
        let own = match at.ip() {
            std::net::IpAddr::V4(ip) => format!("{:012}", ip.to_bits().wrapping_sub(0x0a00_0000)),
            std::net::IpAddr::V6(_) => String::new(),
        };
        let made = state
            .containers
            .get(&own)
            .filter(here)
            .or_else(|| state.containers.values().find(here))
            .ok_or(Refused)?;
        let script = state.script_of(&made.spec.image);
        if made.started.elapsed() < script.ready {
            return Err(Refused);
        }
        Ok(script.status)
    }

    /// Records that an app has read a request and runs it.
    pub fn note_request(&self) {
        self.state.lock().counts.requests += 1;
    }

    /// Whether the app at this address is frozen; it then accepts connections and responds to none.
    pub fn frozen(&self, at: SocketAddr) -> bool {
        let state = self.state.lock();
        let frozen = |made: &Made| matches!(made.state, ContainerState::Paused(_));
        state.containers.values().any(|m| m.is_at(at) && frozen(m))
    }

    /// Counts the call; fails when the engine is away.
    fn called(&self, count: impl FnOnce(&mut Counts)) -> Result<(), Error> {
        let mut state = self.state.lock();
        count(&mut state.counts);
        state.reachable()
    }

    /// Waits, then fails when the engine is away.
    async fn after(&self, delay: Duration) -> Result<(), Error> {
        sleep(delay).await;
        self.state.lock().reachable()
    }

    fn script_of(&self, image: &str) -> Script {
        self.state.lock().script_of(image)
    }

    fn script_of_container(&self, id: &ContainerId) -> Result<Script, Error> {
        let state = self.state.lock();
        let made = state
            .containers
            .get(&id.0)
            .ok_or_else(|| Error::NoSuchContainer(id.clone()))?;
        Ok(state.script_of(&made.spec.image))
    }
}

/// Nothing listens at an address.
#[derive(Debug)]
pub struct Refused;
