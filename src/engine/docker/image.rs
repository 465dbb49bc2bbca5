//! Images: found on this machine or pulled, once for all who wait.
//!
//! A pull runs in a task, so that it continues when the request that asked for it gives up, and
//! later requests join it. The tasks end with the [`Pulls`] that owns them.

use std::time::Duration;

use bollard::{
    auth::DockerCredentials,
    models::ImageInspect,
    query_parameters::{CreateImageOptions, RemoveImageOptions},
};
use futures_util::StreamExt;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Credentials, Error, Image, PullRecord,
    cli_config::CliConfig,
    client::{Client, gone_is_fine, has_status},
    single_flight::SingleFlight,
};
use crate::model::{
    Platform,
    files::{Home, normal},
    process::is_init,
};

/// What the engine is asked to do, as a verb.
const PULL: &str = "pull the image";
/// Docker Hub's name in the engine's credentials.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// Longest image reference that is passed on; the registries' own limits are far below.
const MAX_REFERENCE_LEN: usize = 1024;

/// The key of a pull: a pull with other credentials may end differently.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    reference: String,
    credentials: Option<(String, String, Option<String>)>,
    is_recorded: bool,
}

/// The running pulls.
#[derive(Debug)]
pub(super) struct Pulls {
    running: SingleFlight<Key>,
    stop: CancellationToken,
    record: PullRecord,
    /// The user's logins, for pulls without credentials.
    login: Option<CliConfig>,
    /// Ends the pulls on drop.
    _on_drop: DropGuard,
}

impl Pulls {
    pub(super) fn new(record: PullRecord, login: Option<CliConfig>) -> Self {
        let stop = CancellationToken::new();
        Self {
            running: SingleFlight::new(PULL),
            _on_drop: stop.clone().drop_guard(),
            stop,
            record,
            login,
        }
    }

    /// See [`super::super::Engine::ensure_image`].
    pub(super) async fn ensure(
        &self,
        client: &Client,
        reference: &str,
        credentials: Option<&Credentials>,
        limit: Duration,
    ) -> Result<Image, Error> {
        self.ensure_by(client, reference, credentials, limit, true)
            .await
    }

    /// See [`super::super::Engine::ensure_base`].
    pub(super) async fn ensure_unrecorded(
        &self,
        client: &Client,
        reference: &str,
        credentials: Option<&Credentials>,
        limit: Duration,
    ) -> Result<Image, Error> {
        self.ensure_by(client, reference, credentials, limit, false)
            .await
    }

    async fn ensure_by(
        &self,
        client: &Client,
        reference: &str,
        credentials: Option<&Credentials>,
        limit: Duration,
        is_recorded: bool,
    ) -> Result<Image, Error> {
        let none = |cause: String| Error::NoSuchImage {
            reference: reference.to_owned(),
            cause,
        };
        check_reference(reference).map_err(|why| none(why.to_owned()))?;
        if let Some(image) = inspect(client, reference).await? {
            return Ok(image);
        }
        if reference.starts_with("sha256:") {
            return Err(none(
                "no image here has this id, and an id cannot be pulled; give a name".into(),
            ));
        }
        self.pull(client, reference, credentials, limit, is_recorded)
            .await?;
        inspect(client, reference)
            .await?
            .ok_or_else(|| none("it was pulled and removed again".into()))
    }

    async fn pull(
        &self,
        client: &Client,
        reference: &str,
        credentials: Option<&Credentials>,
        limit: Duration,
        is_recorded: bool,
    ) -> Result<(), Error> {
        let record = if is_recorded {
            self.record.clone()
        } else {
            PullRecord::none()
        };
        let key = Key {
            is_recorded,
            reference: reference.to_owned(),
            credentials: credentials.map(|c| {
                (
                    c.username.clone(),
                    c.password.clone(),
                    c.server_address.clone(),
                )
            }),
        };
        let work = || {
            let (client, stop, record) = (client.clone(), self.stop.clone(), record.clone());
            let (reference, credentials) = (reference.to_owned(), credentials.map(for_engine));
            let login = self.login.clone();
            async move {
                let pulling = async {
                    let found = match (&credentials, &login) {
                        (None, Some(login)) => login.credentials_for(&reference).await,
                        _ => None,
                    };
                    let server = found.as_ref().and_then(|f| f.serveraddress.clone());
                    let credentials = credentials.or(found);
                    let pulled =
                        pull_recorded(&client, &record, &reference, credentials, limit).await;
                    pulled.map_err(|err| with_login_named(err, server))
                };
                let pulled = stop.run_until_cancelled(pulling).await;
                pulled.unwrap_or_else(|| {
                    Err(Error::Refused {
                        call: PULL,
                        status: 0,
                        message: "the platform is stopping".into(),
                    })
                })
            }
        };
        self.running.run(key, work).await
    }
}

