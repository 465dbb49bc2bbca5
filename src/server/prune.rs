//! `ignite prune`: finds instances that are gone and removes what they left.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::{data_dir, machine};
use crate::{
    config::Config,
    engine::{
        Error,
        docker::{InstanceOfOthers, Pruner, Remains, watch_for},
    },
    model::{
        InstanceId,
        instance_lease::{Directory, Liveness, Proof, liveness},
    },
};

/// Instances that the user names for removal.
#[derive(Debug, Clone, Default)]
pub struct Named {
    /// Instances that never run again, even if this cannot be seen from here.
    pub gone: Vec<String>,
    /// Instances whose apps' files are not needed either.
    pub files: Vec<String>,
}

/// What was removed, what stays and why, and what could not be removed.
#[derive(Debug, Default, Serialize)]
pub struct Pruned {
    /// What was removed, by instance.
    pub removed: Vec<Things>,
    /// What stays, by instance.
    pub kept: Vec<Kept>,
    /// What could not be removed, and why, one sentence each.
    pub failures: Vec<String>,
}

/// What belongs to one instance, counted.
#[derive(Debug, Serialize)]
pub struct Things {
    /// Its id.
    pub instance: String,
    /// Its data directory, as it saw it.
    pub data_dir: Option<String>,
    /// How many containers.
    pub containers: usize,
    /// How many networks.
    pub networks: usize,
    /// How many volumes.
    pub volumes: usize,
    /// How many names of images that were built.
    pub images: usize,
}

/// Why things stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The instance runs.
    Runs,
    /// It does not, and has left its containers on purpose.
    Left,
    /// It cannot be seen from here whether it runs.
    InDoubt,
    /// It is gone, but its apps' files may still be needed.
    Files,
}

/// Things that stay.
#[derive(Debug, Serialize)]
pub struct Kept {
    /// What.
    #[serde(flatten)]
    pub things: Things,
    /// Why, for programs.
    pub state: State,
    /// Why, for people.
    pub why: String,
    /// What to do to have it removed; empty where nothing should be.
    pub remedy: String,
}

/// Removes the containers, networks and leases of instances that are gone. Instances that run, were
/// left on purpose or are in doubt stay; so do the volumes of apps and the images that were built
/// for them, unless the instance was ephemeral or is named in `named.files`.
///
/// # Errors
/// When the engine does not answer, or has nothing of a named instance.
pub async fn prune(config: Config, named: Named) -> Result<Pruned> {
    let pruner = Pruner::new(config.docker_host.as_deref()).context("docker_host")?;
    let mut found = pruner.find().await?;
    let now = pruner.time().await?;
    for name in named.gone.iter().chain(&named.files) {
        if !found.contains_key(name) {
            bail!(
                "the engine has nothing of an instance {name:?}; `ignite prune` lists those it has something of"
            );
        }
    }
    let judge =
        |instance: &InstanceOfOthers| judge(instance, now, config.prune_after, pruner.is_local());
    // The engine's clock may have jumped: leases that seem long expired are watched for two beats.
    let expired: Vec<_> = found
        .values()
        .filter(|r| matches!(judge(&r.instance), Liveness::Gone(Proof::Expired(_))))
        .flat_map(|r| &r.instance.leases)
        .map(watch_for)
        .collect();
    let mut renewed = BTreeSet::new();
    if let Some(patience) = expired.into_iter().max() {
        tracing::info!(
            ?patience,
            "Watching whether instances whose leases ran out long ago renew them"
        );
        tokio::time::sleep(patience).await;
        let before = std::mem::replace(&mut found, pruner.find().await?);
        for (id, remains) in &found {
            let old = before.get(id).map(|r| &r.instance.leases);
            if old != Some(&remains.instance.leases) {
                renewed.insert(id.clone());
            }
        }
    }
    let mut pruned = Pruned::default();
    for (id, remains) in &found {
        let outcome = if renewed.contains(id) {
            Liveness::Runs("it renewed its lease just now".to_owned())
        } else {
            judge(&remains.instance)
        };
        apply(&pruner, remains, outcome, &named, &mut pruned).await;
    }
    pruner.remove_relay_images().await;
    Ok(pruned)
}

/// What may be removed without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freed {
    Nothing,
    /// Its networks, which its next start makes again.
    Networks,
    Everything,
}

