//! The engine's calls, as the script defines them.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::BoxStream};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{
    super::{
        Container, ContainerId, ContainerSpec, ContainerState, Credentials, Endpoints, Engine,
        Error, Image, Info, LimitsHit, Listening, LogLine, LogQuery, LogStream, Prepared, Volume,
    },
    Fake,
    state::ended,
};

impl Engine for Fake {
    async fn info(&self) -> Result<Info, Error> {
        self.called(|c| c.info += 1)?;
        Ok(Info {
            name: "Fake 1".into(),
            maps_users: false,
            cpus: 8,
            memory_bytes: 16 << 30,
            platform: crate::model::Platform::new("linux", "x86_64", ""),
            time_ms: None,
            abilities: crate::engine::Abilities::all(),
        })
    }

    async fn ensure_image(&self, reference: &str, _: Option<&Credentials>) -> Result<Image, Error> {
        self.called(|c| c.ensure_image += 1)?;
        let script = self.script_of(reference);
        self.after(script.pull).await?;
        match script.pull_error {
            Some(err) => Err(err),
            None => {
                // The image is on this machine from now on, so the next call does not wait.
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
        // Runs in the engine, not in the call: a caller that leaves does not stop it.
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
            // A container in a holder's network is reached at the holder.
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
            // Weak, so that the timers do not keep alive the state that owns them.
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

    async fn memory(&self, id: &ContainerId) -> Result<Option<u64>, Error> {
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
