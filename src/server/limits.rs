//! Shares the process's file descriptors out to connections.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::connections::Connections;

/// Bounds on the descriptors that are kept for everything but connections: files of the store, the
/// engine, builds, pulls.
const LEAST_RESERVE: u64 = 64;
const MOST_RESERVE: u64 = 1024;

/// How many connections the descriptors allow.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    /// Connections to each of the two listeners.
    pub(super) listener: usize,
    /// All connections, to clients and to replicas.
    pub(super) connections: Connections,
}

/// Raises the limit of open files to the hard one, since every connection takes a descriptor to the
/// client and one to the replica, and shares the descriptors out. A listener gets at most `wanted`
/// connections; a warning says when it gets fewer. Without shares, a flood of connections would
/// leave the store no descriptors.
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
    let (most, for_replicas, listener) = share(descriptors, wanted);
    if listener < wanted {
        tracing::warn!(
            descriptors,
            max_connections = wanted,
            "The limit of open files is {}, too few for max_connections {wanted}: each listener takes at most {listener} connections, and {most} may be open in all, to replicas too; raise the hard limit (`ulimit -Hn`, LimitNOFILE=), or lower IGNITE_MAX_CONNECTIONS",
            descriptors.unwrap_or_default(),
        );
    }
    Shares {
        listener,
        connections: Connections::new(most, for_replicas),
    }
}

/// Shares out descriptors, `None` for no limit: returns how many connections may be open, how many
/// of these clients leave to replicas, and how many each listener takes. A listener leaves some to
/// the other one, so that a flood at the apps' URLs does not block gRPC.
fn share(descriptors: Option<u64>, wanted: usize) -> (usize, usize, usize) {
    let Some(descriptors) = descriptors else {
        return (usize::MAX, 0, wanted);
    };
    let reserve = (descriptors / 8).clamp(LEAST_RESERVE, MOST_RESERVE);
    let most = usize::try_from(descriptors.saturating_sub(reserve)).unwrap_or(usize::MAX);
    let for_replicas = most / 4;
    let listener = wanted.min((most - for_replicas) / 4 * 3);
    (most.max(1), for_replicas, listener.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_are_shared_and_many_leave_the_setting_alone() {
        assert_eq!(share(None, 16_384), (usize::MAX, 0, 16_384));
        let many = 1 << 20;
        assert_eq!(
            share(Some(many), 16_384),
            (many as usize - 1024, (many as usize - 1024) / 4, 16_384)
        );
        assert_eq!(share(Some(20_000), 16_384), (18_976, 4744, 10_674));
        assert_eq!(share(Some(1024), 16_384), (896, 224, 504));
        assert_eq!(share(Some(1024), 10), (896, 224, 10));
        assert_eq!(share(Some(200), 16_384), (136, 34, 75));
        assert_eq!(share(Some(20), 16_384), (1, 0, 1));
    }
}