/// Frees address ranges: removes the networks of instances that are gone and have no containers,
/// and all that is left of ephemeral ones that were seen to have ended. Returns how many networks
/// went. Nothing that a later start would use is touched, so that no one has to be asked.
///
/// # Errors
/// When the engine does not answer.
pub(super) async fn free_ranges(
    host: Option<&str>,
    own: &InstanceId,
    after: Duration,
) -> Result<usize, Error> {
    let pruner = Pruner::new(host)?;
    let found = pruner.find().await?;
    let now = pruner.time().await?;
    let mut freed = 0;
    for remains in found.values().filter(|r| r.instance.id != own.as_str()) {
        let instance = &remains.instance;
        let outcome = judge(instance, now, after, pruner.is_local());
        let failures = match may_be_freed(instance, outcome) {
            Freed::Nothing => continue,
            Freed::Networks => pruner.remove_networks(remains).await,
            Freed::Everything => pruner.remove(remains, true).await,
        };
        for failure in &failures {
            tracing::debug!(failure, "Freeing address ranges");
        }
        if failures.is_empty() {
            tracing::info!(
                instance = instance.id,
                networks = instance.networks,
                "Removed networks of an instance that is gone"
            );
            freed += instance.networks;
        }
    }
    Ok(freed)
}

fn may_be_freed(instance: &InstanceOfOthers, outcome: Liveness) -> Freed {
    match outcome {
        Liveness::Gone(_) if instance.networks == 0 => Freed::Nothing,
        Liveness::Gone(Proof::Ended) if is_ephemeral(instance) => Freed::Everything,
        // A start after a crash adopts containers.
        Liveness::Gone(_) if instance.containers == 0 => Freed::Networks,
        _ => Freed::Nothing,
    }
}

async fn apply(
    pruner: &Pruner,
    remains: &Remains,
    outcome: Liveness,
    named: &Named,
    pruned: &mut Pruned,
) {
    let instance = &remains.instance;
    let files = named.files.contains(&instance.id);
    let is_named = files || named.gone.contains(&instance.id);
    let keep = |state, why: String, remedy: String| Kept {
        things: Things::all(instance),
        state,
        why,
        remedy,
    };
    match outcome {
        Liveness::Runs(why) => {
            if is_named {
                pruned.failures.push(format!(
                    "instance {} is not removed, although it was named: {why}; stop it first",
                    instance.id
                ));
            }
            pruned.kept.push(keep(State::Runs, why, String::new()));
        }
        Liveness::Left if !is_named => pruned.kept.push(keep(
            State::Left,
            "it was stopped with --keep-replicas; its next start adopts its containers".to_owned(),
            format!(
                "if it never starts again: ignite prune --gone {}",
                instance.id
            ),
        )),
        Liveness::InDoubt(_) if !is_named && !instance.has_running_parts() => {
            if instance.has_files() {
                pruned.kept.push(keep(
                    State::Files,
                    "it does not run, or not where this command can look; somebody may come back to the files of its apps".to_owned(),
                    format!(
                        "if nobody needs them: ignite prune --volumes {}",
                        instance.id
                    ),
                ));
            }
        }
        Liveness::InDoubt(why) if !is_named => pruned.kept.push(keep(
            State::InDoubt,
            format!("it may run where this command cannot look: {why}"),
            format!("if it does not run: ignite prune --gone {}", instance.id),
        )),
        Liveness::Left | Liveness::InDoubt(_) | Liveness::Gone(_) => {
            let files = files || is_ephemeral(instance);
            pruned.failures.extend(pruner.remove(remains, files).await);
            let removed = Things::of(instance, true, files);
            if removed.any() {
                pruned.removed.push(removed);
            }
            let left = Things::of(instance, false, !files);
            if left.any() {
                pruned.kept.push(Kept {
                    things: left,
                    state: State::Files,
                    why: "it is gone, and somebody may come back to the files of its apps"
                        .to_owned(),
                    remedy: format!(
                        "if nobody needs them: ignite prune --volumes {}",
                        instance.id
                    ),
                });
            }
        }
    }
}

/// Whether an instance lives, by its leases and by what can be seen from here.
fn judge(
    instance: &InstanceOfOthers,
    now: Option<i64>,
    after: Duration,
    is_local: bool,
) -> Liveness {
    let look = |path: &Path, holder| data_dir::inspect(path, &instance.id, holder, is_local);
    let leases: Vec<_> = instance
        .leases
        .iter()
        .map(|lease| {
            let holder = &lease.holder;
            let directory = look(Path::new(&holder.path), Some(holder));
            (lease.clone(), machine::process_of(holder), directory)
        })
        .collect();
    let dir = instance.data_dir.as_deref();
    let directory = dir.map_or(Directory::Unknown, |dir| look(dir, None));
    match liveness(&leases, directory, now, after) {
        Liveness::Runs(why) => Liveness::Runs(why),
        _ if instance.unreadable_lease => {
            Liveness::InDoubt("a newer ignite made its lease; prune with that one".to_owned())
        }
        // An older `ignite` left its containers without a lease that says so.
        Liveness::Gone(_)
            if dir.is_some_and(|d| directory == Directory::Free && data_dir::kept(d)) =>
        {
            Liveness::Left
        }
        other => other,
    }
}

