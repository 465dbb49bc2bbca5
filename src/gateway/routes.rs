//! Which host label leads to which port of which app.
//!
//! One hash look-up under a read lock that is held for nanoseconds; ten thousand apps route as
//! fast as one.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use parking_lot::RwLock;

use crate::{
    fleet::Deployment,
    model::{AppId, host},
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

    /// Forgets an app.
    pub fn remove(&self, id: &AppId) {
        self.table.write().forget(id);
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
