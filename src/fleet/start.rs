//! One start of a replica: create, start, poll until ready; or say precisely why not.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Config, health, hints,
    ports::{self, Suspicion},
    probe::{self, Progress},
    replica::{ColdStart, Replica},
    upstream::Pool,
};
use crate::{
    backoff::Backoff,
    engine::{ContainerId, ContainerSpec, ContainerState, Endpoints, Engine, Error, Owner},
    model::{Failure, Reason, ReplicaId, Revision, host},
};

/// Log lines that an owner is shown when a container ends during its start: a screenful.
const LOG_LINES: u32 = 20;
/// Most bytes of these lines, since lines can be long.
const LOG_BYTES: usize = 16 << 10;
/// Longest wait for the answer to one probe; the next probe follows.
const POLL_TIMEOUT: Duration = Duration::from_secs(5);
/// First wait between two inspections of a container that is not ready; doubles up to
/// `INSPECT_MAX`. The engine's events usually report its end sooner; polling covers lost events.
const INSPECT_INITIAL: Duration = Duration::from_millis(100);
const INSPECT_MAX: Duration = Duration::from_secs(1);

/// What to start, and the signals by which others end it.
pub(super) struct Job {
    pub(super) id: ReplicaId,
    pub(super) revision: Arc<Revision>,
    pub(super) died: Arc<Notify>,
    pub(super) cancel: CancellationToken,
    /// Records each step.
    pub(super) progress: Progress,
    /// What lets a wrong port end the start early.
    pub(super) suspicion: Suspicion,
}

/// Why a start yielded no replica.
pub(super) enum Fault {
    /// It was cancelled.
    Cancelled,
    /// It failed.
    Failed {
        failure: Failure,
        /// The same start cannot succeed now, so requests should not wait for another attempt.
        certain: bool,
        /// The engine did not answer.
        engine_down: bool,
    },
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Fault::Failed {
            failure,
            certain: false,
            engine_down: false,
        }
    }
}

/// Starts a replica. `note` is called with the container as soon as it exists. A start that fails
/// or is cancelled leaves no container behind.
pub(super) async fn run<E: Engine>(
    engine: &E,
    config: &Config,
    job: Job,
    note: impl Fn(&ContainerId),
) -> Result<Replica, Fault> {
    let began = Instant::now();
    let container = match create(engine, config, &job).await {
        // The error of a cancelled start concerns nobody.
        Err(_) if job.cancel.is_cancelled() => return Err(Fault::Cancelled),
        other => other?,
    };
    note(&container);
    let outcome = tokio::select! {
        biased;
        () = job.cancel.cancelled() => Err(Fault::Cancelled),
        outcome = bring_up(engine, config, &job, &container, began) => outcome,
    };
    if outcome.is_err() {
        discard(engine, &container, Duration::ZERO).await;
    }
    outcome
}

/// Makes the container. Cancelling the start interrupts only a pull, not the engine's create call:
/// the engine would make the container all the same, and nobody would know its id.
async fn create<E: Engine>(engine: &E, config: &Config, job: &Job) -> Result<ContainerId, Fault> {
    if job.cancel.is_cancelled() {
        return Err(Fault::Cancelled);
    }
    let spec = spec(config, &job.id, &job.revision);
    let made = match engine.create(&spec).await {
        // Somebody removed the image; a pull by its reference may bring it back.
        Err(Error::NoSuchImage { .. }) => {
            tokio::select! {
                pulled = pull_again(engine, config, &job.revision) => pulled?,
                () = job.cancel.cancelled() => return Err(Fault::Cancelled),
            };
            engine.create(&spec).await
        }
        other => other,
    };
    made.map_err(|e| fault(&e))
}

/// Pulls the image of a revision by its name, with the credentials as they are now.
async fn pull_again<E: Engine>(
    engine: &E,
    config: &Config,
    revision: &Revision,
) -> Result<(), Fault> {
    let certain = |failure| Fault::Failed {
        failure,
        certain: true,
        engine_down: false,
    };
    let Some(source) = &revision.source else {
        let why = format!(
            "the image that version {} was built into is gone from this machine; publish again to build it anew",
            revision.version
        );
        return Err(certain(Failure::new(Reason::ImageUnavailable, why)));
    };
    let credentials = config.keychain.of(&revision.app.org, source).await;
    let credentials = credentials.map_err(certain)?;
    let image = engine
        .ensure_image(&source.image_ref, credentials.as_ref())
        .await
        .map_err(|e| fault(&e))?;
    if image.id != revision.image {
        let why = format!(
            "the image that version {} was published with is gone from this machine, and {:?} names another one now; bring it back (`docker load`), or publish again",
            revision.version, source.image_ref
        );
        return Err(certain(Failure::new(Reason::ImageUnavailable, why)));
    }
    Ok(())
}