/// Whether an instance that is gone had nothing to come back to.
fn is_ephemeral(instance: &InstanceOfOthers) -> bool {
    let by_lease = !instance.leases.is_empty() && instance.leases.iter().all(|l| l.ephemeral);
    let by_mark = |dir: &Path| {
        data_dir::inspect(dir, &instance.id, None, false) == Directory::Free
            && data_dir::is_ephemeral(dir)
    };
    by_lease || instance.data_dir.as_deref().is_some_and(by_mark)
}

impl Things {
    fn all(instance: &InstanceOfOthers) -> Self {
        Self::of(instance, true, true)
    }

    fn of(instance: &InstanceOfOthers, running: bool, files: bool) -> Self {
        let count = |wanted: bool, n: usize| if wanted { n } else { 0 };
        Self {
            instance: instance.id.clone(),
            data_dir: instance.data_dir.as_ref().map(|d| d.display().to_string()),
            containers: count(running, instance.containers),
            networks: count(running, instance.networks),
            volumes: count(running, instance.volumes) + count(files, instance.kept_volumes),
            images: count(files, instance.images),
        }
    }

    fn any(&self) -> bool {
        self.containers + self.networks + self.volumes + self.images > 0
    }

    /// In words, such as `2 containers and 1 network of instance 0123456789ab of /data`.
    fn text(&self) -> String {
        let counted = [
            (self.containers, "container"),
            (self.networks, "network"),
            (self.volumes, "volume"),
            (self.images, "image"),
        ];
        let parts: Vec<_> = counted
            .into_iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{n} {what}{}", if n == 1 { "" } else { "s" }))
            .collect();
        let things = match parts.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, first)) => format!("{} and {last}", first.join(", ")),
            None => "nothing but its lease".to_owned(),
        };
        let of = self
            .data_dir
            .as_ref()
            .map_or_else(String::new, |d| format!(" of {d}"));
        format!("{things} of instance {}{of}", self.instance)
    }
}

impl Pruned {
    /// A line for each removed thing, and for each that stays with the reason and what to do.
    pub fn lines(&self) -> Vec<String> {
        let removed = self.removed.iter().map(|t| format!("removed {}", t.text()));
        let kept = self.kept.iter().map(|k| {
            let remedy = if k.remedy.is_empty() {
                String::new()
            } else {
                format!("; {}", k.remedy)
            };
            format!("kept {}: {}{remedy}", k.things.text(), k.why)
        });
        removed.chain(kept).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::instance_lease::{Holder, Lease};

    #[test]
    fn only_what_no_later_start_would_use_is_freed_without_being_asked() {
        let lease = |ephemeral| Lease {
            token: "t".to_owned(),
            expires_at: 0,
            beat_secs: 15,
            left: false,
            ephemeral,
            holder: Holder::default(),
        };
        let instance = |networks, containers, ephemeral| InstanceOfOthers {
            networks,
            containers,
            leases: vec![lease(ephemeral)],
            ..InstanceOfOthers::default()
        };
        let ended = || Liveness::Gone(Proof::Ended);
        let expired = || Liveness::Gone(Proof::Expired(Duration::from_secs(86_400)));
        for (instance, outcome, expected) in [
            (instance(1, 0, false), ended(), Freed::Networks),
            (instance(1, 0, false), expired(), Freed::Networks),
            (instance(1, 2, false), ended(), Freed::Nothing),
            (instance(1, 2, true), ended(), Freed::Everything),
            (instance(1, 2, true), expired(), Freed::Nothing),
            (instance(0, 2, true), ended(), Freed::Nothing),
            (instance(1, 0, false), Liveness::Left, Freed::Nothing),
            (
                instance(1, 0, true),
                Liveness::InDoubt(String::new()),
                Freed::Nothing,
            ),
            (
                instance(1, 0, true),
                Liveness::Runs(String::new()),
                Freed::Nothing,
            ),
        ] {
            let told = format!("{instance:?}: {outcome:?}");
            assert_eq!(may_be_freed(&instance, outcome), expected, "{told}");
        }
    }
}