/// Names the login that a registry refused in an error.
fn with_login_named(err: Error, server: Option<String>) -> Error {
    match (err, server) {
        (Error::NoSuchImage { reference, cause }, Some(server)) => Error::NoSuchImage {
            cause: format!(
                "{cause} (with the credentials that `docker login` has for {server} on this machine)"
            ),
            reference,
        },
        (err, _) => err,
    }
}

/// Pulls an image that was missing. The record that it is ours comes first, since a crash may come
/// at any point of the pull.
async fn pull_recorded(
    client: &Client,
    record: &PullRecord,
    reference: &str,
    credentials: Option<DockerCredentials>,
    limit: Duration,
) -> Result<(), Error> {
    record.begin(reference).await?;
    let pulled = pull_once(client, reference, credentials, limit).await;
    match &pulled {
        Err(_) => record.end(reference, None).await,
        // If the engine does not respond, garbage collection asks it again.
        Ok(()) => {
            if let Ok(Some(image)) = inspect(client, reference).await {
                record.end(reference, Some(&image)).await;
            }
        }
    }
    pulled
}

async fn pull_once(
    client: &Client,
    reference: &str,
    credentials: Option<DockerCredentials>,
    limit: Duration,
) -> Result<(), Error> {
    tracing::info!(image = reference, "Pulling an image");
    let options = CreateImageOptions {
        from_image: Some(with_tag(reference)),
        ..CreateImageOptions::default()
    };
    let result = client
        .run_within("pull the image", limit, |docker| async move {
            // The engine pulls only while the stream is read, and reports a failure inside it.
            let mut progress = docker.create_image(Some(options), None, credentials);
            while let Some(step) = progress.next().await {
                step?;
            }
            Ok(())
        })
        .await;
    match result {
        Err(Error::Refused { message, .. }) => {
            tracing::warn!(
                image = reference,
                cause = message,
                "An image cannot be pulled"
            );
            Err(Error::NoSuchImage {
                reference: reference.to_owned(),
                cause: message,
            })
        }
        other => other,
    }
}

/// The image if it is on this machine.
pub(super) async fn inspect(client: &Client, reference: &str) -> Result<Option<Image>, Error> {
    let found = client
        .run("inspect the image", |docker| async move {
            docker.inspect_image(reference).await
        })
        .await;
    match found {
        Ok(image) => Ok(Some(from_engine(image))),
        Err(err) if has_status(&err, 404) => Ok(None),
        // The engine does not accept this as a reference at all.
        Err(Error::Refused {
            status: 400,
            message,
            ..
        }) => Err(Error::NoSuchImage {
            reference: reference.to_owned(),
            cause: message,
        }),
        Err(err) => Err(err),
    }
}

/// See [`super::super::Engine::registry_digest`].
pub(super) async fn registry_digest(
    client: &Client,
    reference: &str,
    credentials: Option<&Credentials>,
) -> Result<String, Error> {
    let none = |cause: String| Error::NoSuchImage {
        reference: reference.to_owned(),
        cause,
    };
    check_reference(reference).map_err(|why| none(why.to_owned()))?;
    let tagged = with_tag(reference);
    let found = client
        .run("ask the registry for an image", |docker| {
            let (tagged, credentials) = (&tagged, credentials.map(for_engine));
            async move { docker.inspect_registry_image(tagged, credentials).await }
        })
        .await;
    match found {
        Ok(found) => {
            let digest = found.descriptor.digest;
            digest.ok_or_else(|| none("the registry gave no digest".to_owned()))
        }
        Err(Error::Refused { message, .. }) => Err(none(message)),
        Err(err) => Err(err),
    }
}

/// See [`super::super::Engine::untag_image`].
pub(super) async fn untag(client: &Client, reference: &str) -> Result<(), Error> {
    let removed = client
        .run("remove the image", |docker| async move {
            let options = None::<RemoveImageOptions>;
            docker.remove_image(reference, options, None).await
        })
        .await;
    gone_is_fine(removed.map(drop))
}