/// Starts the container and waits until it is ready.
async fn bring_up<E: Engine>(
    engine: &E,
    config: &Config,
    job: &Job,
    container: &ContainerId,
    began: Instant,
) -> Result<Replica, Fault> {
    let created = Instant::now();
    job.progress.starting();
    let endpoints = match engine.start(container).await {
        Ok(endpoints) => endpoints,
        Err(Error::Ended {
            code, oom_killed, ..
        }) => {
            let how = (code, oom_killed);
            return Err(exited(engine, container, how, ENDED, LOG_LINES)
                .await
                .into());
        }
        // A command that cannot be executed fails here, with the engine's reason.
        Err(e) => return Err(fault(&e)),
    };
    let started = Instant::now();
    let pools = Replica::pools(&endpoints, &job.revision, &config.max_connects);
    wait_ready(engine, config, job, container, &pools, &endpoints).await?;
    let cold = ColdStart {
        create: created - began,
        start: started - created,
        ready: started.elapsed(),
        last_probe: job.progress.last(),
    };
    Ok(Replica::new(
        job.id.clone(),
        container.clone(),
        Some(cold),
        pools,
    ))
}

/// Adopts a container that an earlier run left, once it is ready.
pub(super) async fn adopt<E: Engine>(
    engine: &E,
    config: &Config,
    job: Job,
    container: ContainerId,
    endpoints: Endpoints,
) -> Result<Replica, Fault> {
    let pools = Replica::pools(&endpoints, &job.revision, &config.max_connects);
    wait_ready(engine, config, &job, &container, &pools, &endpoints).await?;
    Ok(Replica::new(job.id, container, None, pools))
}

/// Stops and removes a container. If the engine does not answer, reconciliation removes it later.
pub(super) async fn discard<E: Engine>(engine: &E, container: &ContainerId, grace: Duration) {
    if !grace.is_zero()
        && let Err(error) = engine.stop(container, grace).await
    {
        tracing::debug!(%container, %error, "The container did not stop; removing it by force");
    }
    if let Err(error) = engine.remove(container).await {
        tracing::warn!(%container, %error, "The container could not be removed now; the next reconciliation will");
    }
}

pub(super) fn spec(config: &Config, id: &ReplicaId, revision: &Revision) -> ContainerSpec {
    ContainerSpec {
        owner: Owner {
            app: revision.app.clone(),
            replica: id.clone(),
            version: revision.version,
            config_hash: revision.config_hash.clone(),
        },
        image: revision.image.clone(),
        overlay: revision.overlay.clone(),
        env: revision.env.clone(),
        capabilities: revision.capabilities,
        egress: revision.egress.clone(),
        init: revision.init,
        files: revision.files.clone(),
        host_label: host::label(&revision.app, revision.ports[0]),
        ports: revision.inner_ports.clone(),
        memory_bytes: u64::from(revision.memory_mb) * 1024 * 1024,
        cpu_millicores: revision.cpu_millicores,
        pids: config.pids_limit,
    }
}

pub(super) fn fault(error: &Error) -> Fault {
    Fault::Failed {
        failure: error.to_start_failure(),
        certain: matches!(error, Error::Unreachable { .. } | Error::NoSuchImage { .. }),
        engine_down: matches!(error, Error::Unreachable { .. }),
    }
}

