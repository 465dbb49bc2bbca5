//! Leases: empty volumes with a label that says which instance lives until when.
//!
//! A volume costs the engine a folder and a row, takes no address, no name of a container and no
//! process, and Docker and Podman alike have it. Labels cannot be changed, so a lease is renewed by
//! a new volume, and then the old one goes. A `docker volume prune` takes it: until the next beat
//! the instance is in doubt, never gone.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bollard::models::VolumeCreateRequest;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Config, Docker, Error, client::Client, engine_volumes, labels};
use crate::model::instance_lease::Lease;

/// A lease as the engine has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    /// The volume.
    pub name: String,
    /// What it says.
    pub lease: Lease,
}

impl Docker {
    /// The leases of this instance.
    ///
    /// # Errors
    /// When the engine does not list its volumes.
    pub async fn leases(&self) -> Result<Vec<HeldLease>, Error> {
        let found =
            engine_volumes::list_all(&self.client, labels::filter(&self.config.instance)).await?;
        Ok(found
            .into_iter()
            .filter_map(|(name, labels)| {
                labels::lease(&labels).map(|lease| HeldLease { name, lease })
            })
            .collect())
    }

    /// Makes a lease for this instance; answers the volume's name.
    ///
    /// # Errors
    /// When the engine does not make it.
    pub async fn put_lease(&self, lease: &Lease) -> Result<String, Error> {
        let name = name(&self.config, lease);
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            driver: Some("local".to_owned()),
            labels: Some(labels::of_lease(&self.config, lease)),
            ..VolumeCreateRequest::default()
        };
        self.client
            .run("keep the instance's lease", |docker| async move {
                docker.create_volume(request).await
            })
            .await?;
        Ok(name)
    }

    /// Removes a lease; gone is success.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn remove_lease(&self, name: &str) -> Result<(), Error> {
        engine_volumes::remove(&self.client, name).await
    }

    /// The engine's time, Unix seconds; `None` when it does not say it.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn time(&self) -> Result<Option<i64>, Error> {
        time(&self.client).await
    }
}

/// As [`Docker::time`].
pub(super) async fn time(client: &Client) -> Result<Option<i64>, Error> {
    let info = client
        .run("say what time it is", |docker| async move {
            docker.info().await
        })
        .await?;
    Ok(info.system_time.as_deref().and_then(unix_seconds))
}

/// No two leases of a process have the same name: the engine takes a second volume of a name for
/// the first.
fn name(config: &Config, lease: &Lease) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("ignite-lease-{}-{}-{n}", config.instance, lease.token)
}

/// Unix seconds of a time as RFC 3339 has it, with any offset.
fn unix_seconds(text: &str) -> Option<i64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(at.unix_timestamp())
}

/// How long a holder out of sight is watched: two beats, so that one that is late is seen.
pub fn watch_for(lease: &Lease) -> Duration {
    // What a stranger wrote is bounded.
    Duration::from_secs(lease.beat_secs.min(600) * 2)
}

/// The filter for volumes of every instance.
pub(super) fn all() -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![labels::INSTANCE.to_owned()])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_time_is_read_with_its_offset() {
        for (text, expected) in [
            ("1970-01-02T00:00:00Z", Some(86_400)),
            ("1970-01-02T00:00:00.123456789Z", Some(86_400)),
            ("1970-01-02T02:30:00.5+02:30", Some(86_400)),
            ("1970-01-01T19:00:00-05:00", Some(86_400)),
            ("1970-01-02T00:00:00", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(unix_seconds(text), expected, "{text}");
        }
    }
}
