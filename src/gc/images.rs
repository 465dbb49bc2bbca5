//! The images that the platform pulled: kept for the versions that may serve, removed afterwards.
//!
//! Only recorded pulls are considered, and only by the names they were pulled by: an image that
//! existed before, or that has another name, stays. When a version needs a removed image, it is
//! pulled again by its digest.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::{
    clock::{is_ahead, now_ms},
    engine::{Engine, Error, Image, PullRecord, WritePulls, Written},
    model::{Failure, Pulled, app::digest_ref, catalog::Change},
    store::Store,
};

type Found = BoxFuture<'static, Result<Option<Image>, Error>>;
type Untagged = BoxFuture<'static, Result<(), Error>>;

/// Records pulls in the store.
pub fn pull_record(store: &Store) -> PullRecord {
    PullRecord::new(InStore(store.clone()))
}

struct InStore(Store);

impl WritePulls for InStore {
    fn put(&self, pulled: Pulled) -> Written {
        let store = self.0.clone();
        Box::pin(async move { put(&store, pulled).await })
    }

    fn forget(&self, reference: String) -> Written {
        let store = self.0.clone();
        Box::pin(async move { commit(&store, vec![Change::DeletePulled(reference)]).await })
    }
}

/// The images in the engine; the engine's type ends here.
pub(super) struct Images {
    find: Box<dyn Fn(String) -> Found + Send + Sync>,
    untag: Box<dyn Fn(String) -> Untagged + Send + Sync>,
}

/// The images that the versions and drafts of all apps need.
struct Needed {
    ids: HashSet<String>,
    references: HashSet<String>,
}

impl Images {
    pub(super) fn new<E: Engine>(engine: Arc<E>) -> Self {
        let other = engine.clone();
        Self {
            find: Box::new(move |reference| {
                let engine = engine.clone();
                Box::pin(async move { engine.find_image(&reference).await })
            }),
            untag: Box::new(move |reference| {
                let engine = other.clone();
                Box::pin(async move { engine.untag_image(&reference).await })
            }),
        }
    }

    /// Removes images that were pulled at least `keep_for` ago, unless a draft, an active version
    /// or one of the `versions` newest of an app needs them.
    pub(super) async fn collect(
        &self,
        store: &Store,
        versions: usize,
        keep_for: Duration,
        settled: bool,
    ) {
        let (pulled, needed) = {
            let catalog = store.catalog();
            let kept = catalog.iter().flat_map(|app| app.kept_versions(versions));
            let drafts = catalog.iter().filter_map(|app| app.draft.as_ref());
            let needed = Needed {
                ids: kept.map(|v| v.image_id.clone()).collect(),
                references: drafts
                    .filter_map(|d| d.source.prebuilt())
                    .map(|source| source.image_ref.clone())
                    .collect(),
            };
            let pulled: Vec<Arc<Pulled>> = catalog.pulled().cloned().collect();
            (pulled, needed)
        };
        let now = now_ms();
        for image in pulled {
            if is_ahead(image.at_ms.unsigned_abs(), now.unsigned_abs()) {
                // The time comes from a clock that was wrong; uncorrected, the image would stay
                // until then.
                let at_ms = now;
                let right = Pulled {
                    at_ms,
                    ..(*image).clone()
                };
                if let Err(failure) = put(store, right).await {
                    tracing::debug!(
                        image = image.reference,
                        "Its age stays wrong: {}",
                        failure.text(true)
                    );
                }
                continue;
            }
            let age = if settled {
                u128::try_from(now.saturating_sub(image.at_ms)).unwrap_or(0)
            } else {
                0
            };
            let is_needed = needed.ids.contains(&image.id) || age < keep_for.as_millis();
            let outcome = match (image.id.is_empty(), is_needed) {
                // This includes a pull in progress, for which nothing is found yet.
                (true, _) => self.complete(store, &image, age).await,
                (false, true) => Ok(()),
                (false, false) => self.remove(store, &image, &needed).await,
            };
            if let Err(why) = outcome {
                tracing::debug!(image = image.reference, why, "A pulled image stays for now");
            }
        }
    }

