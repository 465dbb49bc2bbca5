//! Where the user of an image is at home, and whether the image has files there.
//!
//! Nothing in an image's description says it unless its environment does: it stands in the
//! image's `/etc/passwd`. So a container is made of the image, looked into and removed; it never
//! runs. What was found is kept, since an image never changes.

use std::{collections::HashMap, io::Read as _};

use bollard::{
    models::ContainerCreateBody,
    query_parameters::{
        ContainerArchiveInfoOptions, CreateContainerOptions, DownloadFromContainerOptions,
    },
};
use futures_util::StreamExt as _;
use moka::sync::Cache;

use super::{
    Config, ContainerId, Error, Image,
    client::{Client, has_status, or_gone, remove_container},
    labels,
};
use crate::model::files::{Home, normal};

/// Images whose homes are kept: far more than one machine runs apps.
const KEPT: u64 = 4096;
/// Most of an image's `/etc/passwd` that is read.
const PASSWD_BYTES: usize = 1 << 20;
/// Looks at one image: something may take the container away once, hardly ever twice.
const TRIES: u32 = 3;

/// The homes found so far.
#[derive(Debug)]
pub(super) struct Homes {
    known: Cache<String, Home>,
    /// Tells our containers from those of a process that died while it looked.
    by: String,
}

impl Homes {
    pub(super) fn new() -> Self {
        Self {
            known: Cache::new(KEPT),
            by: ulid::Ulid::generate().to_string(),
        }
    }

    /// What tells the containers of this process that are only looked into or written into.
    pub(super) fn by(&self) -> &str {
        &self.by
    }

    /// Whether a container with these labels is one that is being looked into.
    pub(super) fn is_looking_through(&self, labels: Option<&HashMap<String, String>>) -> bool {
        labels.and_then(labels::look) == Some(self.by.as_str())
    }

    /// The image with its home; `image.home` has what its environment says.
    pub(super) async fn find(
        &self,
        client: &Client,
        config: &Config,
        mut image: Image,
    ) -> Result<Image, Error> {
        if let Some(home) = self.known.get(&image.id) {
            image.home = home;
            return Ok(image);
        }
        let mut tries = 1;
        image.home = loop {
            match self.look(client, config, &image).await {
                // `docker container prune` and the like.
                Err(Error::NoSuchContainer(_)) if tries < TRIES => tries += 1,
                found => break found?,
            }
        };
        self.known.insert(image.id.clone(), image.home.clone());
        Ok(image)
    }

    async fn look(&self, client: &Client, config: &Config, image: &Image) -> Result<Home, Error> {
        let id = self.open(client, config, image).await?;
        let found = look_into(client, &id, image).await;
        if let Err(cause) = remove_container(client, &id).await {
            tracing::warn!(container = %id, %cause, "A container that was looked into stays until the next start");
        }
        found
    }

    async fn open(
        &self,
        client: &Client,
        config: &Config,
        image: &Image,
    ) -> Result<ContainerId, Error> {
        let body = ContainerCreateBody {
            image: Some(image.id.clone()),
            // An image without one cannot be made a container of; it is never run.
            cmd: Some(vec!["-".to_owned()]),
            labels: Some(labels::of_look(config, &self.by)),
            network_disabled: Some(true),
            ..ContainerCreateBody::default()
        };
        let made = client
            .run("look into the image", |docker| async move {
                let options = None::<CreateContainerOptions>;
                docker.create_container(options, body).await
            })
            .await?;
        Ok(ContainerId(made.id))
    }
}

async fn look_into(client: &Client, id: &ContainerId, image: &Image) -> Result<Home, Error> {
    let mut path = image.home.path.clone();
    if path.is_empty() {
        let users = read_file(client, id, "/etc/passwd").await?;
        path = home_of(&image.user, &users.unwrap_or_default());
    }
    let in_image = match path.as_str() {
        "" => false,
        path => exists(client, id, path).await?,
    };
    Ok(Home { path, in_image })
}

/// The home of a user (a name or a number, with or without a group) as `/etc/passwd` has it;
/// empty for none, or `/`.
fn home_of(user: &str, passwd: &str) -> String {
    let user = match user.split(':').next().unwrap_or_default() {
        "" => "0",
        user => user,
    };
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_it = fields.len() >= 6 && (fields[0] == user || fields[2] == user);
        is_it.then(|| normal(fields[5]))
    });
    entry.unwrap_or_default()
}

async fn exists(client: &Client, id: &ContainerId, path: &str) -> Result<bool, Error> {
    let options = ContainerArchiveInfoOptions {
        path: path.to_owned(),
    };
    let found = client
        .run("look into the image", |docker| async move {
            docker
                .get_container_archive_info(&id.0, Some(options))
                .await
        })
        .await;
    there(client, id, found.map(drop))
        .await
        .map(|f| f.is_some())
}

/// The text of a file in a container; `None` when there is none.
async fn read_file(client: &Client, id: &ContainerId, path: &str) -> Result<Option<String>, Error> {
    let options = DownloadFromContainerOptions {
        path: path.to_owned(),
    };
    let archive = client
        .run("look into the image", |docker| async move {
            let mut parts = docker.download_from_container(&id.0, Some(options));
            let mut archive = Vec::new();
            while let Some(part) = parts.next().await {
                archive.extend_from_slice(&part?);
                if archive.len() > PASSWD_BYTES {
                    break;
                }
            }
            Ok(archive)
        })
        .await;
    let archive = there(client, id, archive).await?;
    Ok(archive.map(|archive| first_file(&archive)))
}

/// The text of the first file in a tar archive, as far as it can be read.
fn first_file(archive: &[u8]) -> String {
    let mut text = Vec::new();
    let mut archive = tar::Archive::new(archive);
    let file = archive.entries().ok().and_then(|mut all| all.next());
    if let Some(Ok(mut file)) = file {
        // A link, or what breaks off, is as good as what was read of it.
        let _ = file.read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// What is not there, when it is the path and not the container.
async fn there<T>(
    client: &Client,
    id: &ContainerId,
    found: Result<T, Error>,
) -> Result<Option<T>, Error> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(err) if has_status(&err, 404) => {
            let container = client
                .run("look into the image", |docker| async move {
                    docker.inspect_container(&id.0, None).await
                })
                .await;
            or_gone(container, id).map(|_| None)
        }
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node/:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\nbroken\n";
        for (user, home) in [
            ("", "/root"),
            ("0:0", "/root"),
            ("node", "/home/node"),
            ("1000:1000", "/home/node"),
            ("nobody", ""),
            ("65532", ""),
        ] {
            assert_eq!(home_of(user, passwd), home, "{user:?}");
        }
    }
}
