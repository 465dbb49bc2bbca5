//! The engine's calls on volumes.

use std::collections::HashMap;

use bollard::{
    models::VolumeCreateRequest,
    query_parameters::{ListVolumesOptions, RemoveVolumeOptions},
};

use super::{
    Error, Volume,
    client::{Client, gone_is_fine, has_status},
    labels,
};

/// A volume by its name; `None` when there is none.
pub(super) async fn inspect(
    client: &Client,
    name: &str,
) -> Result<Option<bollard::models::Volume>, Error> {
    let found = client
        .run("inspect the volume", |docker| async move {
            docker.inspect_volume(name).await
        })
        .await;
    match found {
        Ok(volume) => Ok(Some(volume)),
        Err(err) if has_status(&err, 404) => Ok(None),
        Err(err) => Err(err),
    }
}

/// Makes a volume with these labels; one of that name that exists stays as it is.
pub(super) async fn make(
    client: &Client,
    name: &str,
    labels: HashMap<String, String>,
) -> Result<(), Error> {
    let request = VolumeCreateRequest {
        name: Some(name.to_owned()),
        driver: Some("local".to_owned()),
        labels: Some(labels),
        ..VolumeCreateRequest::default()
    };
    let made = client
        .run("make the volume", |docker| async move {
            docker.create_volume(request).await
        })
        .await;
    made.map(drop)
}

/// When the engine made a volume, in the engine's words; one that is removed and made again has
/// another time. `None` when there is none.
pub(super) async fn made_at(client: &Client, name: &str) -> Result<Option<String>, Error> {
    let volume = inspect(client, name).await?;
    let time = |v: bollard::models::Volume| v.created_at.map(|at| at.to_string());
    Ok(volume.map(|v| time(v).unwrap_or_default()))
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

/// Removes a volume that no container uses; a missing one is a success.
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
