//! Which host label leads to which port of which app, and which host name was given to which app.
//!
//! One hash look-up under a read lock that is held for nanoseconds; ten thousand apps route as
//! fast as one.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use parking_lot::RwLock;

use super::Hosts;
use crate::{
    fleet::Deployment,
    model::{AppId, host, host_name::HostName},
};

/// Where a host leads.
#[derive(Clone)]
pub struct Route {
    /// The app.
    pub deployment: Arc<Deployment>,
    /// Its port; `None` for whichever is the primary one when the request is sent.
    pub port: Option<u16>,
}

/// The table of published apps.
#[derive(Default)]
pub struct Routes {
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    by_label: HashMap<String, Route>,
    labels: HashMap<AppId, Vec<String>>,
    by_host: HashMap<HostName, AppId>,
}

impl Routes {
    /// Routes the labels of the ports of the app's present revision, and only those, to it.
    pub fn set(&self, deployment: &Arc<Deployment>) {
        let id = deployment.id();
        let ports = deployment.revision().ports.clone();
        let mut t = self.table.write();
        t.forget(id);
        let labels = ports.into_iter().map(|port| {
            let label = host::label(id, port);
            (
                label,
                Route {
                    deployment: deployment.clone(),
                    port: Some(port),
                },
            )
        });
        let routes: Vec<_> = labels.collect();
        t.labels.insert(
            id.clone(),
            routes.iter().map(|(label, _)| label.clone()).collect(),
        );
        t.by_label.extend(routes);
    }

    /// Routes these host names, and no others, to an app, published or not.
    pub fn set_hosts(&self, id: &AppId, hosts: &[HostName]) {
        let mut t = self.table.write();
        t.by_host.retain(|_, of| of != id);
        let hosts = hosts.iter().map(|host| (host.clone(), id.clone()));
        t.by_host.extend(hosts);
    }

    /// Forgets an app.
    pub fn remove(&self, id: &AppId) {
        let mut t = self.table.write();
        t.forget(id);
        t.by_host.retain(|_, of| of != id);
    }

    /// The app that was given the name in a `Host` header.
    pub fn app_of(&self, host: &str) -> Option<AppId> {
        let t = self.table.read();
        if t.by_host.is_empty() {
            return None;
        }
        let name = host::name(host);
        t.by_host
            .get(name)
            .or_else(|| t.by_host.get(name.to_ascii_lowercase().as_str()))
            .cloned()
    }

    /// Whether a host, without a port, leads to an app.
    pub fn lead(&self, host: &str, hosts: &Hosts) -> bool {
        match hosts.label(host) {
            Some(label) => self.find(label).is_some(),
            None => self.app_of(host).is_some(),
        }
    }

    /// The route of a host label. Letters are folded only when the label is not found as it is.
    pub fn find(&self, label: &str) -> Option<Route> {
        let t = self.table.read();
        t.by_label
            .get(label)
            .or_else(|| t.by_label.get(&label.to_ascii_lowercase()))
            .cloned()
    }
}

impl Table {
    fn forget(&mut self, id: &AppId) {
        for label in self.labels.remove(id).into_iter().flatten() {
            // It may lead to another app by now, which took the label after this one gave it up.
            if let Entry::Occupied(route) = self.by_label.entry(label)
                && route.get().deployment.id() == id
            {
                route.remove();
            }
        }
    }
}
