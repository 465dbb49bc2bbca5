//! The home directory of an image's user, and what the image has there.
//!
//! An image's description does not name it unless its environment does: it is in the image's
//! `/etc/passwd`. So a helper container is made of the image, read and removed; it never runs. The
//! answer is cached, since an image never changes.
//!
//! The engine fills an empty volume at a path with what the image has there, at every `create`. So
//! that no start takes longer the more an image has in its home, that content is counted once, up
//! to a bound, and only little content is copied ([`Content`]).

use std::path::Path;

use bollard::models::ContainerCreateBody;
use moka::sync::Cache;

use self::{
    fill::{Filling, Fills},
    image_files::ImageFiles,
};
use super::{
    Config, ContainerId, ContainerSpec, Error, Image,
    client::{Client, has_status, remove_container},
    folders,
    sealed::create_helper,
    spec,
};
use crate::model::files::{Content, DEFAULT_HOME, Home, normal};

mod count;
mod fill;
mod guard;
mod image_files;

/// Most images whose homes are remembered: far more than one machine runs apps.
const KEPT: u64 = 4096;
/// Most volumes of an image that are measured.
const MAX_VOLUMES: usize = 16;
/// Attempts to read one image: a prune may remove the helper once, hardly ever twice.
const TRIES: u32 = 3;
/// What the engine is asked to do, as a verb.
const CALL: &str = "read files of the image";

/// The homes found so far.
#[derive(Debug)]
pub(super) struct Homes {
    /// By the image's id, with the notes for its owner.
    known: Cache<String, (Home, Vec<String>)>,
    /// By the image as in a spec, and the path.
    contents: Cache<(String, String), Content>,
    fills: Fills,
    /// Distinguishes this run's helper containers from those of a process that died.
    run_id: String,
}

impl Homes {
    pub(super) fn new() -> Self {
        Self {
            known: Cache::new(KEPT),
            contents: Cache::new(KEPT),
            fills: Fills::new(),
            run_id: ulid::Ulid::generate().to_string(),
        }
    }

    /// The label of this process's helper containers.
    pub(super) fn run_id(&self) -> &str {
        &self.run_id
    }

    /// The image with its home; `image.home` has the one of its environment.
    pub(super) async fn find(
        &self,
        client: &Client,
        config: &Config,
        mut image: Image,
    ) -> Result<Image, Error> {
        if let Some(known) = self.known.get(&image.id) {
            (image.home, image.notes) = known;
            return Ok(image);
        }
        let question = Question::Home {
            user: &image.user,
            named: &image.home.path,
            volumes: &image.volumes,
        };
        let known = self.inspect(client, config, &image.id, question).await?;
        self.known.insert(image.id.clone(), known.clone());
        (image.home, image.notes) = known;
        Ok(image)
    }

    /// The spec with the content of the image's home, which is read where the spec does not have
    /// it, once per image and path.
    ///
    /// # Errors
    /// For a home that is a file, and one that would need a writable root file system where that is
    /// not allowed.
    pub(super) async fn resolve_content(
        &self,
        client: &Client,
        config: &Config,
        mut spec: ContainerSpec,
    ) -> Result<ContainerSpec, Error> {
        if !spec.files.has_home() {
            return Ok(spec);
        }
        let home = &mut spec.files.home;
        if matches!(home.content, None | Some(Content::Uncounted)) {
            let key = (spec.image.clone(), home.path.clone());
            let content = match self.contents.get(&key) {
                Some(content) => content,
                None => {
                    let question = Question::Content(&home.path);
                    let (found, _) = self.inspect(client, config, &spec.image, question).await?;
                    let found = found.content.ok_or_else(|| {
                        refused(format!(
                            "HOME is {:?}, which is a file in the image; name a directory",
                            home.path
                        ))
                    })?;
                    self.contents.insert(key, found.clone());
                    found
                }
            };
            home.content = Some(content);
        }
        if spec.files.always_read_only
            && spec.files.kept_since.is_none()
            && matches!(spec.files.home.content, Some(Content::Large { .. }))
        {
            return Err(refused(format!(
                "the image has more in its home {:?} than the {} files and {} bytes that every replica gets a copy of, and a strict platform has no root file system that can be written to; install the app elsewhere, such as in /app, or raise home_copy_files and home_copy_bytes",
                spec.files.home.path, config.home_copy_files, config.home_copy_bytes
            )));
        }
        Ok(spec)
    }

