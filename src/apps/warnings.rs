//! Warnings to an app's owner about an accepted version or accepted settings.

use super::Shared;
use crate::{
    fleet::EngineState,
    model::{App, AppId, Revision, egress::Egress, host, settings::Settings},
};

impl Shared {
    /// The warnings about settings that hold for any image.
    pub(super) fn settings_warnings(&self, settings: &Settings) -> Vec<String> {
        let (_, millicores) = settings.size();
        let (cpus, lacks) = match &*self.fleet.engine().borrow() {
            EngineState::Up(info) => (info.cpus, info.abilities.lacks()),
            EngineState::Unknown | EngineState::Down(_) => (u32::MAX, Vec::new()),
        };
        let lacks = lacks.into_iter().filter(|lack| lack.is_of_apps());
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
            .chain(settings.scaling.clamped(self.defaults.bounds))
            .chain(self.egress_warning(settings))
            .chain(lacks.map(|lack| lack.to_string()))
            .collect()
    }

    /// Warns where the server does not enforce, or does not allow, the egress that an app asks for.
    fn egress_warning(&self, settings: &Settings) -> Option<String> {
        let asked = &settings.egress;
        match &self.egress {
            None => matches!(asked, Egress::Deny | Egress::Only(_)).then(|| {
                format!("egress is {asked}, and this server holds no app back (trust is sandbox): the app may connect anywhere")
            }),
            Some(ceiling) => Some(format!("{}; it is denied", ceiling.check(asked).err()?)),
        }
    }

    /// All warnings about an app: its settings, and its active version under them.
    pub(super) fn warnings(&self, app: &App) -> Vec<String> {
        let mut all = self.settings_warnings(&app.settings);
        if let Some(revision) = Revision::of(app, self.defaults) {
            all.extend(revision.cloud_incompatibilities);
        }
        all
    }

    /// Adds warnings to the app's events.
    pub(super) fn record_warnings(&self, id: &AppId, version: u32, warnings: &[String]) {
        if let Some(deployment) = self.fleet.find(id) {
            deployment.warn(version, warnings);
        }
    }

    /// Why the cloud platform would refuse a version, as far as its events say.
    pub(super) fn cloud_incompatibilities(&self, id: &AppId, version: u32) -> Vec<String> {
        let deployment = self.fleet.find(id);
        deployment.map_or_else(Vec::new, |d| d.events().cloud_incompatibilities(version))
    }
}

/// Adds the warnings that are missing.
pub(super) fn add_new(all: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
}

/// Warns of an image that exposes other ports than the app's: it probably listens on those.
pub(super) fn of_ports(settings: &Settings, exposed: &[u16], strict: bool) -> Option<String> {
    let ports = settings.ports();
    let primary = ports.first().copied().unwrap_or(host::DEFAULT_PORT);
    // Without a set port the app follows the only exposed one; the revision warns about that.
    let followed = settings.ports.is_empty() && exposed.len() == 1 && !strict;
    let elsewhere = !followed && !exposed.is_empty() && !exposed.contains(&primary);
    elsewhere.then(|| {
        format!(
            "the image exposes {exposed:?} and the app's port is {primary}; if it does not listen on $PORT, set `ports`"
        )
    })
}
