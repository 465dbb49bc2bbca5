//! What one organization may have of what all share, unless the operator says.

use super::Config;
use crate::model::fair;

impl Config {
    /// Most executions of one organization that run at once.
    pub fn execution_places_per_org(&self) -> usize {
        let all = self.execution_max_running;
        let usual = fair::cap(all, all.div_ceil(4).saturating_mul(3));
        self.execution_max_running_per_org.unwrap_or(usual).min(all)
    }

    /// Most builds of one organization that run at once.
    pub fn build_places_per_org(&self) -> usize {
        let all = self.build_concurrency;
        let usual = fair::cap(all, all);
        self.build_concurrency_per_org.unwrap_or(usual).min(all)
    }

    /// Most builds of one organization that wait.
    pub fn build_queue_per_org(&self) -> usize {
        let all = self.build_queue_max;
        let usual = fair::cap(all, all);
        self.build_queue_max_per_org.unwrap_or(usual).min(all)
    }

    /// Most tests of one organization that run at once.
    pub fn test_places_per_org(&self) -> usize {
        let all = self.test_max_running;
        let usual = fair::cap(all, all);
        self.test_max_running_per_org.unwrap_or(usual).min(all)
    }
}
