//! The catalog: all apps and secrets, and the rules that span apps.
//!
//! The store's writer applies changes to its own copy and shows them to readers once they are on
//! disk. The catalog is plain data, so its rules are tested without a store.

mod secrets;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use super::{
    app::{App, Pulled},
    failure::{Failure, FieldViolation, Reason},
    host::{self, MAX_LABEL_LEN},
    host_name::HostName,
    id::{AppId, AppName, OrgName},
    secret::{Sealed, SecretName},
};

/// One change to the catalog, as the store writes it.
#[derive(Debug, Clone)]
pub enum Change {
    /// The app is new or has changed.
    Put(Arc<App>),
    /// The app and its versions are deleted.
    Delete(AppId),
    /// The secret is new or was overwritten.
    PutSecret(Arc<Sealed>),
    /// The secret is deleted.
    DeleteSecret(OrgName, SecretName),
    /// The image is being pulled, or was pulled.
    PutPulled(Arc<Pulled>),
    /// The image was removed, or the platform did not pull it.
    DeletePulled(String),
    /// The volume of the app that was created at that time is to be removed.
    MarkVolumeForDeletion(AppId, i64),
    /// That volume was removed.
    VolumeGone(AppId, i64),
}

/// Every app, and the app that owns each host label.
#[derive(Debug, Default, Clone)]
pub struct Catalog {
    apps: BTreeMap<AppId, Arc<App>>,
    labels: HashMap<String, AppId>,
    /// The host names that apps were given.
    hosts: HashMap<HostName, AppId>,
    /// Read and paged in `secrets.rs`.
    secrets: BTreeMap<(OrgName, SecretName), Arc<Sealed>>,
    pulled: BTreeMap<String, Arc<Pulled>>,
    volumes_to_delete: BTreeSet<(AppId, i64)>,
}

impl Catalog {
    /// One app.
    pub fn get(&self, id: &AppId) -> Option<&Arc<App>> {
        self.apps.get(id)
    }

