//! Builds through the engine's classic builder, and the images that they leave.
//!
//! An image carries the instance in labels of its own: those of containers would pass on to every
//! container made from it, and say that it is ours.

use std::{collections::HashMap, path::PathBuf};

use bollard::{
    body_try_stream,
    models::BuildInfo,
    query_parameters::{BuildImageOptions, ListImagesOptions, RemoveImageOptions},
};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};

use super::{
    Config, Docker, Error,
    client::{Client, gone_is_fine},
    image::for_engine,
};
use crate::{
    engine::{BuildNews, BuildOrder, ImageBuilder},
    model::InstanceId,
};

/// The instance that built an image.
pub(super) const BUILT_BY: &str = "io.dodil.ignite.built-by";
const BUILT_IN: &str = "io.dodil.ignite.built-in";

impl ImageBuilder for Docker {
    fn build(&self, order: BuildOrder) -> BoxStream<'static, Result<BuildNews, Error>> {
        build(&self.client, &self.config, order)
    }

    fn built(&self) -> BoxFuture<'_, Result<Vec<String>, Error>> {
        built(&self.client, &self.config.instance).boxed()
    }

    fn remove_image<'a>(&'a self, tag: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        remove(&self.client, tag).boxed()
    }
}

/// Runs a build; dropping the stream ends it in the engine, too.
fn build(
    client: &Client,
    config: &Config,
    order: BuildOrder,
) -> BoxStream<'static, Result<BuildNews, Error>> {
    let connected = client.connector().client();
    let docker = match connected {
        Ok(docker) => docker,
        Err(error) => return stream::iter([Err(error)]).boxed(),
    };
    let credentials: HashMap<_, _> = order
        .credentials
        .iter()
        .map(for_engine)
        .filter_map(|c| Some((c.serveraddress.clone()?, c)))
        .collect();
    let options = BuildImageOptions {
        dockerfile: order.dockerfile,
        t: Some(order.tag),
        rm: true,
        // Without it a step that fails leaves its container.
        forcerm: true,
        buildargs: Some(order.build_args.into_iter().collect()),
        labels: Some(labels(config)),
        networkmode: order.network,
        ..BuildImageOptions::default()
    };
    let client = client.clone();
    let context = body_try_stream(order.context);
    // The client's stream borrows the connection, so the connection moves in with it.
    let (news, heard) = tokio::sync::mpsc::channel(64);
    let reading = async move {
        let mut answer = docker.build_image(options, Some(credentials), Some(context));
        while let Some(info) = answer.next().await {
            let told = match info {
                Ok(info) => read(info).map(Ok),
                Err(cause) => Some(Err(client.translate(
                    "build the image",
                    client.limit(),
                    cause,
                ))),
            };
            if let Some(told) = told
                && news.send(told).await.is_err()
            {
                return;
            }
        }
    };
    // Driven by whoever reads: dropped with the stream, it closes the connection.
    let heard = tokio_stream::wrappers::ReceiverStream::new(heard);
    stream::select(
        heard.map(Some),
        stream::once(reading).map(|()| None::<Result<BuildNews, Error>>),
    )
    .filter_map(std::future::ready)
    .boxed()
}

fn read(info: BuildInfo) -> Option<BuildNews> {
    if let Some(error) = info.error_detail {
        let message = error.message.unwrap_or_else(|| "no reason given".into());
        return Some(BuildNews::Failed(message.trim().to_owned()));
    }
    if let Some(id) = info.aux.and_then(|aux| aux.id) {
        return Some(BuildNews::Built(id));
    }
    if let Some(text) = info.stream {
        return Some(BuildNews::Output(text));
    }
    let status = info.status?;
    // Bars of bytes are for terminals; that a layer moves on is enough.
    let moving = info.progress_detail.is_some_and(|p| p.current.is_some());
    (!moving).then(|| match info.id {
        Some(id) => BuildNews::Status(format!("{id}: {status}")),
        None => BuildNews::Status(status),
    })
}

/// The names of the images that an instance has built.
async fn built(client: &Client, instance: &InstanceId) -> Result<Vec<String>, Error> {
    let ours = format!("{BUILT_BY}={instance}");
    let all = list(client, ours).await?;
    Ok(all.into_iter().flat_map(|image| image.tags).collect())
}

/// Removes an image's name, and the image when it has no other. Gone is success, and so is one
/// that a container still runs: its name goes, the content stays for that container.
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

/// An image that some instance has built.
pub(super) struct BuiltImage {
    pub(super) instance: String,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) tags: Vec<String>,
}

/// The images with a label, as `name` or `name=value`.
pub(super) async fn list(client: &Client, label: String) -> Result<Vec<BuiltImage>, Error> {
    let options = ListImagesOptions {
        filters: Some(HashMap::from([("label".to_owned(), vec![label])])),
        ..ListImagesOptions::default()
    };
    let found = client
        .run("list images", |docker| async move {
            docker.list_images(Some(options)).await
        })
        .await?;
    Ok(found
        .into_iter()
        .filter_map(|image| {
            let instance = image.labels.get(BUILT_BY)?.clone();
            let data_dir = image.labels.get(BUILT_IN).map(PathBuf::from);
            // An image that somebody built from one of ours has the labels and other names.
            let prefix = format!("ignite-{instance}/");
            let tags = image.repo_tags.into_iter();
            Some(BuiltImage {
                data_dir,
                tags: tags.filter(|tag| tag.starts_with(&prefix)).collect(),
                instance,
            })
        })
        .collect())
}

fn labels(config: &Config) -> HashMap<String, String> {
    [
        (BUILT_BY, config.instance.to_string()),
        (BUILT_IN, config.data_dir.to_string_lossy().into_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}
