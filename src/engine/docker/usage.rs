//! `ignite df`: what one instance has in the engine, with its size.
//!
//! As for a prune, labels are believed of what has our names: the command changes nothing, so the
//! worst that a forged label does is a wrong row.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use bollard::{
    models::{ContainerSummary, ImageSummary, Volume},
    query_parameters::{ListContainersOptions, ListImagesOptions, ListVolumesOptions},
};

use super::{
    DEFAULT_START_TIMEOUT, Error, Pruner, disk, folders, holder, image_list, labels, relay, states,
};
use crate::{
    model::{AppId, InstanceId},
    tree_size::TreeSize,
};

/// What something in the engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsedKind {
    /// What a container wrote, beside volumes that outlive it.
    Container,
    /// The files of an app, in a volume that the engine holds.
    Volume,
    /// An image that was built here.
    Built,
    /// Another image, which a container of an app was made from.
    Pulled,
    /// A small image that every instance on the engine uses.
    Shared,
}

/// One thing in the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// What it is.
    pub kind: UsedKind,
    /// The app that it belongs to; `None` where that is none or several.
    pub app: Option<AppId>,
    /// Its size; `None` where it cannot be known from here.
    pub bytes: Option<u64>,
    /// Of it, what other images have too; `None` where the engine does not say.
    pub shared: Option<u64>,
    /// Whether the size is too small, since something could not be read.
    pub partial: bool,
}

/// What the engine has.
#[derive(Debug, Default)]
pub struct EngineUsage {
    /// What belongs to the instance.
    pub used: Vec<Used>,
    /// How many other instances have something.
    pub others: usize,
}

impl Pruner {
    /// Everything that an instance has in the engine. It may take a while: the engine walks the
    /// layers of the containers, this process the volumes that it may read.
    ///
    /// # Errors
    /// When the engine does not list it.
    pub async fn usage(&self, instance: &InstanceId) -> Result<EngineUsage, Error> {
        let all = self.find().await?;
        let others = all.keys().filter(|id| *id != instance.as_str()).count();
        let containers = self.own_containers(instance).await?;
        let images = self.all_images().await?;
        let volumes = self.own_volumes(instance).await?;
        let mut used = images_of(instance, &containers, &images);
        let is_local = self.is_local();
        let measured = tokio::task::spawn_blocking(move || {
            let containers = containers.iter().map(|c| container(c, is_local));
            let volumes = volumes.iter().filter_map(|v| volume(v, is_local));
            containers.chain(volumes).collect::<Vec<_>>()
        });
        let measured = measured.await.map_err(|cause| Error::Refused {
            call: "measure volumes",
            status: 0,
            message: cause.to_string(),
        })?;
        used.extend(measured);
        Ok(EngineUsage { used, others })
    }

    async fn own_containers(&self, instance: &InstanceId) -> Result<Vec<ContainerSummary>, Error> {
        let options = ListContainersOptions {
            all: true,
            size: true,
            filters: Some(labels::filter(instance)),
            ..ListContainersOptions::default()
        };
        let mut found = self
            .client()
            .run_within(
                "measure containers",
                DEFAULT_START_TIMEOUT,
                |docker| async move {
                    states::in_dockers_words(docker.list_containers(Some(options)).await)
                },
            )
            .await?;
        found.retain(|container| {
            let names = container.names.as_deref().unwrap_or_default();
            let labels = container.labels.as_ref();
            let maker = labels.and_then(|l| labels::maker_of_container(names, l));
            maker.is_some_and(|(id, ..)| id == instance.as_str())
        });
        Ok(found)
    }

    async fn all_images(&self) -> Result<Vec<ImageSummary>, Error> {
        let options = ListImagesOptions {
            // Known to engines from version 1.42 of the API on.
            shared_size: true,
            ..ListImagesOptions::default()
        };
        let mut images = self
            .client()
            .run_within(
                "measure images",
                DEFAULT_START_TIMEOUT,
                |docker| async move { docker.list_images(Some(options)).await },
            )
            .await?;
        image_list::name_as_given(&mut images);
        Ok(images)
    }

    async fn own_volumes(&self, instance: &InstanceId) -> Result<Vec<Volume>, Error> {
        let options = ListVolumesOptions {
            filters: Some(labels::filter(instance)),
        };
        let found = self.client().run("list volumes", |docker| async move {
            docker.list_volumes(Some(options)).await
        });
        Ok(found.await?.volumes.unwrap_or_default())
    }
}

fn container(container: &ContainerSummary, is_local: bool) -> Used {
    let layer = u64::try_from(container.size_rw.unwrap_or_default()).unwrap_or_default();
    let mut files = TreeSize::default();
    for folder in disk::anonymous(container).filter(|_| is_local) {
        files.add(&folder, &AtomicBool::new(false));
    }
    Used {
        kind: UsedKind::Container,
        app: container.labels.as_ref().and_then(labels::app),
        bytes: Some(layer.saturating_add(files.bytes)),
        shared: None,
        partial: files.partial,
    }
}

