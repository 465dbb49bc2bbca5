//! Builds through the engine's classic builder, and the images that they leave.
//!
//! An image is known as ours by its name, `ignite-<instance>/<org>/<app>:<build>`: a label would be
//! one more step of every build, which costs a second on slow storage, and would be inherited by
//! what others build from it. One empty image, the mark, records whose instance that is; it is made
//! before the first build and has the data directory in its labels.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bollard::{
    auth::DockerCredentials,
    body_full, body_try_stream,
    models::BuildInfo,
    query_parameters::{BuildImageOptions, RemoveImageOptions},
};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tar::EntryType;
use tokio::sync::mpsc;

use super::{
    Config, Docker, Error, archive, build_limits,
    build_network::{BuildNetworks, PooledNetwork},
    build_steps::Announcements,
    cli_config::{CliConfig, Reaches},
    client::{Client, gone_is_fine},
    image::for_engine,
    image_list::list,
    labels::{BUILT_BY, BUILT_IN},
    lost_layers, no_builder,
};
use crate::engine::{
    BuildCache, BuildEvent, BuildNetwork, BuildRequest, Credentials, ImageBuilder, STAGE,
};

/// What the engine is asked to do to make an instance's mark, as a verb.
const MARK: &str = "mark the instance's images";

impl ImageBuilder for Docker {
    fn build(&self, request: BuildRequest) -> BoxStream<'static, Result<BuildEvent, Error>> {
        let isolation = Isolation {
            networks: self.build_networks.clone(),
            warned: Arc::clone(&self.warned_of_builds),
        };
        build(&self.client, &self.config, &self.cli, isolation, request)
    }

    fn remove_stages<'a>(&'a self, value: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        remove_stages(&self.client, value).boxed()
    }

    fn built(&self) -> BoxFuture<'_, Result<Vec<String>, Error>> {
        built(&self.client, self.config.instance.as_str()).boxed()
    }

    fn remove_image<'a>(&'a self, tag: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        remove(&self.client, tag).boxed()
    }

    fn remove_all(&self) -> BoxFuture<'_, Result<(), Error>> {
        let all = async {
            let instance = self.config.instance.as_str();
            for tag in built(&self.client, instance).await? {
                remove(&self.client, &tag).await?;
            }
            remove(&self.client, &mark(instance)).await
        };
        all.boxed()
    }
}

/// The source of isolated networks for builds.
struct Isolation {
    networks: Option<Arc<BuildNetworks>>,
    /// Whether the log has said that there is none.
    warned: Arc<AtomicBool>,
}

impl Isolation {
    /// A network for one build; the inner error is the reason why there is none.
    ///
    /// # Errors
    /// When the engine does not respond.
    async fn acquire(
        &self,
        client: &Client,
        config: &Config,
    ) -> Result<Result<PooledNetwork, String>, Error> {
        let network = match &self.networks {
            Some(networks) => networks.acquire(client, config).await,
            None => return Ok(Err("nothing keeps builds from this host".to_owned())),
        };
        match network {
            Ok(network) => Ok(Ok(network)),
            Err(err @ (Error::Unreachable { .. } | Error::NoDescriptors)) => Err(err),
            Err(cause) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%cause, "Steps of builds run without a network, since none can be made behind rules; make one whose rules isolate it from this host, and set build_network to its name");
                }
                Ok(Err(cause.to_string()))
            }
        }
    }
}

/// Runs a build; dropping the stream ends it in the engine, too.
fn build(
    client: &Client,
    config: &Config,
    cli: &CliConfig,
    isolation: Isolation,
    request: BuildRequest,
) -> BoxStream<'static, Result<BuildEvent, Error>> {
    let docker = match client.connector().client() {
        Ok(docker) => docker,
        Err(error) => return stream::iter([Err(error)]).boxed(),
    };
    // The client's stream borrows the connection, so the connection moves in with it.
    let (events, received) = mpsc::channel(64);
    let run = Run {
        client: client.clone(),
        config: config.clone(),
        cli: cli.clone(),
        isolation,
        events: events.clone(),
    };
    let reading = async move {
        if let Err(error) = run.to_the_end(docker, request).await {
            // If this fails, the reader has gone.
            let _ = events.send(Err(no_builder::recognized(error))).await;
        }
    };
    // The reader drives the connection: dropped with the stream, it closes.
    let received = tokio_stream::wrappers::ReceiverStream::new(received);
    stream::select(
        received.map(Some),
        stream::once(reading).map(|()| None::<Result<BuildEvent, Error>>),
    )
    .filter_map(std::future::ready)
    .boxed()
}

