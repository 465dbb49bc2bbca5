//! The files of apps in folders of the data directory, where the engine sees that directory.
//!
//! `docker volume prune` removes a volume that no container uses, which is the case whenever its
//! app is at zero. So an app's volume is bound to a folder here: a prune then removes only the
//! engine's reference, which the next container makes again. The folder itself is the record: where
//! it exists, the volume is bound to it.
//!
//! Whether the engine sees the data directory is proved once per process that makes a new folder: a
//! folder is bound into a container that never runs, and a word is read out of it. The test fails
//! on another host, in another mount namespace and in a virtual machine, and under SELinux, where
//! containers may not access the data directory's files. Volumes then stay with the engine.

use std::{
    collections::HashMap,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use bollard::{
    body_full,
    models::{
        ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions,
        MountVolumeOptionsDriverConfig,
    },
    query_parameters::{DownloadFromContainerOptions, UploadToContainerOptions},
};
use futures_util::StreamExt as _;
use tar::EntryType;

use super::{
    Config, ContainerId, Error, Volume, archive,
    client::{Client, remove_container},
    engine_volumes,
    holder::{self, HolderImage},
    labels,
    names::volume_name,
    sealed::create_helper,
};
use crate::model::AppId;

/// The folder in the data directory.
const FOLDER: &str = "volumes";
/// What the engine is asked to do, as a verb.
const CALL: &str = "bind a folder of the data directory";
/// The mount point of the folder in a container that never runs.
const MOUNT: &str = ".ignite-volume";
/// The file with the word that proves that engine and data directory share a host.
const WORD: &str = "word";
/// Exists where SELinux is on; containers may then not use unlabelled files.
const SELINUX: &str = "/sys/fs/selinux/enforce";
/// Most bytes of that file's archive: a block for its header, one for its text, some at the end.
const ARCHIVE_BYTES: usize = 64 << 10;
/// The mode of an open folder: the app's user may be any.
const OPEN: u32 = 0o777;

/// The folder of an app's files, whether or not it exists.
pub(super) fn of(config: &Config, app: &AppId, since: i64) -> PathBuf {
    let org = config.data_dir.join(FOLDER).join(app.org.as_str());
    org.join(format!("{}-{since}", app.name))
}

/// The driver options that bind a folder; `None` for a path that is not UTF-8.
fn driver(folder: &Path) -> Option<MountVolumeOptionsDriverConfig> {
    let options = [
        ("type", "none"),
        ("o", "bind"),
        ("device", folder.to_str()?),
    ];
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Some(MountVolumeOptionsDriverConfig {
        name: Some("local".to_owned()),
        options: Some(options.into()),
    })
}

/// Has the engine bind this folder where it has to make the volume of this name.
pub(super) fn bind(body: &mut ContainerCreateBody, name: &str, folder: &Path) {
    let mounts = body.host_config.as_mut().and_then(|h| h.mounts.as_mut());
    let of_it = |m: &&mut Mount| m.source.as_deref() == Some(name);
    for mount in mounts.into_iter().flatten().filter(of_it) {
        if let Some(options) = &mut mount.volume_options {
            options.driver_config = driver(folder);
        }
    }
}

/// The folder that a volume is bound to; `None` for one of the engine's own.
pub(super) fn device(options: &HashMap<String, String>) -> Option<PathBuf> {
    let bound = options.get("o").is_some_and(|o| o == "bind");
    bound.then(|| options.get("device").map(PathBuf::from))?
}

/// Makes the folder of an app.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    let parent = folder.parent().unwrap_or(folder);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)?;
    match fs::DirBuilder::new().mode(0o755).create(folder) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Whether a folder is empty, as far as it can be read.
pub(super) fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Lets every user write to a folder; returns whether that was possible from here.
pub(super) fn open(folder: &Path) -> bool {
    let is_open = |m: fs::Metadata| m.permissions().mode() & OPEN == OPEN;
    fs::metadata(folder).is_ok_and(is_open)
        || fs::set_permissions(folder, fs::Permissions::from_mode(OPEN)).is_ok()
}

/// The folders of apps, in the form of the volumes that are bound to them.
pub(super) fn list(config: &Config) -> Vec<Volume> {
    let volume = |(app, since, _)| Volume {
        name: volume_name(&config.instance, &app, since),
        app,
        since,
    };
    of_apps(&config.data_dir).into_iter().map(volume).collect()
}

/// The folders of apps in a data directory: the app, when it was created, and the path.
pub fn of_apps(data_dir: &Path) -> Vec<(AppId, i64, PathBuf)> {
    let entries = |path: &Path| {
        let names = fs::read_dir(path).into_iter().flatten().flatten();
        names.filter_map(|e| e.file_name().into_string().ok())
    };
    let root = data_dir.join(FOLDER);
    let mut found = Vec::new();
    for org in entries(&root) {
        for folder in entries(&root.join(&org)) {
            let app = folder.rsplit_once('-').and_then(|(name, since)| {
                let app = AppId {
                    org: org.parse().ok()?,
                    name: name.parse().ok()?,
                };
                Some((app, since.parse().ok()?))
            });
            if let Some((app, since)) = app {
                found.push((app, since, root.join(&org).join(&folder)));
            }
        }
    }
    found
}

/// The app of a volume of this instance, and when it was created, by the volume's name.
pub(super) fn app_of(config: &Config, name: &str) -> Option<(AppId, i64)> {
    let rest = name.strip_prefix(&format!("ignite-{}_", config.instance))?;
    // Names of organizations and apps have no underscore.
    let mut parts = rest.split('_');
    let app = AppId {
        org: parts.next()?.parse().ok()?,
        name: parts.next()?.parse().ok()?,
    };
    let since = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((app, since))
}

/// Accesses folders of the data directory through helper containers.
pub(super) struct FolderHelper<'a> {
    pub(super) client: &'a Client,
    pub(super) config: &'a Config,
    /// The image of the helpers. It is made from nothing, so it is always available.
    pub(super) holder: &'a HolderImage,
    /// The architecture of the engine's host.
    pub(super) architecture: &'a str,
    /// The run of `ignite`, for the labels of helper containers.
    pub(super) run_id: &'a str,
}