    /// Makes the app's volume ahead of the container where filling it may take long.
    pub(super) async fn fill_volume(
        &self,
        client: &Client,
        config: &Config,
        spec: &ContainerSpec,
        folder: Option<&Path>,
    ) -> Result<(), Error> {
        let is_large = matches!(spec.files.home.content, Some(Content::Large { .. }));
        match spec::home(config, spec) {
            Some(volume) if is_large && spec.files.kept_since.is_some() => {
                let mut body = ContainerCreateBody {
                    host_config: Some(bollard::models::HostConfig {
                        mounts: Some(vec![volume.clone()]),
                        ..Default::default()
                    }),
                    ..body(&spec.image)
                };
                let name = volume.source.unwrap_or_default();
                if let Some(folder) = folder {
                    folders::bind(&mut body, &name, folder);
                }
                let filling = Filling {
                    client: client.clone(),
                    config: config.clone(),
                    run_id: self.run_id.clone(),
                    body,
                };
                self.fills.ensure(name, filling).await
            }
            _ => Ok(()),
        }
    }

    /// Reads from an image through a helper container.
    async fn inspect(
        &self,
        client: &Client,
        config: &Config,
        image: &str,
        question: Question<'_>,
    ) -> Result<(Home, Vec<String>), Error> {
        let mut tries = 1;
        loop {
            let call = (CALL, client.limit());
            let id = create_helper(client, config, &self.run_id, call, body(image)).await?;
            let files = ImageFiles {
                client,
                config,
                image,
                id: &id,
            };
            let found = match question {
                Question::Home {
                    user,
                    named,
                    volumes,
                } => files.home_and_volumes(user, named, volumes).await,
                Question::Content(path) => files.content(path).await.map(|content| {
                    let path = path.to_owned();
                    (Home { path, content }, Vec::new())
                }),
            };
            if let Err(cause) = remove_container(client, &id).await {
                tracing::warn!(container = %id, %cause, "A helper container stays until the next start");
            }
            match found {
                // `docker container prune` and the like removed the helper.
                Err(Error::NoSuchContainer(_)) if tries < TRIES => tries += 1,
                found => return found,
            }
        }
    }
}

/// A container of an image, never to be run.
fn body(image: &str) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(image.to_owned()),
        // The engine refuses a container without a command.
        cmd: Some(vec!["-".to_owned()]),
        ..ContainerCreateBody::default()
    }
}

/// A question about an image.
#[derive(Clone, Copy)]
enum Question<'a> {
    /// The home of a user, unless the environment has `named` one; and which of its volumes are
    /// large.
    Home {
        user: &'a str,
        named: &'a str,
        volumes: &'a [String],
    },
    /// The content at a path.
    Content(&'a str),
}

fn refused(message: String) -> Error {
    Error::Refused {
        call: "give the app its home directory",
        status: 0,
        message,
    }
}

impl ImageFiles<'_> {
    /// See [`Question::Home`].
    async fn home_and_volumes(
        &self,
        user: &str,
        named: &str,
        volumes: &[String],
    ) -> Result<(Home, Vec<String>), Error> {
        let home = self.home(user, named).await?;
        let mut notes = Vec::new();
        for volume in volumes.iter().take(MAX_VOLUMES) {
            let path = normal(volume);
            if !path.is_empty()
                && let Some(Some(real)) = self.directory(&path).await?
                && !self.is_small(&real).await?
            {
                notes.push(format!(
                    "its VOLUME {volume:?} has more than {} files or {} bytes in it, which the engine copies at every start; install them elsewhere, or build the image without that VOLUME",
                    self.config.home_copy_files, self.config.home_copy_bytes
                ));
            }
        }
        Ok((home, notes))
    }

    /// The home of a user, unless the environment has `named` one. A file is not a home.
    async fn home(&self, user: &str, named: &str) -> Result<Home, Error> {
        let path = match named {
            "" => {
                let users = self.read_file("/etc/passwd").await?;
                home_of(user, &users.unwrap_or_default())
            }
            named => named.to_owned(),
        };
        if !path.is_empty()
            && !guard::is_the_engines(&path)
            && let Some(content) = self.content(&path).await?
        {
            return Ok(Home {
                path,
                content: Some(content),
            });
        }
        Ok(Home {
            path: String::new(),
            content: self.content(DEFAULT_HOME).await?,
        })
    }

    /// The content of the image at a path; `None` when that is a file.
    async fn content(&self, path: &str) -> Result<Option<Content>, Error> {
        if guard::is_the_engines(path) {
            return Ok(Some(Content::Nothing));
        }
        let Some(real) = self.directory(path).await? else {
            return Ok(None);
        };
        let Some(real) = real else {
            return Ok(Some(Content::Nothing));
        };
        if self.is_small(&real).await? {
            return Ok(Some(Content::Small));
        }
        let read_only = self.around(&real).await?;
        tracing::warn!(
            image = self.image,
            home = path,
            max_files = self.config.home_copy_files,
            max_bytes = self.config.home_copy_bytes,
            "The image has too much in its home to give every replica a copy; it is changed in place, in the writable layer of each container"
        );
        Ok(Some(Content::Large { read_only }))
    }
}

/// The home of a user (a name or a number, with or without a group) in `/etc/passwd`; empty for
/// none, or `/`.
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