/// One running build.
struct Run {
    client: Client,
    config: Config,
    cli: CliConfig,
    isolation: Isolation,
    events: mpsc::Sender<Result<BuildEvent, Error>>,
}

impl Run {
    /// Has the engine build, and passes on its events until the build ends or the reader has gone.
    ///
    /// # Errors
    /// When the build cannot begin.
    async fn to_the_end(
        &self,
        docker: bollard::Docker,
        mut request: BuildRequest,
    ) -> Result<(), Error> {
        ensure_mark(&self.client, &self.config).await?;
        let docker = build_limits::put_on(docker, &self.client, &request.limits).await?;
        // Held until the build has ended.
        let (_network, mode) = self.network(request.network.clone()).await?;
        let credentials = self.credentials(&request.credentials).await;
        let reaches = match mode.as_deref() {
            Some("host") => Reaches::Host,
            _ => Reaches::Itself,
        };
        let engine = self.client.connector().describe();
        let mut build_args = self.cli.proxies(&engine, reaches).await;
        // The build's own values take precedence.
        build_args.extend(std::mem::take(&mut request.build_args));
        let context = body_try_stream(request.context);
        let mut options = BuildImageOptions {
            dockerfile: request.dockerfile,
            t: Some(request.tag),
            rm: true,
            // Without it a failed step leaves its container behind.
            forcerm: true,
            buildargs: Some(build_args.into_iter().collect()),
            networkmode: mode,
            ..BuildImageOptions::default()
        };
        match request.cache {
            BuildCache::Shared => {}
            // An empty list would let the engine use anyone's layers.
            BuildCache::Of(images) if images.is_empty() => options.nocache = true,
            BuildCache::Of(images) => options.cachefrom = Some(images),
        }
        let mut answer = docker.build_image(options, Some(credentials), Some(context));
        let mut announcements = Announcements::default();
        while let Some(info) = answer.next().await {
            let event = match info {
                Ok(info) => read(info).map(|event| Ok(announcements.read(event))),
                Err(cause) => Some(Err(no_builder::recognized(self.client.translate(
                    "build the image",
                    self.client.limit(),
                    cause,
                )))),
            };
            if let Some(event) = event.map(lost_layers::recognized)
                && self.events.send(event).await.is_err()
            {
                break;
            }
        }
        Ok(())
    }

    /// The steps' network in the engine's form, and the guard that keeps it for this build alone.
    async fn network(
        &self,
        network: BuildNetwork,
    ) -> Result<(Option<PooledNetwork>, Option<String>), Error> {
        Ok(match network {
            BuildNetwork::Engine => (None, None),
            BuildNetwork::Named(name) => (None, Some(name)),
            BuildNetwork::Isolated => {
                match self.isolation.acquire(&self.client, &self.config).await? {
                    Ok(network) => {
                        let id = network.id.clone();
                        (Some(network), Some(id))
                    }
                    Err(why) => {
                        let _ = self.events.send(Ok(BuildEvent::NoNetwork(why))).await;
                        (None, Some("none".to_owned()))
                    }
                }
            }
        })
    }

    /// The credentials for base images: this machine's logins where the operator lends them, and
    /// the build's own, which take precedence.
    async fn credentials(&self, given: &[Credentials]) -> HashMap<String, DockerCredentials> {
        let mut all = if self.config.use_docker_login {
            self.cli.all_credentials().await
        } else {
            HashMap::new()
        };
        let given = given.iter().map(for_engine);
        all.extend(given.filter_map(|c| Some((c.serveraddress.clone()?, c))));
        all
    }
}

fn read(info: BuildInfo) -> Option<BuildEvent> {
    if let Some(error) = info.error_detail {
        let message = error.message.unwrap_or_else(|| "no reason given".into());
        return Some(BuildEvent::Failed(message.trim().to_owned()));
    }
    if let Some(id) = info.aux.and_then(|aux| aux.id) {
        return Some(BuildEvent::Built(id));
    }
    if let Some(text) = info.stream {
        return Some(BuildEvent::Output(unpainted(&text)));
    }
    let status = info.status?;
    // Byte-level progress is for terminals; one line per change of state is enough.
    let moving = info.progress_detail.is_some_and(|p| p.current.is_some());
    (!moving).then(|| match info.id {
        Some(id) => BuildEvent::Status(format!("{id}: {status}")),
        None => BuildEvent::Status(status),
    })
}

/// Text without the colours that the engine puts around the output of steps on stderr, which would
/// end up in the middle of lines.
fn unpainted(text: &str) -> String {
    text.replace("\u{1b}[91m", "").replace("\u{1b}[0m", "")
}

