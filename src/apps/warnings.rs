//! What an app's owner should know about a version or settings that are taken all the same.

use super::Shared;
use crate::{
    fleet::EngineState,
    model::{App, AppId, Revision, egress::Egress, host, settings::Settings},
};

impl Shared {
    /// What is to be said of an app's settings, whatever its image.
    pub(super) fn settings_warnings(&self, settings: &Settings) -> Vec<String> {
        let (_, millicores) = settings.size();
        let cpus = match &*self.fleet.engine().borrow() {
            EngineState::Up(info) => info.cpus,
            EngineState::Unknown | EngineState::Down(_) => u32::MAX,
        };
        let clamped = u64::from(millicores) > u64::from(cpus) * 1000;
        let clamped = clamped.then(|| {
            format!(
                "the CPU limit of {millicores} millicores is above the {cpus} cores of the engine's host, so each replica gets all of these and no more"
            )
        });
        let (memory_mb, reserved) = (settings.size().0, settings.scaling.reserved_capacity);
        clamped
            .into_iter()
            .chain(self.fleet.never_fits(reserved, memory_mb))
            .chain(self.egress_warning(settings))
            .collect()
    }

    /// Where the platform does not do what an app asks of its connections.
    fn egress_warning(&self, settings: &Settings) -> Option<String> {
        let asked = &settings.egress;
        match &self.egress {
            None => matches!(asked, Egress::Deny | Egress::Only(_)).then(|| {
                format!("egress is {asked}, and this server holds no app back (trust is sandbox): the app may connect anywhere")
            }),
            Some(ceiling) => Some(format!("{}; it is denied", ceiling.check(asked).err()?)),
        }
    }

    /// What is to be said of an app as it is: its settings, and its active version under them.
    pub(super) fn warnings(&self, app: &App) -> Vec<String> {
        let mut all = self.settings_warnings(&app.settings);
        if let Some(revision) = Revision::of(app, self.defaults) {
            all.extend(revision.cloud_incompatibilities);
        }
        all
    }

    /// Writes warnings down beside what happens to the app.
    pub(super) fn record_warnings(&self, id: &AppId, version: u32, warnings: &[String]) {
        if let Some(deployment) = self.fleet.find(id) {
            deployment.warn(version, warnings);
        }
    }

    /// What was seen of a version so far that the platform would refuse.
    pub(super) fn cloud_incompatibilities(&self, id: &AppId, version: u32) -> Vec<String> {
        let deployment = self.fleet.find(id);
        deployment.map_or_else(Vec::new, |d| d.events().cloud_incompatibilities(version))
    }
}

/// Adds those that are not there yet.
pub(super) fn add_new(all: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
}

/// An image that exposes other ports than the app's is likely to listen elsewhere.
pub(super) fn of_ports(settings: &Settings, exposed: &[u16], strict: bool) -> Option<String> {
    let ports = settings.ports();
    let primary = ports.first().copied().unwrap_or(host::DEFAULT_PORT);
    // The only one is followed where no port was set, which the version warns of itself.
    let followed = settings.ports.is_empty() && exposed.len() == 1 && !strict;
    let elsewhere = !followed && !exposed.is_empty() && !exposed.contains(&primary);
    elsewhere.then(|| {
        format!(
            "the image exposes {exposed:?} and the app's port is {primary}; if it does not listen on $PORT, set `ports`"
        )
    })
}