    /// Every app, by organization and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<App>> {
        self.apps.values()
    }

    /// The images that the platform pulled or is pulling.
    pub fn pulled(&self) -> impl Iterator<Item = &Arc<Pulled>> {
        self.pulled.values()
    }

    /// The volumes to remove, by app and time of its creation.
    pub fn volumes_to_delete(&self) -> &BTreeSet<(AppId, i64)> {
        &self.volumes_to_delete
    }

    /// How many apps an organization has, counted up to `most`.
    pub fn count(&self, org: &OrgName, most: usize) -> usize {
        self.of(org, None).take(most).count()
    }

    /// At most `limit` apps of one organization by name, those after `after`.
    pub fn page(&self, org: &OrgName, after: Option<&AppName>, limit: usize) -> Vec<Arc<App>> {
        self.page_of(org, after, limit, |_| true)
    }

    /// As [`Catalog::page`], of published apps only.
    pub fn published(&self, org: &OrgName, after: Option<&AppName>, limit: usize) -> Vec<Arc<App>> {
        self.page_of(org, after, limit, |app| app.active_version != 0)
    }

    fn page_of(
        &self,
        org: &OrgName,
        after: Option<&AppName>,
        limit: usize,
        shown: impl Fn(&App) -> bool,
    ) -> Vec<Arc<App>> {
        self.of(org, after)
            .filter(|app| shown(app))
            .take(limit)
            .cloned()
            .collect()
    }

    /// The apps of an organization by name, those after `after`.
    fn of<'a>(
        &'a self,
        org: &'a OrgName,
        after: Option<&AppName>,
    ) -> impl Iterator<Item = &'a Arc<App>> + use<'a> {
        // '0' starts the range: only '-' and '.' sort before it, and no valid name begins with
        // them.
        let from = match after {
            Some(name) => Bound::Excluded(AppId {
                org: org.clone(),
                name: name.clone(),
            }),
            None => match "0".parse() {
                Ok(name) => Bound::Included(AppId {
                    org: org.clone(),
                    name,
                }),
                Err(_) => Bound::Unbounded,
            },
        };
        self.apps
            .range((from, Bound::Unbounded))
            .take_while(move |(id, _)| id.org == *org)
            .map(|(_, app)| app)
    }

    /// Whether an organization that may have `most` apps may have this one.
    ///
    /// # Errors
    /// STORE_QUOTA, unless the app exists already.
    pub fn check_number(&self, id: &AppId, most: usize) -> Result<(), Failure> {
        let org = &id.org;
        if self.apps.contains_key(id) || self.count(org, most) < most {
            return Ok(());
        }
        Err(Failure::new(
            Reason::StoreQuota,
            format!(
                "organization {org} has {most} apps, as many as it may have (IGNITE_APPS_MAX_PER_ORG); delete apps that are not needed (`ignite app delete`), or ask the operator for more"
            ),
        ))
    }

    /// As [`Catalog::create`], within a number of apps of its organization.
    ///
    /// # Errors
    /// STORE_QUOTA as well.
    pub fn create_within(&self, app: App, most: usize) -> Result<Change, Failure> {
        self.check_number(&app.id, most)?;
        self.create(app)
    }

    /// Checks a new app against the others.
    ///
    /// # Errors
    /// ALREADY_EXISTS for the name or a host label; INVALID_ARGUMENT for a label that is too long.
    pub fn create(&self, app: App) -> Result<Change, Failure> {
        if self.apps.contains_key(&app.id) {
            return Err(Failure::new(
                Reason::AlreadyExists,
                format!(
                    "app {} exists; change it with UpdateAppConfig or choose another name",
                    app.id
                ),
            ));
        }
        self.check_labels(&app)?;
        self.check_hosts(&app)?;
        Ok(Change::Put(Arc::new(app)))
    }

    /// Changes one app by `edit` and checks it against the others.
    ///
    /// # Errors
    /// NOT_FOUND, the failure of `edit`, or a label conflict as in [`Catalog::create`].
    pub fn update(
        &self,
        id: &AppId,
        edit: impl FnOnce(&mut App) -> Result<(), Failure>,
    ) -> Result<Change, Failure> {
        let mut app = App::clone(self.get(id).ok_or_else(|| not_found(id))?);
        edit(&mut app)?;
        self.check_labels(&app)?;
        self.check_hosts(&app)?;
        Ok(Change::Put(Arc::new(app)))
    }

    /// Deletes one app.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn delete(&self, id: &AppId) -> Result<Change, Failure> {
        if self.apps.contains_key(id) {
            Ok(Change::Delete(id.clone()))
        } else {
            Err(not_found(id))
        }
    }

    /// Applies a change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(app) => {
                self.forget_names(&app.id);
                for (_, label) in app.labels() {
                    self.labels.insert(label, app.id.clone());
                }
                let hosts = app.hosts.iter().map(|h| (h.clone(), app.id.clone()));
                self.hosts.extend(hosts);
                self.apps.insert(app.id.clone(), app.clone());
            }
            Change::Delete(id) => {
                self.forget_names(id);
                self.apps.remove(id);
            }
            Change::PutSecret(secret) => {
                let slot = (secret.org.clone(), secret.name.clone());
                self.secrets.insert(slot, secret.clone());
            }
            Change::DeleteSecret(org, name) => {
                self.secrets.remove(&(org.clone(), name.clone()));
            }
            Change::PutPulled(image) => {
                self.pulled.insert(image.key().to_owned(), image.clone());
            }
            Change::DeletePulled(key) => drop(self.pulled.remove(key)),
            Change::MarkVolumeForDeletion(id, since) => {
                self.volumes_to_delete.insert((id.clone(), *since));
            }
            Change::VolumeGone(id, since) => {
                self.volumes_to_delete.remove(&(id.clone(), *since));
            }
        }
    }

    fn forget_names(&mut self, id: &AppId) {
        if let Some(old) = self.apps.get(id) {
            for (_, label) in old.labels() {
                self.labels.remove(&label);
            }
            for host in &old.hosts {
                self.hosts.remove(host);
            }
        }
    }

    fn check_hosts(&self, app: &App) -> Result<(), Failure> {
        let taken = app.hosts.iter().find_map(|host| {
            let other = self.hosts.get(host).filter(|other| **other != app.id)?;
            Some((host, other))
        });
        let Some((host, other)) = taken else {
            return Ok(());
        };
        let owner = describe(other, &app.id);
        Err(Failure::new(
            Reason::AlreadyExists,
            format!("{owner} has the host name {host}; choose another one"),
        ))
    }

    /// The organization for which a label is kept when an app of `org` would use it: of the other
    /// organizations with apps to which the label could belong, the one with the longest name.
    /// Without this rule `c`, whose labels all end in `-c`, could take labels from `b-c` first, and
    /// `c-81` would have no label that `c` could not take with a port. In the other direction an
    /// organization can take only a few of the many labels of `c`.
    fn kept_for(&self, org: &OrgName, label: &str) -> Option<OrgName> {
        host::orgs_of(label)
            .filter(|other| other.as_str().len() > org.as_str().len())
            .find(|other| !self.page(other, None, 1).is_empty())
    }

    fn check_labels(&self, app: &App) -> Result<(), Failure> {
        let mut wrong = Vec::new();
        for (port, label) in app.labels() {
            if label.len() > MAX_LABEL_LEN {
                wrong.push(FieldViolation {
                    field: "name".to_owned(),
                    description: format!(
                        "the host label {label:?} of port {port} has {} characters; DNS allows {MAX_LABEL_LEN}; shorten the app's name",
                        label.len()
                    ),
                });
            } else if let Some(other) = self.labels.get(&label).filter(|o| **o != app.id) {
                let owner = describe(other, &app.id);
                return Err(Failure::new(
                    Reason::AlreadyExists,
                    format!(
                        "port {port} of {} would have the host label {label:?}, which {owner} has; choose another name or port",
                        app.id
                    ),
                ));
            } else if !self.labels.contains_key(&label)
                && self.kept_for(&app.id.org, &label).is_some()
            {
                // An app keeps its labels, even if such an organization was created later.
                return Err(Failure::new(
                    Reason::AlreadyExists,
                    format!(
                        "port {port} of {} would have the host label {label:?}, which is kept for apps of another organization; choose another name or port",
                        app.id
                    ),
                ));
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Failure::fields(wrong))
        }
    }
}

/// Names the other app to its organization only.
fn describe(other: &AppId, app: &AppId) -> String {
    if other.org == app.org {
        format!("app {other}")
    } else {
        "an app of another organization".to_owned()
    }
}

/// The answer for an app that does not exist.
pub fn not_found(id: &AppId) -> Failure {
    Failure::new(
        Reason::NotFound,
        format!("app {id} does not exist; create it with CreateApp (`ignite app create`)"),
    )
}

/// The URLs of an app's ports, as `scheme://label.domain[:port]`.
pub fn public_urls(
    app: &AppId,
    ports: &[u16],
    scheme: &str,
    base_domain: &str,
    listen_port: Option<u16>,
) -> Vec<String> {
    let suffix = listen_port.map(|p| format!(":{p}")).unwrap_or_default();
    let of = |&port: &u16| {
        format!(
            "{scheme}://{}.{base_domain}{suffix}",
            host::label(app, port)
        )
    };
    ports.iter().map(of).collect()
}

#[cfg(test)]
mod tests;
