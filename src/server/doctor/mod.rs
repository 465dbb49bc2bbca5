//! `ignite doctor`: whether this machine and its engine have what the platform needs.
//!
//! It changes nothing but for a socket that is bound for a moment. Each check says what it found
//! and, where that is not right, what to do.

use std::time::Duration;

use serde::Serialize;

use crate::config::Config;

mod engine;
mod machine;

/// Longest time for one check to wait for something else.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All is well.
    Ok,
    /// It works, with less than there could be.
    Warn,
    /// Apps cannot run like this.
    Fail,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What to do; empty where nothing is.
    pub remedy: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            outcome: Outcome::Ok,
            found: found.into(),
            remedy: String::new(),
        }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Warn,
            remedy: remedy.into(),
            ..Self::ok(name, found)
        }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Fail,
            ..Self::warn(name, found, remedy)
        }
    }
}

/// All checks.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// Whether none failed.
    pub healthy: bool,
    /// Each of them.
    pub checks: Vec<Check>,
}

/// Checks the engine and this machine as a server with this configuration would use them.
pub async fn examine(config: &Config) -> Diagnosis {
    let mut checks = engine::checks(config).await;
    checks.extend(machine::ports(config).await);
    checks.extend(machine::data_dir(config));
    checks.push(machine::name_resolution(config).await);
    Diagnosis {
        healthy: checks.iter().all(|check| check.outcome != Outcome::Fail),
        checks,
    }
}
