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
                self.forget_labels(&app.id);
                for (_, label) in app.labels() {
                    self.labels.insert(label, app.id.clone());
                }
                self.apps.insert(app.id.clone(), app.clone());
            }
            Change::Delete(id) => {
                self.forget_labels(id);
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

    fn forget_labels(&mut self, id: &AppId) {
        if let Some(old) = self.apps.get(id) {
            for (_, label) in old.labels() {
                self.labels.remove(&label);
            }
        }
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
                let whose = if other.org == app.id.org {
                    format!("app {other}")
                } else {
                    "an app of another organization".to_owned()
                };
                return Err(Failure::new(
                    Reason::AlreadyExists,
                    format!(
                        "port {port} of {} would have the host label {label:?}, which {whose} has; choose another name or port",
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
mod tests {
    use super::*;

    fn app(id: &str, ports: &[u16]) -> App {
        let mut app = crate::model::app::bare(id);
        app.settings.ports = ports.to_vec();
        app
    }

    fn with(apps: &[App]) -> Catalog {
        let mut c = Catalog::default();
        for a in apps {
            let change = c.create(a.clone()).expect("no conflict");
            c.apply(&change);
        }
        c
    }

    #[test]
    fn apps_whose_labels_collide_are_refused_and_the_other_named_to_its_own_org_only() {
        let c = with(&[
            app("c/a-b", &[]),
            app("acme/a.b", &[]),
            app("acme/web", &[9090]),
        ]);
        let foreign = c.create(app("b-c/a", &[])).expect_err("collides");
        assert_eq!(foreign.reason, Reason::AlreadyExists);
        assert!(
            foreign.message.contains("another organization") && !foreign.message.contains("c/a-b")
        );
        let own = c.create(app("acme/a-dot-b", &[])).expect_err("collides");
        assert!(own.message.contains("acme/a.b"), "{own}");
        // `web` of org `acme` on port 9090 has the label that `web` of org `acme-9090` has on port
        // 80.
        assert!(c.create(app("acme-9090/web", &[])).is_err());
        assert!(c.create(app("acme-9090/web", &[81])).is_ok());
    }

    #[test]
    fn a_label_is_kept_for_the_longest_named_organization_that_has_apps_and_could_have_it() {
        let mut c = with(&[
            app("c/x-b", &[]),
            app("acme/old", &[9090]),
            app("b-c/first", &[]),
            app("acme-9090/first", &[]),
        ]);
        for (id, ports) in [
            ("c/a-b", &[][..]),
            ("c/long-name-b", &[]),
            ("c/a-b", &[81]),
            ("acme/web", &[9090]),
            ("acme/web", &[80, 9090]),
        ] {
            let refused = c.create(app(id, ports)).expect_err(id);
            assert_eq!(refused.reason, Reason::AlreadyExists, "{id}");
            assert!(refused.message.contains("kept for"), "{refused}");
        }
        for (id, ports) in [
            ("c/a-bb", &[][..]),
            ("c/b", &[]),
            ("acme/web", &[9091]),
            ("b-c/a", &[]),
            ("acme-9090/web", &[]),
            ("acme-9090/web", &[81]),
            // No organization of that name has apps.
            ("c/a-d", &[]),
        ] {
            assert!(c.create(app(id, ports)).is_ok(), "{id} {ports:?}");
        }
        // Whoever had a label before keeps it, even through changes.
        for id in ["c/x-b", "acme/old"] {
            let changed = c.update(&id.parse().expect("valid"), |a| {
                a.updated_at_ms = 9;
                Ok(())
            });
            c.apply(&changed.expect("its own"));
        }
        let taken = c.create(app("b-c/x", &[])).expect_err("taken before");
        assert!(
            taken.message.contains("another organization has"),
            "{taken}"
        );
    }

    #[test]
    fn a_label_that_is_too_long_is_refused_with_its_length() {
        let id = format!("{}/{}", "o".repeat(30), "a".repeat(33));
        let e = Catalog::default()
            .create(app(&id, &[]))
            .expect_err("too long");
        assert!(e.message.contains("64 characters"), "{e}");
    }

    #[test]
    fn labels_are_free_again_after_a_change_of_ports_or_a_delete() {
        let mut c = with(&[app("c/a-b", &[])]);
        let moved = c.update(&"c/a-b".parse().expect("valid"), |a| {
            a.settings.ports = vec![81];
            Ok(())
        });
        c.apply(&moved.expect("valid"));
        assert!(c.create(app("b-c/a", &[])).is_ok());
        let gone = c.delete(&"c/a-b".parse().expect("valid")).expect("exists");
        c.apply(&gone);
        assert!(c.create(app("c/a-b", &[81])).is_ok());
    }

    #[test]
    fn pages_hold_one_organization_in_order() {
        let c = with(&[
            app("a/x", &[]),
            app("b/1", &[]),
            app("b/2", &[]),
            app("b/3", &[]),
            app("c/x", &[]),
        ]);
        let org: OrgName = "b".parse().expect("valid");
        let names = |v: Vec<Arc<App>>| v.iter().map(|a| a.id.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(c.page(&org, None, 2)), ["1", "2"]);
        assert_eq!(
            names(c.page(&org, Some(&"2".parse().expect("valid")), 2)),
            ["3"]
        );
        let mut c = c;
        for id in ["b/2", "b/3"] {
            let published = c.update(&id.parse().expect("valid"), |app| {
                app.active_version = 1;
                Ok(())
            });
            c.apply(&published.expect("there"));
        }
        assert_eq!(names(c.published(&org, None, 1)), ["2"]);
        assert_eq!(
            names(c.published(&org, Some(&"2".parse().expect("valid")), 2)),
            ["3"]
        );
    }
}