/// The name of an instance's mark.
fn mark(instance: &str) -> String {
    format!("ignite-{instance}:mark")
}

/// Makes the mark of this instance where it is missing.
async fn ensure_mark(client: &Client, config: &Config) -> Result<(), Error> {
    let name = mark(config.instance.as_str());
    let known = client
        .run("find the instance's mark", |docker| {
            let name = name.clone();
            async move { docker.inspect_image(&name).await }
        })
        .await;
    if known.is_ok() {
        return Ok(());
    }
    let labels = [
        (BUILT_BY, config.instance.to_string()),
        (BUILT_IN, config.data_dir.to_string_lossy().into_owned()),
    ];
    let options = BuildImageOptions {
        dockerfile: "Dockerfile".to_owned(),
        t: Some(name),
        rm: true,
        forcerm: true,
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
        ..BuildImageOptions::default()
    };
    let file = Path::new("Dockerfile");
    let context = archive::of_one(MARK, EntryType::Regular, file, 0o644, b"FROM scratch\n")?;
    client
        .run(MARK, |docker| async move {
            let mut answer = docker.build_image(options, None, Some(body_full(context.into())));
            while let Some(step) = answer.next().await {
                step?;
            }
            Ok(())
        })
        .await
}

/// The names of the images that an instance has built.
async fn built(client: &Client, instance: &str) -> Result<Vec<String>, Error> {
    let prefix = format!("ignite-{instance}/");
    let found = list(client, &[("reference", format!("{prefix}*/*"))]).await?;
    let tags = found.into_iter().flat_map(|image| image.repo_tags);
    // An image can also have names that others gave it.
    Ok(tags.filter(|tag| tag.starts_with(&prefix)).collect())
}

/// Removes an image's name, and the image when it has no other. A missing one is a success, and so
/// is one that a container still runs: its name is removed, the content stays for that container.
pub(super) async fn remove(client: &Client, tag: &str) -> Result<(), Error> {
    let options = RemoveImageOptions {
        force: true,
        ..RemoveImageOptions::default()
    };
    let removed = client
        .run("remove the image", |docker| async move {
            docker
                .remove_image(tag, Some(options), None)
                .await
                .map(drop)
        })
        .await;
    gone_is_fine(removed)
}

/// Removes stages, from the last step backwards as far as they carry the label. The engine would
/// continue into the images that they began from, which the next build wants.
///
/// Other images can carry the label, since a Dockerfile may set any. No image with a name or a
/// container is lost; one that cannot be removed does not stop the others.
async fn remove_stages(client: &Client, value: &str) -> Result<(), Error> {
    let label = format!("{STAGE}={value}");
    let mut refused = HashMap::new();
    loop {
        let filters = [("label", label.clone()), ("dangling", "true".to_owned())];
        let mut last = list(client, &filters).await?;
        last.retain(|image| !refused.contains_key(&image.id));
        if last.is_empty() {
            return refused.into_values().next().map_or(Ok(()), Err);
        }
        for image in last {
            let id = image.id;
            let options = RemoveImageOptions {
                noprune: true,
                ..RemoveImageOptions::default()
            };
            let removed = client
                .run("remove a stage", |docker| {
                    let id = id.clone();
                    async move {
                        let removed = docker.remove_image(&id, Some(options), None).await;
                        removed.map(drop)
                    }
                })
                .await;
            if let Err(cause) = removed {
                refused.insert(id, cause);
            }
        }
    }
}

/// What an instance has built.
#[derive(Default)]
pub(super) struct BuiltImages {
    pub(super) data_dir: Option<PathBuf>,
    /// The names of its images, the mark among them.
    pub(super) tags: Vec<String>,
}

/// What every instance has built, by its id.
pub(super) async fn all(client: &Client) -> Result<BTreeMap<String, BuiltImages>, Error> {
    let mut all = BTreeMap::new();
    for found in list(client, &[("label", BUILT_BY.to_owned())]).await? {
        let Some(id) = found.labels.get(BUILT_BY) else {
            continue;
        };
        // Another image with these labels was made from a mark, and is not ours.
        let Some(tag) = found.repo_tags.iter().find(|tag| **tag == mark(id)) else {
            continue;
        };
        let mut tags = built(client, id).await?;
        tags.push(tag.clone());
        let data_dir = found.labels.get(BUILT_IN).map(PathBuf::from);
        all.insert(id.clone(), BuiltImages { data_dir, tags });
    }
    Ok(all)
}