fn from_engine(image: ImageInspect) -> Image {
    let platform = Platform::new(
        image.os.as_deref().unwrap_or_default(),
        image.architecture.as_deref().unwrap_or_default(),
        image.variant.as_deref().unwrap_or_default(),
    );
    let config = image.config.unwrap_or_default();
    // The entry point, else the command, else nothing to run.
    let lines = [config.entrypoint, config.cmd];
    let program = lines.iter().flatten().find_map(|line| line.first());
    let brings_init = program.is_some_and(|program| is_init(program));
    let ports = config.exposed_ports.unwrap_or_default();
    let mut exposed_ports: Vec<u16> = ports
        .iter()
        .filter_map(|port| match port.split_once('/') {
            Some((number, "tcp")) => number.parse().ok(),
            Some(_) => None,
            None => port.parse().ok(),
        })
        .collect();
    exposed_ports.sort_unstable();
    Image {
        id: image.id.unwrap_or_default(),
        digests: image.repo_digests.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        home: Home {
            path: home_in(&config.env.unwrap_or_default()),
            content: None,
        },
        brings_init,
        volumes: config.volumes.unwrap_or_default(),
        notes: Vec::new(),
        exposed_ports,
        triggers: config.on_build.unwrap_or_default(),
        platform,
    }
}

/// The home directory that an image sets in its environment; empty for none.
fn home_in(env: &[String]) -> String {
    let home = env.iter().find_map(|pair| pair.strip_prefix("HOME="));
    normal(home.unwrap_or_default())
}

pub(super) fn for_engine(credentials: &Credentials) -> DockerCredentials {
    DockerCredentials {
        username: Some(credentials.username.clone()),
        password: Some(credentials.password.clone()),
        serveraddress: Some(
            credentials
                .server_address
                .clone()
                .unwrap_or_else(|| DOCKER_HUB.to_owned()),
        ),
        ..DockerCredentials::default()
    }
}

/// Refuses text that is not a reference. It becomes part of a path in the engine's API, so dots,
/// question marks and the like must not lead elsewhere.
fn check_reference(reference: &str) -> Result<(), &'static str> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-:/@".contains(c);
    if reference.is_empty() {
        return Err("the reference is empty; give one such as registry.example/app:1.0");
    }
    if reference.len() > MAX_REFERENCE_LEN {
        return Err("the reference is over 1024 characters long");
    }
    if !reference.chars().all(legal) {
        return Err("a reference has only letters, digits and . _ - : / @");
    }
    if reference
        .split('/')
        .any(|part| part.is_empty() || part.starts_with(['.', '-', ':', '@']))
    {
        return Err("a part between slashes is empty or begins with . - : or @");
    }
    Ok(())
}

/// The reference with `:latest` when it names neither tag nor digest; otherwise the engine would
/// pull every tag.
fn with_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if last.contains([':', '@']) {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_tag_means_latest() {
        assert_eq!(with_tag("redis"), "redis:latest");
        assert_eq!(
            with_tag("localhost:5000/redis"),
            "localhost:5000/redis:latest"
        );
        assert_eq!(with_tag("localhost:5000/redis:7"), "localhost:5000/redis:7");
        assert_eq!(with_tag("a/b@sha256:00"), "a/b@sha256:00");
    }

    #[test]
    fn what_could_leave_the_path_is_no_reference() {
        for bad in [
            "",
            "../containers/json",
            "a/../b",
            "a?all=1",
            "a#b",
            "a b",
            "a%2e",
            "/a",
            "a//b",
            "-a",
            &"a".repeat(1025),
        ] {
            assert!(check_reference(bad).is_err(), "{bad}");
        }
        for good in [
            "redis",
            "sha256:0a",
            "0a1b2c",
            "reg.example:5000/a_b/c-d:1.0@sha256:00",
        ] {
            assert_eq!(check_reference(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn exposed_tcp_ports_are_read() {
        let ports = ["8080/tcp", "53/udp", "80"].map(str::to_owned).to_vec();
        let config = bollard::models::ImageConfig {
            exposed_ports: Some(ports),
            ..Default::default()
        };
        let image = from_engine(ImageInspect {
            config: Some(config),
            ..Default::default()
        });
        assert_eq!(image.exposed_ports, [80, 8080]);
        assert_eq!(image.user, "");
        assert!(!image.brings_init);
        for (entrypoint, cmd, brings_init) in [
            (None, Some("/sbin/init"), true),
            (Some("/usr/bin/tini"), Some("/app"), true),
            (Some("/app"), Some("/sbin/init"), false),
        ] {
            let line = |program: Option<&str>| program.map(|p| vec![p.to_owned()]);
            let config = bollard::models::ImageConfig {
                entrypoint: line(entrypoint),
                cmd: line(cmd),
                ..Default::default()
            };
            let image = from_engine(ImageInspect {
                config: Some(config),
                ..Default::default()
            });
            assert_eq!(image.brings_init, brings_init, "{entrypoint:?} {cmd:?}");
        }
    }
}
