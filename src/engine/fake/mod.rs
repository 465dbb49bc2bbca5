//! A scripted engine for simulations under tokio's paused clock.
//!
//! A test says per image how long calls take, how they fail, when the container ends and where
//! it is reached; [`Fake`] counts the calls and lets the test kill containers and take the
//! whole engine away. It has no network and no process behind it.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::BoxStream};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{
    Container, ContainerId, ContainerSpec, ContainerState, Credentials, Endpoints, Engine, Error,
    Image, Info, LimitsHit, Listening, LogLine, LogQuery, LogStream, Prepared, Volume,
};

mod script;
#[cfg(test)]
mod tests;

pub use script::{Counts, Script};

struct Made {
    spec: ContainerSpec,
    state: ContainerState,
    started: Instant,
    holder: Option<ContainerId>,
    is_holder: bool,
}

#[derive(Default)]
struct State {
    scripts: HashMap<String, Script>,
    containers: BTreeMap<String, Made>,
    counts: Counts,
    unreachable: bool,
    no_descriptors: bool,
    mute: bool,
    next: usize,
    most_running: usize,
    listeners: Vec<mpsc::UnboundedSender<ContainerId>>,
    /// The timers of containers that end by themselves, and calls under way in the engine.
    timers: JoinSet<()>,
}

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

    /// Leaves the caller without a file descriptor to ask the engine with, or gives it back.
    pub fn set_no_descriptors(&self, none: bool) {
        self.state.lock().no_descriptors = none;
    }

    /// Takes the engine away or brings it back. Going away ends the event streams; containers
    /// go on.
    pub fn set_unreachable(&self, unreachable: bool) {
        let mut state = self.state.lock();
        state.unreachable = unreachable;
        if unreachable {
            state.listeners.clear();
        }
    }

    /// Gives no events from now on: every stream of them ends at once.
    pub fn mute(&self) {
        let mut state = self.state.lock();
        state.mute = true;
        state.listeners.clear();
    }

    /// How often each call was made.
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// The containers that exist, running or not, in the order in which they were created.
    pub fn containers(&self) -> Vec<Container> {
        self.state.lock().all()
    }

    /// The containers that run, in the order in which they were created.
    pub fn live(&self) -> Vec<Container> {
        let running = |c: &Container| !c.is_holder && matches!(c.state, ContainerState::Running(_));
        self.containers().into_iter().filter(running).collect()
    }

    /// The most containers that ever ran at once.
    pub fn most_running(&self) -> usize {
        self.state.lock().most_running
    }

    /// Ends a running container with `code` and tells the listeners; others are left alone.
    pub fn kill(&self, id: &ContainerId, code: i64) {
        self.state.lock().end(id, code, false);
    }

    /// As [`Self::kill`], for its memory limit.
    pub fn oom_kill(&self, id: &ContainerId) {
        self.state.lock().end(id, 137, true);
    }

    /// As [`Self::kill`] without telling anybody, as when an event is lost.
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

    /// Puts a container there that was made before, as a start after a crash finds it.
    pub fn leave_behind(&self, spec: &ContainerSpec, state: ContainerState) -> ContainerId {
        self.state.lock().make(spec, state)
    }

    /// What the app at this address answers on its health path now: a status, or `None` when it
    /// never answers.
    ///
    /// # Errors
    /// Nothing listens there.
    pub fn answer(&self, at: SocketAddr) -> Result<Option<u16>, Refused> {
        let state = self.state.lock();
        let here = |made: &&Made| made.is_at(at) && !made.is_holder;
        // Most are where their own number says; the others are looked for.
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

    /// Notes that an app has read a request and runs it.
    pub fn note_request(&self) {
        self.state.lock().counts.requests += 1;
    }

    /// Whether the app at this address is frozen; it takes connections then and answers none.
    pub fn frozen(&self, at: SocketAddr) -> bool {
        let state = self.state.lock();
        let frozen = |made: &Made| matches!(made.state, ContainerState::Paused(_));
        state.containers.values().any(|m| m.is_at(at) && frozen(m))
    }

    /// Counts the call and answers whether the engine is there.
    fn called(&self, count: impl FnOnce(&mut Counts)) -> Result<(), Error> {
        let mut state = self.state.lock();
        count(&mut state.counts);
        state.reachable()
    }

    /// After a delay: is the engine (still) there?
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

fn ended(id: &ContainerId, state: &ContainerState) -> Error {
    match state {
        ContainerState::Exited { code, oom_killed } => Error::Ended {
            id: id.clone(),
            code: *code,
            oom_killed: *oom_killed,
        },
        _ => Error::NoSuchContainer(id.clone()),
    }
}

impl State {
    fn made(&mut self, id: &ContainerId) -> Result<&mut Made, Error> {
        self.containers
            .get_mut(&id.0)
            .ok_or_else(|| Error::NoSuchContainer(id.clone()))
    }

    fn script_of(&self, image: &str) -> Script {
        self.scripts.get(image).cloned().unwrap_or_default()
    }

    fn thaw(&mut self, id: &ContainerId, error: Option<Error>) -> Result<(), Error> {
        self.reachable()?;
        if let Some(error) = error {
            return Err(error);
        }
        let made = self.made(id)?;
        match made.state.clone() {
            ContainerState::Running(at) | ContainerState::Paused(at) => {
                made.state = ContainerState::Running(at);
                Ok(())
            }
            other => Err(ended(id, &other)),
        }
    }

    fn reachable(&self) -> Result<(), Error> {
        if self.no_descriptors {
            return Err(Error::NoDescriptors);
        }
        if self.unreachable {
            return Err(Error::Unreachable {
                address: "fake://".into(),
                cause: "the test took it away".into(),
            });
        }
        Ok(())
    }

    fn make(&mut self, spec: &ContainerSpec, state: ContainerState) -> ContainerId {
        // Padded, so that the map's order is the order of creation.
        let id = format!("{:012}", self.next);
        self.next += 1;
        self.containers.insert(
            id.clone(),
            Made {
                spec: spec.clone(),
                state,
                started: Instant::now(),
                holder: None,
                is_holder: false,
            },
        );
        ContainerId(id)
    }

    fn all(&self) -> Vec<Container> {
        self.containers
            .iter()
            .map(|(id, made)| made.seen(id))
            .collect()
    }

    fn end(&mut self, id: &ContainerId, code: i64, oom_killed: bool) {
        let Some(made) = self.containers.get_mut(&id.0) else {
            return;
        };
        if !matches!(
            made.state,
            ContainerState::Running(_) | ContainerState::Paused(_)
        ) {
            return;
        }
        made.state = ContainerState::Exited { code, oom_killed };
        self.listeners
            .retain(|listener| listener.send(id.clone()).is_ok());
    }
}

impl Made {
    fn is_at(&self, at: SocketAddr) -> bool {
        match &self.state {
            ContainerState::Running(Some(e)) | ContainerState::Paused(Some(e)) => {
                e.addr(at.port()) == Some(at)
            }
            _ => false,
        }
    }

    fn seen(&self, id: &str) -> Container {
        Container {
            id: ContainerId(id.to_owned()),
            holder: self.holder.clone(),
            is_holder: self.is_holder,
            owner: Some(self.spec.owner.clone()),
            state: self.state.clone(),
        }
    }
}

impl Engine for Fake {
    async fn info(&self) -> Result<Info, Error> {
        self.called(|c| c.info += 1)?;
        Ok(Info {
            name: "Fake 1".into(),
            maps_users: false,
            cpus: 8,
            memory_bytes: 16 << 30,
            platform: crate::model::Platform::new("linux", "x86_64", ""),
        })
    }

    async fn ensure_image(&self, reference: &str, _: Option<&Credentials>) -> Result<Image, Error> {
        self.called(|c| c.ensure_image += 1)?;
        let script = self.script_of(reference);
        self.after(script.pull).await?;
        match script.pull_error {
            Some(err) => Err(err),
            None => {
                // On this machine from now on, so the next one does not wait.
                if let Some(script) = self.state.lock().scripts.get_mut(reference) {
                    script.pull = Duration::ZERO;
                }
                // The reference stands for the content, so that scripts apply to both.
                Ok(Image {
                    id: reference.to_owned(),
                    digests: Vec::new(),
                    user: script.user,
                    home: Default::default(),
                    brings_init: false,
                    volumes: Vec::new(),
                    notes: Vec::new(),
                    exposed_ports: Vec::new(),
                    triggers: Vec::new(),
                    platform: script.platform,
                })
            }
        }
    }

    async fn ensure_base(
        &self,
        reference: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Image, Error> {
        self.ensure_image(reference, credentials).await
    }

    async fn find_image(&self, _: &str) -> Result<Option<Image>, Error> {
        self.called(|_| {})?;
        Ok(None)
    }

    async fn registry_digest(&self, _: &str, _: Option<&Credentials>) -> Result<String, Error> {
        self.called(|_| {})?;
        Ok(format!("sha256:{}", "0".repeat(64)))
    }

    async fn untag_image(&self, _: &str) -> Result<(), Error> {
        self.called(|_| {})
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, Error> {
        self.called(|c| c.create += 1)?;
        let script = self.script_of(&spec.image);
        let (answer, made) = oneshot::channel();
        let (weak, spec) = (Arc::downgrade(&self.state), spec.clone());
        let call = async move {
            sleep(script.create).await;
            let Some(state) = weak.upgrade() else { return };
            let mut state = state.lock();
            let outcome = state.reachable().and_then(|()| match script.create_error {
                Some(error) => {
                    if matches!(error, Error::TimedOut { .. }) {
                        state.make(&spec, ContainerState::Created);
                    }
                    Err(error)
                }
                None => Ok(state.make(&spec, ContainerState::Created)),
            });
            let _ = answer.send(outcome);
        };
        // In the engine, not in the call: a caller that leaves does not stop it.
        self.state.lock().timers.spawn(call);
        made.await.expect("the engine outlives its calls")
    }

    async fn start(&self, id: &ContainerId) -> Result<Endpoints, Error> {
        self.called(|c| c.start += 1)?;
        let script = self.script_of_container(id)?;
        assert!(!script.start_panics, "the script asks for it");
        self.after(script.start).await?;
        if let Some(err) = script.start_error {
            return Err(err);
        }
        let mut state = self.state.lock();
        let made = state
            .containers
            .get_mut(&id.0)
            .ok_or_else(|| Error::NoSuchContainer(id.clone()))?;
        let endpoints = script.endpoints.unwrap_or_else(|| {
            // In another one's network it is where that one is.
            let at = made.holder.as_ref().unwrap_or(id);
            let number: u32 = at.0.parse().expect("ids are numbers");
            Endpoints::Direct(Ipv4Addr::from_bits(0x0a00_0000 + number).into())
        });
        made.state = ContainerState::Running(Some(endpoints.clone()));
        made.started = Instant::now();
        let running = state
            .containers
            .values()
            .filter(|m| !m.is_holder && matches!(m.state, ContainerState::Running(_)))
            .count();
        state.most_running = state.most_running.max(running);
        if let Some((after, code)) = script.exits {
            // Weak, so that the timers do not keep the state alive that owns them.
            let (id, weak) = (id.clone(), Arc::downgrade(&self.state));
            state.timers.spawn(async move {
                sleep(after).await;
                if let Some(state) = weak.upgrade() {
                    state.lock().end(&id, code, false);
                }
            });
        }
        Ok(endpoints)
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Container, Error> {
        self.called(|c| c.inspect += 1)?;
        let state = self.state.lock();
        state
            .containers
            .get(&id.0)
            .map(|made| made.seen(&id.0))
            .ok_or_else(|| Error::NoSuchContainer(id.clone()))
    }

    async fn pause(&self, id: &ContainerId) -> Result<(), Error> {
        self.called(|c| c.pause += 1)?;
        let script = self.script_of_container(id)?;
        self.after(script.pause).await?;
        if let Some(err) = script.pause_error {
            return Err(err);
        }
        let mut state = self.state.lock();
        let made = state.made(id)?;
        match made.state.clone() {
            ContainerState::Running(at) | ContainerState::Paused(at) => {
                made.state = ContainerState::Paused(at);
                Ok(())
            }
            other => Err(ended(id, &other)),
        }
    }

    async fn resume(&self, id: &ContainerId) -> Result<(), Error> {
        self.called(|c| c.resume += 1)?;
        let script = self.script_of_container(id)?;
        let (answer, thawed) = oneshot::channel();
        let (weak, id) = (Arc::downgrade(&self.state), id.clone());
        let call = async move {
            sleep(script.resume).await;
            let Some(state) = weak.upgrade() else { return };
            let _ = answer.send(state.lock().thaw(&id, script.resume_error));
        };
        // As with a create.
        self.state.lock().timers.spawn(call);
        thawed.await.expect("the engine outlives its calls")
    }

    async fn thaw_left(&self, id: &ContainerId) -> Result<(), Error> {
        self.called(|_| {})?;
        if let Ok(made) = self.state.lock().made(id)
            && let ContainerState::Paused(at) = made.state.clone()
        {
            made.state = ContainerState::Running(at);
        }
        Ok(())
    }

    async fn memory(&self, id: &ContainerId) -> Result<u64, Error> {
        self.called(|_| {})?;
        Ok(self.script_of_container(id)?.memory)
    }

    async fn listening(&self, id: &ContainerId) -> Result<Option<Listening>, Error> {
        self.called(|_| {})?;
        Ok(self.script_of_container(id)?.listening)
    }

    async fn limits_hit(&self, id: &ContainerId) -> Result<LimitsHit, Error> {
        self.called(|_| {})?;
        let script = self.script_of_container(id)?;
        Ok(LimitsHit {
            pids: Some(script.forks_refused),
        })
    }

    async fn prepare(
        &self,
        spec: &ContainerSpec,
        holder: Option<&ContainerId>,
    ) -> Result<Prepared, Error> {
        self.called(|c| c.prepare += 1)?;
        let script = self.script_of(&spec.image);
        self.after(script.create).await?;
        let mut state = self.state.lock();
        if let Some(err) = script.prepare_error {
            if let Some(holder) = holder {
                state.containers.remove(&holder.0);
            }
            return Err(err);
        }
        let holder = match holder {
            Some(holder) => holder.clone(),
            None => {
                let holder = state.make(spec, ContainerState::Created);
                let number: u32 = holder.0.parse().expect("ids are numbers");
                let at = Endpoints::Direct(Ipv4Addr::from_bits(0x0a00_0000 + number).into());
                let made = state.made(&holder)?;
                made.is_holder = true;
                made.state = ContainerState::Running(Some(at));
                holder
            }
        };
        let ContainerState::Running(Some(endpoints)) = state.made(&holder)?.state.clone() else {
            return Err(Error::NoSuchContainer(holder));
        };
        let container = state.make(spec, ContainerState::Created);
        state.made(&container)?.holder = Some(holder.clone());
        Ok(Prepared {
            container,
            holder,
            endpoints,
        })
    }

    async fn start_prepared(&self, id: &ContainerId) -> Result<(), Error> {
        self.start(id).await.map(drop)
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), Error> {
        self.called(|c| c.stop += 1)?;
        let Ok(script) = self.script_of_container(id) else {
            return Ok(());
        };
        self.after(script.stop.min(grace)).await?;
        let code = if script.stop > grace { 137 } else { 143 };
        self.state.lock().end(id, code, false);
        Ok(())
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), Error> {
        self.called(|c| c.remove += 1)?;
        let mut state = self.state.lock();
        state.end(id, 137, false);
        state.containers.remove(&id.0);
        Ok(())
    }

    async fn log_tail(&self, id: &ContainerId, lines: u32) -> Result<Vec<String>, Error> {
        self.called(|_| {})?;
        let log = self.script_of_container(id)?.log;
        let skip = log
            .len()
            .saturating_sub(usize::try_from(lines).unwrap_or(usize::MAX));
        Ok(log.into_iter().skip(skip).collect())
    }

    fn logs(&self, id: &ContainerId, _: LogQuery) -> BoxStream<'static, Result<LogLine, Error>> {
        let lines = match self.script_of_container(id) {
            Ok(script) => script.log.into_iter().enumerate().map(Ok).collect(),
            Err(gone) => vec![Err(gone)],
        };
        let line = |(n, text): (usize, String)| LogLine {
            at_ns: i64::try_from(n).unwrap_or_default(),
            stream: LogStream::Stdout,
            text,
        };
        futures_util::stream::iter(lines.into_iter().map(move |l| l.map(line))).boxed()
    }

    async fn list(&self) -> Result<Vec<Container>, Error> {
        self.called(|c| c.list += 1)?;
        Ok(self.containers())
    }

    async fn ensure_network(&self) -> Result<(), Error> {
        self.called(|_| {})
    }

    async fn volumes(&self) -> Result<Vec<Volume>, Error> {
        self.called(|_| {})?;
        Ok(Vec::new())
    }

    async fn remove_volume(&self, _: &str) -> Result<(), Error> {
        self.called(|_| {})
    }

    async fn remove_network(&self) -> Result<(), Error> {
        self.called(|_| {})
    }

    fn deaths(&self) -> BoxStream<'static, ContainerId> {
        let mut state = self.state.lock();
        let (sender, receiver) = mpsc::unbounded_channel();
        if !state.unreachable && !state.mute {
            state.listeners.push(sender);
        }
        UnboundedReceiverStream::new(receiver).boxed()
    }
}
