//! The process's own limits.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors for everything but connections: files of the store, the engine, builds, pulls.
const LEAST_RESERVE: u64 = 64;
const MOST_RESERVE: u64 = 1024;

/// What each may have open of the descriptors that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    /// Connections to each of the two listeners.
    pub(super) listener: usize,
    /// Connections to replicas.
    pub(super) replicas: usize,
}

/// Raises the number of descriptors to the most that the system allows, since every connection
/// takes one on each side, and shares them out. A listener gets at most what it wants, and a
/// warning tells when it gets less: running out of them would fail whatever comes next, the store
/// as well.
pub(super) fn share_descriptors(wanted: usize) -> Shares {
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current;
    limit.current = limit.maximum;
    let descriptors = match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "The limit of open files could not be raised to the hard one");
            soft
        }
    };
    let shares = share(descriptors, wanted);
    if shares.listener < wanted {
        tracing::warn!(
            descriptors,
            max_connections = wanted,
            "The limit of open files is {}, too few for max_connections {wanted}: each listener takes {} connections, and {} may go to replicas; raise the hard limit (`ulimit -Hn`, LimitNOFILE=), or lower IGNITE_MAX_CONNECTIONS",
            descriptors.unwrap_or_default(),
            shares.listener,
            shares.replicas
        );
    }
    shares
}

/// Shares out so many descriptors; `None` for no limit.
fn share(descriptors: Option<u64>, wanted: usize) -> Shares {
    let Some(descriptors) = descriptors else {
        return Shares {
            listener: wanted,
            replicas: usize::MAX,
        };
    };
    let reserve = (descriptors / 8).clamp(LEAST_RESERVE, MOST_RESERVE);
    let rest = usize::try_from(descriptors.saturating_sub(reserve)).unwrap_or(usize::MAX);
    let listener = wanted.min(rest / 3).max(1);
    Shares {
        listener,
        replicas: rest.saturating_sub(2 * listener).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_are_shared_and_many_leave_the_setting_alone() {
        let of = |n, wanted| {
            let Shares { listener, replicas } = share(n, wanted);
            (listener, replicas)
        };
        assert_eq!(of(None, 16_384), (16_384, usize::MAX));
        assert_eq!(
            of(Some(1 << 20), 16_384),
            (16_384, (1 << 20) - 1024 - 2 * 16_384)
        );
        assert_eq!(of(Some(1024), 16_384), (298, 300));
        assert_eq!(of(Some(1024), 10), (10, 876));
        assert_eq!(of(Some(200), 16_384), (45, 46));
        assert_eq!(of(Some(20), 16_384), (1, 1));
        for n in 100..5000 {
            let Shares { listener, replicas } = share(Some(n), 16_384);
            assert!(2 * listener + replicas < n as usize, "{n}");
        }
    }
}
