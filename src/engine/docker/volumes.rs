//! The volumes of apps that keep their files.
//!
//! The engine makes a volume with the first container that names it, and gives the directory to
//! root. Where the image has a directory in its place it copies that, owner and all; where it has
//! none, it is opened here to whoever the app runs as, once for each volume.

use std::collections::HashMap;

use bollard::{
    body_full,
    models::{ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions},
    query_parameters::{
        CreateContainerOptions, ListVolumesOptions, RemoveVolumeOptions, UploadToContainerOptions,
    },
};
use moka::sync::Cache;

use super::{
    Config, ContainerId, ContainerSpec, Error, Volume,
    client::{Client, gone_is_fine, has_status, remove_container},
    labels,
    spec::volume_name,
};

/// Volumes known to be open: far more than one machine runs apps.
const KEPT: u64 = 4096;
/// What is asked of the engine, as a verb.
const CALL: &str = "open the volume to the app";
/// Where the helper has the volume: nowhere that an image has files.
const HELPER_DIR: &str = ".ignite-volume";

/// The volumes that have been opened by this process, by name and the engine's time of making.
#[derive(Debug)]
pub(super) struct Volumes(Cache<String, String>);

impl Volumes {
    pub(super) fn new() -> Self {
        Self(Cache::new(KEPT))
    }

    /// Lets every user write to the volume that a container of this spec will have as its home.
    /// `by` goes into the labels of the container that it takes.
    pub(super) async fn open_to_all(
        &self,
        client: &Client,
        config: &Config,
        spec: &ContainerSpec,
        by: &str,
    ) -> Result<(), Error> {
        let Some(since) = spec
            .files
            .kept_since
            .filter(|_| !spec.files.home.is_in_image())
        else {
            return Ok(());
        };
        let name = volume_name(&config.instance, &spec.owner.app, since);
        let made = made_at(client, &name).await?;
        if made.is_some() && self.0.get(&name) == made {
            return Ok(());
        }
        let helper = create_helper(client, helper(config, spec, since, by)).await?;
        let opened = open(client, &helper).await;
        if let Err(cause) = remove_container(client, &helper).await {
            tracing::warn!(container = %helper, %cause, "A container that opened a volume stays until the next start");
        }
        opened?;
        if let Some(made) = made_at(client, &name).await? {
            self.0.insert(name, made);
        }
        Ok(())
    }
}

/// When the engine made a volume, as it says it; one that is removed and made again has another
/// time. `None` when there is none.
pub(super) async fn made_at(client: &Client, name: &str) -> Result<Option<String>, Error> {
    let found = client
        .run("inspect the volume", |docker| async move {
            docker.inspect_volume(name).await
        })
        .await;
    match found {
        Ok(volume) => {
            let made = volume.created_at.map(|at| at.to_string());
            Ok(Some(made.unwrap_or_default()))
        }
        Err(err) if has_status(&err, 404) => Ok(None),
        Err(err) => Err(err),
    }
}

/// A container that has the volume, to be written into and never run. Engines take no rights for
/// the directory that is written into, only for those in it, so the volume is below the root; and
/// they write into a root file system only when it is writable.
fn helper(config: &Config, spec: &ContainerSpec, since: i64, by: &str) -> ContainerCreateBody {
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
        labels: Some(labels::of_look(config, by)),
        network_disabled: Some(true),
        host_config: Some(HostConfig {
            mounts: Some(vec![volume]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

async fn create_helper(client: &Client, body: ContainerCreateBody) -> Result<ContainerId, Error> {
    let made = client
        .run(CALL, |docker| async move {
            let options = None::<CreateContainerOptions>;
            docker.create_container(options, body).await
        })
        .await?;
    Ok(ContainerId(made.id))
}

async fn open(client: &Client, helper: &ContainerId) -> Result<(), Error> {
    let archive = open_directory().map_err(|cause| Error::Refused {
        call: CALL,
        status: 0,
        message: cause.to_string(),
    })?;
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

/// An archive of one directory that everybody may write to.
fn open_directory() -> std::io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o777);
    header.set_size(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, HELPER_DIR, std::io::empty())?;
    archive.into_inner()
}

/// The volumes of apps among those with these labels.
pub(super) async fn list(
    client: &Client,
    filters: HashMap<String, Vec<String>>,
) -> Result<Vec<Volume>, Error> {
    let found = list_all(client, filters).await?;
    let of_app = |(name, labels): (String, HashMap<String, String>)| {
        let (app, since) = labels::kept_for(&labels)?;
        Some(Volume { name, app, since })
    };
    Ok(found.into_iter().filter_map(of_app).collect())
}

/// The names and labels of all volumes with these labels.
pub(super) async fn list_all(
    client: &Client,
    filters: HashMap<String, Vec<String>>,
) -> Result<Vec<(String, HashMap<String, String>)>, Error> {
    let options = ListVolumesOptions {
        filters: Some(filters),
    };
    let answer = client
        .run("list volumes", |docker| async move {
            docker.list_volumes(Some(options)).await
        })
        .await?;
    let volumes = answer.volumes.unwrap_or_default();
    Ok(volumes.into_iter().map(|v| (v.name, v.labels)).collect())
}

/// Removes a volume that no container has; gone is success.
pub(super) async fn remove(client: &Client, name: &str) -> Result<(), Error> {
    let removed = client
        .run("remove the volume", |docker| async move {
            docker
                .remove_volume(name, None::<RemoveVolumeOptions>)
                .await
        })
        .await;
    gone_is_fine(removed)
}
