//! The volumes of apps that keep their files.
//!
//! A volume is bound to a folder of the data directory where the engine sees it (`folders.rs`), and
//! is one of the engine's own otherwise.
//!
//! The engine makes a volume with the first container that names it, and gives the directory to
//! root. Where the image has a directory at that path the engine copies it, owner and all; where it
//! has none, the volume is opened here to the app's user, once per volume.

use std::path::{Path, PathBuf};

use bollard::{
    body_full,
    models::{ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions},
    query_parameters::UploadToContainerOptions,
};
use moka::sync::Cache;
use tar::EntryType;
use tokio::sync::OnceCell;

use super::{
    Config, ContainerId, ContainerSpec, Docker, Error, Volume, archive,
    client::{Client, remove_container},
    engine_volumes,
    folders::{self, FolderHelper},
    labels,
    names::volume_name,
    sealed::create_helper,
};
use crate::model::AppId;

/// Most volumes remembered as open: far more than one machine runs apps.
const KEPT: u64 = 4096;
/// What the engine is asked to do, as a verb.
const CALL: &str = "open the volume to the app";
/// The helper's mount point of the volume: a path where no image has files.
const HELPER_DIR: &str = ".ignite-volume";

/// What this process knows of the apps' volumes, by their names.
#[derive(Debug)]
pub(super) struct Volumes {
    /// The opened volumes, with the time when the engine made them.
    opened: Cache<String, String>,
    /// The folder that each is bound to; `None` for one of the engine's own.
    folders: Cache<String, Option<PathBuf>>,
    /// Whether the engine sees the data directory, once that was tried.
    shared: OnceCell<bool>,
}

impl Volumes {
    pub(super) fn new() -> Self {
        Self {
            opened: Cache::new(KEPT),
            folders: Cache::new(KEPT),
            shared: OnceCell::new(),
        }
    }

    /// The warning to the owner of a persistent app about where its files are.
    pub(super) fn warning(&self, config: &Config, spec: &ContainerSpec) -> Option<String> {
        let name = volume_name(&config.instance, &spec.owner.app, spec.files.kept_since?);
        let in_engine = self.folders.get(&name)?.is_none();
        in_engine.then(|| {
            "the app's files are in a volume of the engine's own, which `docker volume prune` and `docker system prune --volumes` remove while the app has no container; \
             for a volume that outlives them let ignite and the engine share a host and a path to the data directory, then create the app anew"
                .to_owned()
        })
    }

    /// Lets every user write to the volume that a container of this spec will have as its home. The
    /// helper container for this is labelled with `run_id`.
    async fn open_to_all(
        &self,
        client: &Client,
        config: &Config,
        (name, spec): (&str, &ContainerSpec),
        folder: Option<&Path>,
        run_id: &str,
    ) -> Result<(), Error> {
        let Some(since) = spec.files.kept_since else {
            return Ok(());
        };
        if let Some(folder) = folder
            && (self.opened.contains_key(name) || folders::open(folder))
        {
            self.opened.insert(name.to_owned(), String::new());
            return Ok(());
        }
        let made = engine_volumes::made_at(client, name).await?;
        if made.is_some() && self.opened.get(name) == made {
            return Ok(());
        }
        let mut body = helper(config, spec, since);
        if let Some(folder) = folder {
            folders::bind(&mut body, name, folder);
        }
        let helper = create_helper(client, config, run_id, (CALL, client.limit()), body).await?;
        let opened = open(client, &helper).await;
        if let Err(cause) = remove_container(client, &helper).await {
            tracing::warn!(container = %helper, %cause, "A container that opened a volume stays until the next start");
        }
        opened?;
        if let Some(made) = engine_volumes::made_at(client, name).await? {
            self.opened.insert(name.to_owned(), made);
        }
        Ok(())
    }
}

impl Docker {
    /// Finds or makes the folder that the volume of an app that keeps its files is bound to.
    pub(super) async fn ensure_folder(
        &self,
        spec: &ContainerSpec,
    ) -> Result<Option<PathBuf>, Error> {
        let Some(since) = spec.files.kept_since else {
            return Ok(None);
        };
        let name = volume_name(&self.config.instance, &spec.owner.app, since);
        let folder = match self.volumes.folders.get(&name) {
            Some(known) => known,
            None => {
                let found = self.find_folder(&name, &spec.owner.app, since).await?;
                self.volumes.folders.insert(name.clone(), found.clone());
                found
            }
        };
        if let Some(folder) = &folder {
            folders::make(folder).map_err(|cause| Error::Refused {
                call: "keep the app's files",
                status: 0,
                message: format!("{}: {cause}", folder.display()),
            })?;
        }
        Ok(folder)
    }

    /// Makes the volume of an app that keeps its files, where a container that names it must not:
    /// Podman gives such a volume no labels, by which it is found again and removed.
    pub(super) async fn label_volume(&self, spec: &ContainerSpec) -> Result<(), Error> {
        let Some(since) = spec.files.kept_since else {
            return Ok(());
        };
        if !self.facts().await?.is_podman {
            return Ok(());
        }
        let (config, app) = (&self.config, &spec.owner.app);
        let name = volume_name(&config.instance, app, since);
        let labels = labels::of_volume(config, app, since);
        engine_volumes::make(&self.client, &name, labels).await
    }