    /// Completes the record of a pull without an end: it is in progress, it failed, or the platform
    /// died during it.
    async fn complete(&self, store: &Store, pulled: &Pulled, age: u128) -> Result<(), String> {
        let found = (self.find)(pulled.reference.clone()).await;
        let written = match found.map_err(|e| e.to_string())? {
            Some(image) => {
                let digest_ref = digest_ref(&pulled.reference, &image.digests);
                let complete = Pulled {
                    id: image.id,
                    digest_ref,
                    ..pulled.clone()
                };
                put(store, complete).await
            }
            None if age > LONGEST_PULL.as_millis() => {
                let gone = Change::DeletePulled(pulled.reference.clone());
                commit(store, vec![gone]).await
            }
            None => return Ok(()),
        };
        written.map_err(|f| f.text(true))
    }

    async fn remove(&self, store: &Store, pulled: &Pulled, needed: &Needed) -> Result<(), String> {
        for name in [&pulled.reference, &pulled.digest_ref] {
            if name.is_empty() {
                continue;
            }
            let found = (self.find)(name.clone()).await;
            let found = found.map_err(|e| e.to_string())?;
            // A name that now stands for another image is not ours any more.
            if found.is_some_and(|image| image.id == pulled.id) {
                if needed.references.contains(name) {
                    return Ok(());
                }
                let untagged = (self.untag)(name.clone()).await;
                untagged.map_err(|e| e.to_string())?;
                tracing::info!(image = name, "Removed an image that no version needs");
            }
        }
        let gone = Change::DeletePulled(pulled.key().to_owned());
        let written = commit(store, vec![gone]).await;
        written.map_err(|f| f.text(true))
    }
}

/// By then every pull has ended, one way or the other: the engine's client waits less long.
const LONGEST_PULL: Duration = Duration::from_secs(2 * 60 * 60);

/// Records a pull; the record of a completed pull replaces that of the pull in progress.
async fn put(store: &Store, pulled: Pulled) -> Result<(), Failure> {
    let begun = Change::DeletePulled(pulled.reference.clone());
    commit(store, vec![begun, Change::PutPulled(Arc::new(pulled))]).await
}