pub(super) async fn wait_ready<E: Engine>(
    engine: &E,
    config: &Config,
    job: &Job,
    container: &ContainerId,
    pools: &[(u16, Arc<Pool>)],
    endpoints: &Endpoints,
) -> Result<(), Fault> {
    let (Some((_, pool)), Some(&port)) = (pools.first(), job.revision.inner_ports.first()) else {
        let why = format!(
            "the engine gave no address for any of the ports {:?} ({endpoints:?})",
            job.revision.inner_ports
        );
        return Err(
            Failure::new(Reason::StartFailed, "the container has no address")
                .with_detail(why)
                .into(),
        );
    };
    let deadline = Instant::now() + config.startup_timeout;
    let progress = &job.progress;
    progress.running(&job.revision, port);
    let ready = async {
        let mut backoff = Backoff::new(config.poll_initial, config.poll_max);
        loop {
            match health::ask(pool, &job.revision, POLL_TIMEOUT).await {
                Ok(answer) => {
                    if !answer.is_success() {
                        progress.tolerated(&job.revision, answer);
                    }
                    return;
                }
                Err(outcome) => progress.outcome(outcome),
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    };
    let wrong_port = ports::watch(
        engine,
        config,
        container,
        port,
        &job.revision.exposed_ports,
        &job.suspicion,
        |wrong| progress.listens(wrong),
    );
    tokio::select! {
        () = ready => Ok(()),
        failure = ended(engine, container, &job.died) => Err(failure.into()),
        never = progress.record_when_slow() => match never {},
        wrong = wrong_port => {
            let failure = Failure::new(
                Reason::NotReady,
                format!("the container runs and will not get ready: {}", progress.text()),
            );
            let logs = tail(engine, container, LOG_LINES).await;
            Err(Fault::Failed {
                failure: failure.with_detail(format!("{wrong}; {}{logs}", wrong.remedy())),
                certain: true,
                engine_down: false,
            })
        }
        () = tokio::time::sleep_until(deadline) => {
            let waited = humantime::format_duration(config.startup_timeout);
            let failure = Failure::new(
                Reason::NotReady,
                format!("the container runs but did not get ready within {waited}: {}", progress.text()),
            );
            let logs = tail(engine, container, LOG_LINES).await;
            let remedy = match progress.wrong_port() {
                Some(wrong) => format!("{wrong}; {}", wrong.remedy()),
                None => probe::remedy(&job.revision, port, progress.last()),
            };
            Err(failure.with_detail(format!("{remedy}{logs}")).into())
        }
    }
}

/// Returns when the container has ended, with the reason.
async fn ended<E: Engine>(engine: &E, container: &ContainerId, died: &Notify) -> Failure {
    let mut backoff = Backoff::new(INSPECT_INITIAL, INSPECT_MAX);
    let mut wait = backoff.next_wait();
    loop {
        tokio::select! {
            () = died.notified() => {}
            () = tokio::time::sleep(wait) => wait = backoff.next_wait(),
        }
        match engine.inspect(container).await {
            Ok(c) => match c.state {
                ContainerState::Exited { code, oom_killed } => {
                    let how = (code, oom_killed);
                    return exited(engine, container, how, ENDED, LOG_LINES).await;
                }
                ContainerState::Created
                | ContainerState::Running(_)
                | ContainerState::Paused(_) => {}
            },
            Err(Error::NoSuchContainer(_)) => {
                return Failure::new(Reason::ContainerExited, ENDED)
                    .with_detail("somebody removed it");
            }
            // Unknown for now; the next inspection may succeed.
            Err(_) => {}
        }
    }
}

const ENDED: &str = "the container ended before it was ready";

/// The failure `ended` with the cause: the exit code, whether the kernel killed the container for
/// its memory limit, and the last lines of its log.
pub(super) async fn exited<E: Engine>(
    engine: &E,
    container: &ContainerId,
    (code, oom_killed): (i64, bool),
    ended: &str,
    lines: u32,
) -> Failure {
    let what = match (oom_killed, signal(code)) {
        (true, _) => format!(
            "it was killed for its memory limit (exit code {code}); raise limits.memory_mb or the tier"
        ),
        (false, Some(signal)) => format!("it was killed by {signal} (exit code {code})"),
        (false, None) => format!("exit code {code}"),
    };
    let logs = tail(engine, container, lines).await;
    let hint = hints::of(&logs);
    Failure::new(Reason::ContainerExited, ended).with_detail(format!("{what}{logs}{hint}"))
}

/// The signal that an exit code stands for, as shells and engines write it.
fn signal(code: i64) -> Option<&'static str> {
    Some(match code.checked_sub(128)? {
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        _ => return None,
    })
}

/// The end of the container's log, for people.
pub(super) async fn tail<E: Engine>(engine: &E, container: &ContainerId, lines: u32) -> String {
    match engine.log_tail(container, lines).await {
        Ok(lines) if lines.is_empty() => "; it wrote no log".to_owned(),
        Ok(lines) => format!(
            "; last log lines:\n{}",
            newest(&lines.join("\n"), LOG_BYTES)
        ),
        Err(e) => format!("; its log cannot be read: {e}"),
    }
}

/// The last bytes of a text, cut at a character boundary.
fn newest(text: &str, most: usize) -> &str {
    let mut from = text.len().saturating_sub(most);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}