    /// Opens the volume of an app that keeps its files to the app's user, where the image has
    /// nothing at that path.
    pub(super) async fn open_volume(
        &self,
        spec: &ContainerSpec,
        folder: Option<&Path>,
    ) -> Result<(), Error> {
        let Some(since) = spec.files.kept_since else {
            return Ok(());
        };
        if spec.files.home.is_in_image() {
            return Ok(());
        }
        let name = volume_name(&self.config.instance, &spec.owner.app, since);
        let (of, run_id) = ((name.as_str(), spec), self.homes.run_id());
        self.volumes
            .open_to_all(&self.client, &self.config, of, folder, run_id)
            .await
    }

    /// Binds the container's volume to this folder.
    pub(super) fn bind_volume(
        &self,
        mut body: ContainerCreateBody,
        spec: &ContainerSpec,
        folder: Option<&Path>,
    ) -> ContainerCreateBody {
        if let (Some(since), Some(folder)) = (spec.files.kept_since, folder) {
            let name = volume_name(&self.config.instance, &spec.owner.app, since);
            folders::bind(&mut body, &name, folder);
        }
        body
    }

    /// The folder that an app's volume is or will be bound to.
    async fn find_folder(
        &self,
        name: &str,
        app: &AppId,
        since: i64,
    ) -> Result<Option<PathBuf>, Error> {
        let folder = folders::of(&self.config, app, since);
        match engine_volumes::inspect(&self.client, name).await? {
            Some(volume) => match folders::device(&volume.options) {
                // From an older `ignite`, or from when the engine did not see the data directory.
                None => return Ok(None),
                Some(device) if device == folder => {}
                // The data directory was moved, and its folders with it.
                Some(_) if folder.exists() => engine_volumes::remove(&self.client, name).await?,
                Some(device) => {
                    tracing::warn!(%app, "The app's files are in {}, outside of the data directory, and stay there", device.display());
                    return Ok(None);
                }
            },
            None if folder.exists() => {}
            None if self.shares_host().await? => {}
            None => {
                tracing::warn!(%app, "The engine does not see the data directory, so the app's files are in a volume of the engine, which `docker volume prune` removes while the app has no container");
                return Ok(None);
            }
        }
        Ok(Some(folder))
    }

    /// Whether the engine sees the data directory. Asked once.
    pub(super) async fn shares_host(&self) -> Result<bool, Error> {
        let shared = self.volumes.shared.get_or_try_init(|| async {
            let facts = self.facts().await?;
            self.helper(&facts.architecture).shares_host().await
        });
        shared.await.copied()
    }

    fn helper<'a>(&'a self, architecture: &'a str) -> FolderHelper<'a> {
        FolderHelper {
            client: &self.client,
            config: &self.config,
            holder: &self.holder_image,
            architecture,
            run_id: self.homes.run_id(),
        }
    }

    /// The volumes of apps: those of the engine, and folders that no longer have a volume.
    pub(super) async fn list_volumes(&self) -> Result<Vec<Volume>, Error> {
        let mut all =
            engine_volumes::list(&self.client, labels::filter(&self.config.instance)).await?;
        for volume in folders::list(&self.config) {
            if !all.iter().any(|v| v.name == volume.name) {
                all.push(volume);
            }
        }
        Ok(all)
    }

    /// Removes the volume of an app with its files; a missing one is a success.
    pub(super) async fn remove_files(&self, name: &str) -> Result<(), Error> {
        engine_volumes::remove(&self.client, name).await?;
        let Some((app, since)) = folders::app_of(&self.config, name) else {
            return Ok(());
        };
        self.volumes.folders.invalidate(name);
        self.volumes.opened.invalidate(name);
        let folder = folders::of(&self.config, &app, since);
        if !folder.exists() {
            return Ok(());
        }
        self.remove_folder(&folder).await
    }

    /// Removes a folder of an app with everything in it; a missing one is a success.
    pub(super) async fn remove_folder(&self, folder: &Path) -> Result<(), Error> {
        let facts = self.facts().await?;
        self.helper(&facts.architecture).remove(folder).await
    }
}

/// A container with the volume, to be written into and never run. Engines apply no mode to the
/// directory that is written into, only to entries in it, so the volume is mounted below the root;
/// and they write into a root file system only when it is writable.
fn helper(config: &Config, spec: &ContainerSpec, since: i64) -> ContainerCreateBody {
    let app = &spec.owner.app;
    let volume = Mount {
        source: Some(volume_name(&config.instance, app, since)),
        target: Some(format!("/{HELPER_DIR}")),
        typ: Some(MountType::VOLUME),
        volume_options: Some(MountVolumeOptions {
            no_copy: Some(true),
            labels: Some(labels::of_volume(config, app, since)),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    };
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        cmd: Some(vec!["-".to_owned()]),
        host_config: Some(HostConfig {
            mounts: Some(vec![volume]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

async fn open(client: &Client, helper: &ContainerId) -> Result<(), Error> {
    // Everyone may write to it: the app's user may be any.
    let archive = archive::of_one(
        CALL,
        EntryType::Directory,
        Path::new(HELPER_DIR),
        0o777,
        &[],
    )?;
    let options = UploadToContainerOptions {
        path: "/".to_owned(),
        ..UploadToContainerOptions::default()
    };
    client
        .run(CALL, |docker| async move {
            let archive = body_full(archive.into());
            docker
                .upload_to_container(&helper.0, Some(options), archive)
                .await
        })
        .await
}