/// An app's volume; `None` for one that is bound to a folder, one of a container, and a lease.
fn volume(volume: &Volume, is_local: bool) -> Option<Used> {
    let (app, _) = labels::kept_for(&volume.labels)?;
    if folders::device(&volume.options).is_some() {
        return None;
    }
    let folder = PathBuf::from(&volume.mountpoint);
    let files = is_local.then(|| readable(&folder)).flatten();
    Some(Used {
        kind: UsedKind::Volume,
        app: Some(app),
        bytes: files.as_ref().map(|files| files.bytes),
        shared: None,
        partial: files.is_none_or(|files| files.partial),
    })
}

/// The size of a folder of the engine; `None` where it cannot be seen from here.
fn readable(folder: &Path) -> Option<TreeSize> {
    std::fs::read_dir(folder).ok()?;
    let mut files = TreeSize::default();
    files.add(folder, &AtomicBool::new(false));
    Some(files)
}

/// The images that were built here, that containers of apps were made from, and that every instance
/// uses.
fn images_of(
    instance: &InstanceId,
    containers: &[ContainerSummary],
    images: &[ImageSummary],
) -> Vec<Used> {
    let mut users = BTreeMap::<&str, BTreeSet<AppId>>::new();
    for container in containers {
        let app = container.labels.as_ref().and_then(labels::app);
        if let (Some(app), Some(image)) = (app, &container.image_id) {
            users.entry(image).or_default().insert(app);
        }
    }
    let prefix = format!("ignite-{instance}/");
    let used = |image: &ImageSummary| {
        let built = image.repo_tags.iter().find_map(|tag| {
            let (app, _) = tag.strip_prefix(&prefix)?.rsplit_once(':')?;
            app.parse::<AppId>().ok()
        });
        let of_platform = image
            .repo_tags
            .iter()
            .filter_map(|tag| Some(tag.rsplit_once(':')?.0))
            // Podman shows names with a registry.
            .filter_map(|name| name.rsplit('/').next())
            .any(|name| [holder::REPOSITORY, relay::REPOSITORY].contains(&name));
        let (kind, app) = match (built, users.get(image.id.as_str())) {
            (Some(app), _) => (UsedKind::Built, Some(app)),
            _ if of_platform => (UsedKind::Shared, None),
            (None, Some(apps)) => (
                UsedKind::Pulled,
                apps.first().filter(|_| apps.len() == 1).cloned(),
            ),
            (None, None) => return None,
        };
        Some(Used {
            kind,
            app,
            bytes: u64::try_from(image.size).ok(),
            // -1 where the engine did not compute it.
            shared: u64::try_from(image.shared_size).ok(),
            partial: false,
        })
    };
    images.iter().filter_map(used).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn an_image_counts_once_for_whom_it_was_built_or_who_runs_it() {
        let instance = InstanceId::from_random(7);
        let image = |id: &str, tags: &[String], shared_size| ImageSummary {
            id: id.to_owned(),
            repo_tags: tags.to_vec(),
            size: 100,
            shared_size,
            ..ImageSummary::default()
        };
        let run_by = |app: &str, image: &str| ContainerSummary {
            image_id: Some(image.to_owned()),
            labels: Some(HashMap::from([("org", "acme"), ("app", app)].map(
                |(key, value)| (format!("io.dodil.ignite.{key}"), value.to_owned()),
            ))),
            ..ContainerSummary::default()
        };
        let containers = [
            run_by("a", "one"),
            run_by("a", "pulled"),
            run_by("b", "both"),
            run_by("c", "both"),
        ];
        let built = ["1", "2"].map(|build| format!("ignite-{instance}/acme/a:{build}"));
        let images = [
            image("one", &built, 40),
            image("pulled", &["registry.example/a:1".to_owned()], -1),
            image("both", &[], -1),
            image("holder", &["localhost/ignite-holder:1".to_owned()], 0),
            image("foreign", &["ignite-000000000000/acme/a:1".to_owned()], 0),
        ];
        let found = images_of(&instance, &containers, &images);
        let app = Some("acme/a".parse::<AppId>().expect("an app"));
        let found: Vec<_> = found
            .into_iter()
            .map(|used| (used.kind, used.app, used.shared))
            .collect();
        assert_eq!(
            found,
            [
                (UsedKind::Built, app.clone(), Some(40)),
                (UsedKind::Pulled, app, None),
                (UsedKind::Pulled, None, None),
                (UsedKind::Shared, None, Some(0)),
            ]
        );
    }
}