impl FolderHelper<'_> {
    /// Whether the engine sees the data directory, and containers may use its files.
    ///
    /// # Errors
    /// When the engine does not respond, so that this remains unknown.
    pub(super) async fn shares_host(&self) -> Result<bool, Error> {
        if Path::new(SELINUX).exists() {
            return Ok(false);
        }
        let word = ulid::Ulid::generate().to_string();
        let folder = self.config.data_dir.join(FOLDER).join(format!(".{word}"));
        let written = make(&folder).and_then(|()| fs::write(folder.join(WORD), &word));
        if let Err(error) = written {
            tracing::warn!(%error, "{} cannot be written to", folder.display());
            return Ok(false);
        }
        let seen = match self.bind(&folder, &word).await {
            Ok(id) => {
                let path = format!("/{MOUNT}/{WORD}");
                let read = self.read(&id, path).await;
                self.release(Some(&id), &word).await;
                read
            }
            Err(err) => {
                self.release(None, &word).await;
                Err(err)
            }
        };
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::debug!(%error, "{} stays", folder.display());
        }
        match seen {
            Ok(archive) => Ok(archive.windows(word.len()).any(|w| w == word.as_bytes())),
            // Usually there is no such folder on the engine's host.
            Err(Error::Refused { message, .. }) => {
                tracing::debug!(message, "The engine does not see the data directory");
                Ok(false)
            }
            Err(err) => Err(err),
        }
    }

    /// Removes the folder of an app. Files that the app's user has made may not be ours to remove:
    /// the engine then puts an empty file in the folder's place.
    ///
    /// # Errors
    /// The file system's or the engine's.
    pub(super) async fn remove(&self, folder: &Path) -> Result<(), Error> {
        match fs::remove_dir_all(folder) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(_) => {
                let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
                    return Ok(());
                };
                let path = Path::new(MOUNT).join(name);
                // Unless told to keep directories, the engine replaces the directory of that name
                // by the file.
                let archive = archive::of_one(CALL, EntryType::Regular, &path, 0o600, &[])?;
                let word = ulid::Ulid::generate().to_string();
                let replaced = match self.bind(parent, &word).await {
                    Ok(id) => {
                        let replaced = self.upload(&id, archive).await;
                        self.release(Some(&id), &word).await;
                        replaced
                    }
                    Err(err) => {
                        self.release(None, &word).await;
                        Err(err)
                    }
                };
                replaced?;
                fs::remove_file(folder).map_err(refused)?;
            }
        }
        // The organization's folder, when this was its last app.
        let _ = folder.parent().map(fs::remove_dir);
        Ok(())
    }

    /// The archive of a file in a container, which contains the file's text unchanged.
    async fn read(&self, id: &ContainerId, path: String) -> Result<Vec<u8>, Error> {
        let options = DownloadFromContainerOptions { path };
        self.client
            .run(CALL, |docker| async move {
                let mut parts = docker.download_from_container(&id.0, Some(options));
                let mut archive = Vec::new();
                while let Some(part) = parts.next().await {
                    archive.extend_from_slice(&part?);
                    if archive.len() > ARCHIVE_BYTES {
                        break;
                    }
                }
                Ok(archive)
            })
            .await
    }

    async fn upload(&self, id: &ContainerId, archive: Vec<u8>) -> Result<(), Error> {
        let options = UploadToContainerOptions {
            path: "/".to_owned(),
            ..UploadToContainerOptions::default()
        };
        self.client
            .run(CALL, |docker| async move {
                let archive = body_full(archive.into());
                docker
                    .upload_to_container(&id.0, Some(options), archive)
                    .await
            })
            .await
    }

    fn volume(&self, word: &str) -> String {
        format!("ignite-{}-bound-{word}", self.config.instance)
    }

    /// Makes a container with a folder bound into it; [`Self::release`] removes it.
    async fn bind(&self, folder: &Path, word: &str) -> Result<ContainerId, Error> {
        let mut retried = false;
        loop {
            let image = self.holder.ensure(self.client, self.architecture).await?;
            let body = self.body(folder, word, image);
            let call = (CALL, self.client.limit());
            match create_helper(self.client, self.config, self.run_id, call, body).await {
                Err(err) if !retried && self.holder.is_gone(&err) => retried = true,
                made => return made,
            }
        }
    }

    fn body(&self, folder: &Path, word: &str, image: String) -> ContainerCreateBody {
        let mount = Mount {
            source: Some(self.volume(word)),
            target: Some(format!("/{MOUNT}")),
            typ: Some(MountType::VOLUME),
            volume_options: Some(MountVolumeOptions {
                no_copy: Some(true),
                labels: Some(labels::of_instance(self.config)),
                driver_config: driver(folder),
                ..MountVolumeOptions::default()
            }),
            ..Mount::default()
        };
        ContainerCreateBody {
            image: Some(image),
            entrypoint: Some(vec![holder::PROGRAM.to_owned()]),
            host_config: Some(HostConfig {
                mounts: Some(vec![mount]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }

    async fn release(&self, id: Option<&ContainerId>, word: &str) {
        if let Some(id) = id
            && let Err(cause) = remove_container(self.client, id).await
        {
            tracing::warn!(container = %id, %cause, "A container that never ran stays until the next start");
        }
        let name = self.volume(word);
        if let Err(cause) = engine_volumes::remove(self.client, &name).await {
            tracing::warn!(volume = name, %cause, "A volume stays; `ignite prune` removes it when this instance is gone");
        }
    }
}

fn refused(cause: io::Error) -> Error {
    Error::Refused {
        call: CALL,
        status: 0,
        message: cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::docker::Seal, model::InstanceId};

    #[test]
    fn the_app_follows_from_a_folder_and_from_a_volume() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config::new(
            InstanceId::from_random(7),
            dir.path().to_owned(),
            Seal::new(&[7; 32]),
        );
        let app: AppId = "acme/my-app.two".parse().expect("valid");
        let folder = of(&config, &app, 5);
        make(&folder).expect("made");
        make(&folder).expect("there already");
        assert!(open(&folder));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o777);
        let parent = folder.parent().expect("a parent");
        assert_eq!(mode(parent), 0o700, "nobody else on this machine gets in");
        fs::create_dir(parent.join("odd")).expect("made");
        fs::create_dir(parent.join(".hidden-1x")).expect("made");
        let found = list(&config);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((&found[0].app, found[0].since), (&app, 5));
        assert_eq!(app_of(&config, &found[0].name), Some((app.clone(), 5)));
        for odd in [
            "",
            "ignite-000000000008_acme_a_5",
            "ignite-000000000007_acme_a",
            "ignite-000000000007_acme_a_5_6",
        ] {
            assert_eq!(app_of(&config, odd), None, "{odd}");
        }
        let options = driver(&folder)
            .and_then(|d| d.options)
            .expect("a path of text");
        assert_eq!(device(&options), Some(folder));
        assert_eq!(device(&HashMap::new()), None);
    }
}
