//! One organization's share of common resources, where the operator sets none.

use super::Config;
use crate::{
    model::{capacity::Share, fair},
    quota::Quota,
};

/// Held requests leave at least one connection in this many to other requests.
const NEVER_HELD: usize = 32;

impl Config {
    /// Most requests held over all apps and by one organization, where apps may have this many
    /// connections. Over HTTP/1.1 a held request keeps its connection, so the bound is always below
    /// them: by a thirty-second part, and at least by one.
    pub fn held_requests(&self, connections: usize) -> Quota {
        let most = connections
            .saturating_sub((connections / NEVER_HELD).max(1))
            .max(1);
        let usual = three_quarters(connections).max(1);
        let all = self.hold_max_requests_total.unwrap_or(usual).min(most);
        let usual = fair::cap(all, three_quarters(all));
        let each = self.hold_max_requests_per_org.unwrap_or(usual).min(all);
        Quota { all, each }
    }

    /// Most requests of one organization in flight, held ones included, where apps may have this
    /// many connections. A larger setting is taken unchanged: over HTTP/2 a connection carries
    /// many.
    pub fn in_flight_per_org(&self, connections: usize) -> usize {
        let usual = three_quarters(connections).max(1);
        self.max_in_flight_per_org.unwrap_or(usual)
    }

    /// Most bytes of held requests' bodies, over all apps and of one organization. They are
    /// messages of API calls, so half of the bound on those leaves the other half to calls that do
    /// not wait.
    pub fn held_bytes(&self) -> Quota {
        let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let largest = bytes(self.max_body_bytes);
        let usual = bytes(self.api_buffer_bytes / 2).max(largest.saturating_mul(2));
        let all = self.hold_max_bytes_total.map_or(usual, bytes);
        let usual = three_quarters(all).max(largest);
        let each = self.hold_max_bytes_per_org.map_or(usual, bytes).min(all);
        Quota { all, each }
    }

    /// The memory that one organization's replicas may use, as a share of that for all replicas.
    pub fn memory_per_org(&self) -> Share {
        self.share(self.memory_budget_per_org)
    }

    /// The replicas that one organization may run, as a share of those that may run at a time.
    pub fn replicas_per_org(&self) -> Share {
        self.share(self.replica_budget_per_org)
    }

    /// With a single organization on the machine, its share is everything.
    fn share(&self, set: Option<u64>) -> Share {
        match set {
            Some(0) => Share::All,
            Some(most) => Share::AtMost(most),
            None if self.trust.isolates_organizations() => Share::ThreeQuarters,
            None => Share::All,
        }
    }

    /// Most executions of one organization that run at once.
    pub fn execution_permits_per_org(&self) -> usize {
        let all = self.execution_max_running;
        let usual = fair::cap(all, all.div_ceil(4).saturating_mul(3));
        self.execution_max_running_per_org.unwrap_or(usual).min(all)
    }

    /// Most builds of one organization that run at once.
    pub fn build_permits_per_org(&self) -> usize {
        let all = self.build_concurrency;
        let usual = fair::cap(all, all);
        self.build_concurrency_per_org.unwrap_or(usual).min(all)
    }

    /// Most waiting builds of one organization.
    pub fn build_queue_per_org(&self) -> usize {
        let all = self.build_queue_max;
        let usual = fair::cap(all, all);
        self.build_queue_max_per_org.unwrap_or(usual).min(all)
    }

    /// Most tests of one organization that run at once.
    pub fn test_permits_per_org(&self) -> usize {
        let all = self.test_max_running;
        let usual = fair::cap(all, all);
        self.test_max_running_per_org.unwrap_or(usual).min(all)
    }
}

fn three_quarters(of: usize) -> usize {
    of - of.div_ceil(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::defaults("/d".into())
    }

    #[test]
    fn held_requests_leave_connections_to_others_whatever_is_set() {
        let held = |connections, total, per_org| {
            let mut config = config();
            config.hold_max_requests_total = total;
            config.hold_max_requests_per_org = per_org;
            let most = config.held_requests(connections);
            (most.all, most.each)
        };
        assert_eq!(held(16_320, None, None), (12_240, 9_180));
        assert_eq!(held(14, None, None), (10, 7));
        assert_eq!(held(2, None, None), (1, 1));
        assert_eq!(held(1, None, None), (1, 1));
        assert_eq!(held(16_320, Some(100), None), (100, 75));
        assert_eq!(held(16_320, Some(100), Some(200)), (100, 100));
        let all = Some(usize::MAX);
        assert_eq!(held(16_320, all, all), (15_810, 15_810));
        assert_eq!(held(14, all, all), (13, 13));
        assert_eq!(config().in_flight_per_org(16_320), 12_240);
    }

    #[test]
    fn held_bytes_always_have_room_for_the_largest_body() {
        const MIB: usize = 1 << 20;
        let mut config = config();
        let held = |config: &Config| {
            let most = config.held_bytes();
            (most.all, most.each)
        };
        assert_eq!(held(&config), (128 * MIB, 96 * MIB));
        config.api_buffer_bytes = 0;
        assert_eq!(held(&config), (12 * MIB, 9 * MIB));
        config.hold_max_bytes_total = Some(6 << 20);
        assert_eq!(held(&config), (6 * MIB, 6 * MIB));
        config.hold_max_bytes_total = Some(20 << 20);
        config.hold_max_bytes_per_org = Some(7 << 20);
        assert_eq!(held(&config), (20 * MIB, 7 * MIB));
    }
}
