//! Requests by app.
//!
//! Each app that is published has its own instruments, up to a bound on their number: names of apps
//! are the one label whose values users choose. Apps beyond the bound share the instruments of
//! [`OTHER`]. An app keeps the name it has, so that no counter ever goes back.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

use super::instruments::{Counter, Durations, REQUESTS};
use crate::model::{AppId, OrgName};

/// The organization and the name of what apps beyond the bound share; no app can have this name.
pub const OTHER: &str = "_other";

/// How a request reached its app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Surface {
    /// By the `Invoke` method of the API.
    #[default]
    Invoke,
    /// By the app's URL: its host, its path or a host name that it was given.
    Url,
}

impl Surface {
    const ALL: [Self; 2] = [Self::Invoke, Self::Url];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Invoke => "invoke",
            Self::Url => "url",
        }
    }
}

/// The classes of status codes, in the order of their first digit.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The requests of one app over one surface.
#[derive(Debug)]
struct Requests {
    by_class: [Counter; CLASSES.len()],
    durations: Durations,
}

/// The requests of one app.
#[derive(Debug, Default)]
pub struct App {
    is_traced: bool,
    /// Made at the first request: most of many apps are never called in a run.
    surfaces: [OnceLock<Box<Requests>>; Surface::ALL.len()],
}

impl App {
    fn new(is_traced: bool) -> Arc<Self> {
        Arc::new(Self {
            is_traced,
            ..Self::default()
        })
    }

    /// Counts a request that has ended, with the status that its client got and the time from its
    /// arrival to the last byte of its answer, the wait for a replica included. `trace` is the
    /// request's trace, if it is recorded.
    pub fn ended(&self, surface: Surface, status: u16, took: Duration, trace: Option<u128>) {
        let requests = self.surfaces[surface as usize].get_or_init(|| {
            Box::new(Requests {
                by_class: Default::default(),
                durations: Durations::new(&REQUESTS, self.is_traced),
            })
        });
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        requests.by_class[class].inc();
        requests.durations.observe(took, trace);
    }

    fn used(&self) -> impl Iterator<Item = (Surface, &Requests)> {
        let all = Surface::ALL.into_iter().zip(&self.surfaces);
        all.filter_map(|(surface, requests)| Some((surface, &**requests.get()?)))
    }
}

/// The instruments of every published app.
#[derive(Debug)]
pub struct Apps {
    most: usize,
    is_traced: bool,
    named: Mutex<BTreeMap<AppId, Arc<App>>>,
    other: Arc<App>,
}

impl Apps {
    /// The default bound on named apps. One app has some sixty series, which makes 12,000 in all:
    /// a hundredth of what one Prometheus keeps with ease.
    pub const DEFAULT_MAX: usize = 200;

    pub(super) fn new(most: usize, is_traced: bool) -> Self {
        Self {
            most,
            is_traced,
            named: Mutex::default(),
            other: App::new(is_traced),
        }
    }

    /// The instruments of an app, its own ones if the bound allows.
    pub fn of(&self, id: &AppId) -> Arc<App> {
        let mut named = self.named.lock();
        if let Some(app) = named.get(id) {
            return app.clone();
        }
        if named.len() >= self.most {
            return self.other.clone();
        }
        let app = App::new(self.is_traced);
        named.insert(id.clone(), app.clone());
        app
    }

    /// Gives up the name of an app that was deleted.
    pub fn forget(&self, id: &AppId) {
        self.named.lock().remove(id);
    }

    /// Whether an app has its own name in the labels.
    pub fn is_named(&self, id: &AppId) -> bool {
        self.named.lock().contains_key(id)
    }

    /// Writes the families, of the apps of one organization if one is given.
    pub fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        of: &dyn Fn(&OrgName) -> bool,
        with_other: bool,
    ) -> fmt::Result {
        let named = self.named.lock().clone();
        let named = named.iter().filter(|(id, _)| of(&id.org));
        let names = named.map(|(id, app)| (id.org.as_str(), id.name.as_str(), app));
        let other = with_other.then_some((OTHER, OTHER, &self.other));
        let all: Vec<_> = names.chain(other).collect();
        let used = || {
            all.iter().flat_map(|(org, app, requests)| {
                requests
                    .used()
                    .map(move |(surface, r)| (*org, *app, surface.as_str(), r))
            })
        };
        if used().next().is_none() {
            return Ok(());
        }
        let mut family = encoder.encode_descriptor(
            "ignite_requests",
            "Requests to apps that have ended, by the class of the status that the client got",
            None,
            MetricType::Counter,
        )?;
        for (org, app, surface, requests) in used() {
            for (class, counter) in CLASSES.iter().zip(&requests.by_class) {
                if counter.get() > 0 {
                    let labels = [
                        ("org", org),
                        ("app", app),
                        ("surface", surface),
                        ("code", class),
                    ];
                    counter.encode(family.encode_family(&labels)?)?;
                }
            }
        }
        let mut family = encoder.encode_descriptor(
            "ignite_request_duration",
            "From a request's arrival to the last byte of its answer, the wait for a replica included",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (org, app, surface, requests) in used() {
            let labels = [("org", org), ("app", app), ("surface", surface)];
            requests.durations.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> AppId {
        format!("acme/{name}").parse().expect("a name")
    }

    #[test]
    fn apps_beyond_the_bound_share_a_name_until_one_is_deleted() {
        let apps = Apps::new(2, false);
        let [a, b, c] = ["a", "b", "c"].map(|name| apps.of(&id(name)));
        assert!(!Arc::ptr_eq(&a, &b));
        assert!(Arc::ptr_eq(&c, &apps.other));
        assert!(Arc::ptr_eq(&a, &apps.of(&id("a"))), "it keeps its own");
        apps.forget(&id("a"));
        assert!(apps.is_named(&id("b")) && !apps.is_named(&id("c")));
        assert!(!Arc::ptr_eq(&apps.of(&id("d")), &apps.other));
    }

    #[test]
    fn every_status_has_a_class() {
        let app = App::default();
        for status in [0, 101, 200, 404, 504, 999] {
            app.ended(Surface::Url, status, Duration::ZERO, None);
        }
        let (_, requests) = app.used().next().expect("used");
        let counts = requests.by_class.each_ref().map(Counter::get);
        assert_eq!(counts, [2, 1, 0, 1, 2]);
    }
}