async fn commit(store: &Store, changes: Vec<Change>) -> Result<(), Failure> {
    store.commit(move |_| Ok((changes, ()))).await
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use parking_lot::Mutex;

    use super::*;
    use crate::model::{App, CodeSource, Draft, ImageSource, Version};

    const TAG: &str = "r.example/app:1";
    const HOUR: i64 = 3_600_000;

    /// Names on the engine and the ids they stand for; those in use cannot be removed.
    #[derive(Default)]
    struct Names {
        ids: HashMap<String, String>,
        in_use: bool,
    }

    struct World {
        store: Store,
        names: Arc<Mutex<Names>>,
        images: Images,
        _dir: tempfile::TempDir,
    }

    impl World {
        fn new(names: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let ids = names.iter().map(|(n, id)| ((*n).into(), (*id).into()));
            let names = Arc::new(Mutex::new(Names {
                ids: ids.collect(),
                in_use: false,
            }));
            let (find, untag) = (names.clone(), names.clone());
            let images = Images {
                find: Box::new(move |name| {
                    let id = find.lock().ids.get(&name).cloned();
                    let image = id.map(|id| Image {
                        digests: vec![digest(&id)],
                        id,
                        user: String::new(),
                        home: Default::default(),
                        brings_init: false,
                        volumes: Vec::new(),
                        notes: Vec::new(),
                        exposed_ports: Vec::new(),
                        triggers: Vec::new(),
                        platform: Default::default(),
                    });
                    Box::pin(async move { Ok(image) })
                }),
                untag: Box::new(move |name| {
                    let mut names = untag.lock();
                    let outcome = if names.in_use {
                        Err(Error::Refused {
                            call: "remove the image",
                            status: 409,
                            message: "in use".into(),
                        })
                    } else {
                        names.ids.remove(&name);
                        Ok(())
                    };
                    Box::pin(async move { outcome })
                }),
            };
            Self {
                store: Store::open(dir.path()).expect("opens"),
                names,
                images,
                _dir: dir,
            }
        }

        async fn write(&self, id: &str, at_ms: i64) {
            let digest_ref = if id.is_empty() {
                String::new()
            } else {
                digest(id)
            };
            let pulled = Pulled {
                reference: TAG.into(),
                id: id.into(),
                digest_ref,
                at_ms,
            };
            put(&self.store, pulled).await.expect("written");
        }

        /// An app whose draft names the tag, and whose versions have these images.
        async fn app(&self, versions: &[&str]) {
            let source = CodeSource::Prebuilt(ImageSource {
                image_ref: TAG.into(),
                registry_secret_ref: String::new(),
            });
            let version = |(n, id): (usize, &&str)| {
                Arc::new(Version {
                    number: n as u32 + 1,
                    source: source.clone(),
                    image_ref: TAG.into(),
                    image_id: (*id).to_owned(),
                    facts: Default::default(),
                    overlay: None,
                    created_at_ms: 0,
                    settings: Default::default(),
                })
            };
            let app = App {
                id: "o/a".parse().expect("valid"),
                created_at_ms: 0,
                updated_at_ms: 0,
                used_at_ms: 0,
                settings: Default::default(),
                draft: Some(Draft {
                    source: source.clone(),
                    created_at_ms: 0,
                    built: None,
                    base: String::new(),
                }),
                versions: versions.iter().enumerate().map(version).collect(),
                active_version: 1,
                hosts: Vec::new(),
            };
            let put = Change::Put(Arc::new(app));
            commit(&self.store, vec![put]).await.expect("written");
        }

        async fn collect(&self) {
            let keep_for = Duration::from_secs(60);
            self.images.collect(&self.store, 1, keep_for, true).await;
        }

        fn records(&self) -> Vec<String> {
            let catalog = self.store.catalog();
            catalog.pulled().map(|p| p.key().to_owned()).collect()
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = self.names.lock().ids.keys().cloned().collect();
            names.sort_unstable();
            names
        }
    }

    fn digest(id: &str) -> String {
        format!("r.example/app@sha256:{id}")
    }

    #[tokio::test]
    async fn a_pull_whose_end_nobody_wrote_down_is_settled_by_what_is_there() {
        let begun = now_ms() - HOUR;
        let w = World::new(&[(TAG, "1"), (&digest("1"), "1")]);
        w.write("", begun).await;
        w.collect().await;
        assert_eq!(w.records(), [digest("1")], "it came");
        w.collect().await;
        assert_eq!((w.names(), w.records()), (vec![], vec![]), "and goes");

        w.write("", begun).await;
        w.collect().await;
        assert_eq!(w.records(), [TAG], "it may still be under way");
        w.write("", now_ms() - 3 * HOUR).await;
        w.collect().await;
        assert_eq!(w.records(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_clock_that_was_or_may_be_wrong_neither_removes_an_image_nor_keeps_it_for_good() {
        let w = World::new(&[(TAG, "1")]);
        // Pulled by a clock that was ten years ahead: its age counts from now.
        w.write("1", now_ms() + 10 * 365 * 24 * HOUR).await;
        w.collect().await;
        let pulled = w.store.catalog().pulled().next().expect("is there").at_ms;
        assert!(pulled <= now_ms(), "it stays for ten years");
        w.write("1", now_ms() - HOUR).await;
        let keep_for = Duration::from_secs(60);
        w.images.collect(&w.store, 1, keep_for, false).await;
        assert_eq!(w.names(), [TAG], "the clock may be wrong");
        w.images.collect(&w.store, 1, keep_for, true).await;
        assert!(w.names().is_empty());
    }

    #[tokio::test]
    async fn what_is_needed_young_in_use_or_renamed_stays() {
        let old = now_ms() - HOUR;
        let names = [(TAG, "3"), (&digest("1"), "1"), (&digest("2"), "2")];
        let w = World::new(&names);
        // 1 is active, 2 is neither active nor newest, and the tag stands for 3 by now.
        w.app(&["1", "2", "4"]).await;
        w.write("1", old).await;
        w.write("2", now_ms()).await;
        w.collect().await;
        assert_eq!(w.names().len(), 3, "2 is young");
        w.write("2", old).await;
        w.names.lock().in_use = true;
        w.collect().await;
        assert_eq!((w.names().len(), w.records().len()), (3, 2));
        w.names.lock().in_use = false;
        w.collect().await;
        assert_eq!(w.names(), [TAG.to_owned(), digest("1")]);
        assert_eq!(w.records(), [digest("1")]);
        // The image of a draft stays as long as the draft's name stands for it.
        w.write("3", old).await;
        w.collect().await;
        assert_eq!(w.records(), [digest("1"), digest("3")]);
        let id = "o/a".parse().expect("valid");
        let gone = vec![Change::Delete(id)];
        commit(&w.store, gone).await.expect("written");
        w.collect().await;
        assert_eq!((w.names(), w.records()), (vec![], vec![]));
    }
}
