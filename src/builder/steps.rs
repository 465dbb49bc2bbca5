//! What one build does: get the source, make the context, have the engine build it.

use std::{io, path::Path};

use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio_util::io::ReaderStream;

use super::{
    Build, Context, SecretUse, Source,
    archive::{self, Format},
    builds::Shared,
    context::STAGE_ARG,
    dockerfile::Plan,
    dockerfile_policy, git, runtime,
};
use crate::{
    engine::{BuildCache, BuildEvent, BuildRequest, Credentials, Error},
    model::{
        AppId, BuildId, CodeSource, Failure, Reason,
        code::{BuiltImage, Compile, FromCode, FromGit, Runtime},
        work::Cancelled,
    },
};

/// Lines of the log that a failure shows.
pub(super) const TAIL: usize = 15;

/// Builds a draft; the log says what happens.
///
/// # Errors
/// BUILD_FAILED with the step and the last lines, and what the engine or the store says.
///
/// # Cancel safety
/// Dropped, the engine's build ends, and what was unpacked goes.
pub(super) async fn run(shared: &Shared, build: &Build) -> Result<BuiltImage, Failure> {
    let (context, registry) = match &build.draft.source {
        CodeSource::Prebuilt(image) => {
            build
                .log
                .line(format!("Looking for the image {}", image.image_ref));
            let found = shared.images.resolve(&build.app.org, image).await?;
            return Ok(BuiltImage {
                image_ref: image.image_ref.clone(),
                image_id: found.id,
            });
        }
        CodeSource::FromCode(code) => (
            from_code(shared, build, code).await?,
            &code.registry_secret_ref,
        ),
        CodeSource::FromGit(git) => (
            from_git(shared, build, git).await?,
            &git.registry_secret_ref,
        ),
        CodeSource::Compile(code) => (compile(shared, build, code).await?, &NO_SECRET),
    };
    engine(shared, build, context, registry).await
}

static NO_SECRET: String = String::new();

async fn from_code(shared: &Shared, build: &Build, code: &FromCode) -> Result<Context, Failure> {
    let bytes = shared.blobs.get(&code.archive).await?;
    build.log.line(format!("Unpacking {} bytes", bytes.len()));
    let limits = shared.config.limits;
    let folder = scratch(&shared.config.scratch)?;
    let code = code.clone();
    let open = &shared.open_args;
    let build_args = open(build.app.org.clone(), code.build_args.clone()).await?;
    reading(shared, build, move |cancelled| {
        let source = archive::unpack(&bytes, limits, folder, cancelled)
            .map_err(|why| failed(format!("the archive is refused: {why}")))?;
        let mut context = Context::whole(source, &code.dockerfile_path, cancelled)?;
        context.build_args = build_args;
        Ok(context)
    })
    .await
}

async fn from_git(shared: &Shared, build: &Build, from: &FromGit) -> Result<Context, Failure> {
    let folder = scratch(&shared.config.scratch)?;
    let source = git::fetch(shared, build, from, folder).await?;
    let dockerfile = from.dockerfile_path.clone();
    reading(shared, build, move |cancelled| {
        Context::whole(source, &dockerfile, cancelled)
    })
    .await
}

async fn compile(shared: &Shared, build: &Build, code: &Compile) -> Result<Context, Failure> {
    let bytes = shared.blobs.get(&code.source).await?;
    build
        .log
        .line(format!("Reading {} bytes of source", bytes.len()));
    let config = shared.config.clone();
    let folder = scratch(&config.scratch)?;
    let code = code.clone();
    reading(shared, build, move |cancelled| {
        let source = match archive::format(&bytes) {
            Format::Other => Source::of_file(folder, single_file(&code.runtime), &bytes)
                .map_err(|e| failed(format!("the source cannot be written down here: {e}")))?,
            _ => archive::unpack(&bytes, config.limits, folder, cancelled)
                .map_err(|why| failed(format!("the archive is refused: {why}")))?,
        };
        runtime::context(&code.runtime, source, &config)
    })
    .await
}

/// What a source that is one file is called.
fn single_file(runtime: &Runtime) -> &'static str {
    match runtime {
        Runtime::Python => "handler.py",
        Runtime::Rust { .. } => "src/main.rs",
        Runtime::Go => "handler.go",
        Runtime::Deno => "handler.ts",
    }
}

/// Has the engine build a context.
async fn engine(
    shared: &Shared,
    build: &Build,
    mut context: Context,
    registry_secret: &str,
) -> Result<BuiltImage, Failure> {
    let tag = tag(shared, &build.app, build.id);
    let mut credentials = Vec::new();
    if !registry_secret.is_empty() {
        let find = &shared.vault;
        let secret = find(
            build.app.org.clone(),
            registry_secret.to_owned(),
            SecretUse::Registry,
        );
        let secret = secret.await?;
        credentials.push(Credentials {
            username: secret.username,
            password: secret.password,
            server_address: Some(secret.server_address).filter(|a| !a.is_empty()),
        });
    }
    let plan = match build.draft.source {
        // The platform's own file, over images that the operator chose.
        CodeSource::Compile(_) => None,
        _ => {
            let given = credentials.first();
            Some(
                dockerfile_policy::enforce(shared, build, &mut context, registry_secret, given)
                    .await?,
            )
        }
    };
    let stage = context.has_stages.then(|| name(shared, &build.app));
    let folder = scratch(&shared.config.scratch)?;
    let (dockerfile, mut build_args, packed) = reading(shared, build, move |cancelled| {
        let at = folder.path().join("context.tar");
        let packed = std::fs::File::create(&at).and_then(|file| {
            context.pack(io::BufWriter::new(file), cancelled)?;
            std::fs::File::open(&at)
        });
        let packed = packed.map_err(|e| {
            failed(format!(
                "the build context cannot be packed on this machine: {e}"
            ))
        })?;
        // The packed context is open; the tree is of no use any more, and goes here, where
        // nobody waits for the disk.
        let Context {
            dockerfile,
            build_args,
            ..
        } = context;
        Ok((dockerfile, build_args, packed))
    })
    .await?;
    build_args.extend(
        stage
            .iter()
            .map(|name| (STAGE_ARG.to_owned(), name.clone())),
    );
    let order = BuildRequest {
        tag: tag.clone(),
        context: ReaderStream::new(tokio::fs::File::from_std(packed)).boxed(),
        dockerfile,
        build_args,
        credentials,
        network: shared.config.network.clone(),
        cache: cache(shared, &build.app).await?,
        limits: shared.config.step_limits.clone(),
    };
    let made = listen(shared, build, order, plan.as_ref()).await;
    if let Some(stage) = stage
        && let Err(error) = shared.engine.remove_stages(&stage).await
    {
        // It is room on disk, and the next build tries again.
        tracing::warn!(app = %build.app, %error, "The stages of a build cannot be removed");
    }
    let image_id = made?;
    Ok(BuiltImage {
        image_ref: tag,
        image_id,
    })
}

/// Whose layers a build goes on from: the app's own, where organizations are kept apart.
async fn cache(shared: &Shared, app: &AppId) -> Result<BuildCache, Failure> {
    if !shared.images.admission().isolates_organizations() {
        return Ok(BuildCache::Shared);
    }
    let built = shared.engine.built().await.map_err(|e| e.to_failure())?;
    let own = format!("{}:", name(shared, app));
    Ok(BuildCache::Of(
        built
            .into_iter()
            .filter(|tag| tag.starts_with(&own))
            .collect(),
    ))
}

/// Follows the engine's build to its end; answers the image's content id.
async fn listen(
    shared: &Shared,
    build: &Build,
    order: BuildRequest,
    plan: Option<&Plan>,
) -> Result<String, Failure> {
    let mut events = shared.engine.build(order);
    let mut step = String::new();
    let mut image = None;
    let mut no_network = None;
    while let Some(event) = events.next().await {
        match event {
            Ok(BuildEvent::Output(text)) => {
                if let Some(plan) = plan {
                    plan.check_step(&text).map_err(failed)?;
                }
                if let Some(line) = text.lines().find(|l| l.starts_with("Step ")) {
                    step = line.to_owned();
                }
                build.log.output(&text);
            }
            Ok(BuildEvent::Status(line)) => build.log.line(line),
            Ok(BuildEvent::NoNetwork(why)) => {
                let line = format!("Steps of this build have no network: {why}");
                build.log.line(&line);
                no_network = Some(line);
            }
            Ok(BuildEvent::Built(id)) => image = Some(id),
            Ok(BuildEvent::Failed(why)) => {
                return Err(broke(build, &step, &why, no_network.as_deref()));
            }
            Err(Error::Refused { message, .. }) => {
                return Err(broke(build, &step, &message, no_network.as_deref()));
            }
            Err(error) => return Err(error.to_failure()),
        }
    }
    image.ok_or_else(|| {
        failed("the engine ended the build without an image; its log may say why")
            .with_detail(build.log.tail(TAIL))
    })
}

/// The failure of a step; `no_network` is said with it, since that may be why.
fn broke(build: &Build, step: &str, why: &str, no_network: Option<&str>) -> Failure {
    let at = if step.is_empty() {
        String::new()
    } else {
        format!(" at {step:?}")
    };
    let no_network = no_network.map_or_else(String::new, |line| format!("; {line}"));
    failed(format!("the build failed{at}: {why}{no_network}")).with_detail(build.log.tail(TAIL))
}

/// What an image is called. Docker Hub has no such organization, and nothing here ever pulls it.
pub(super) fn tag(shared: &Shared, app: &AppId, build: BuildId) -> String {
    let id = build.0.to_string().to_lowercase();
    format!("{}:{id}", name(shared, app))
}

/// What all images of an app are called.
pub(super) fn name(shared: &Shared, app: &AppId) -> String {
    format!("ignite-{}/{}/{}", shared.config.instance, app.org, app.name)
}

fn scratch(folder: &Path) -> Result<TempDir, Failure> {
    tempfile::Builder::new()
        .prefix("build-")
        .tempdir_in(folder)
        .map_err(|e| {
            Failure::new(
                Reason::StoreUnavailable,
                format!("there is no folder for the build ({e}); free disk space on the data directory's volume"),
            )
        })
}

pub(super) fn failed(message: impl Into<String>) -> Failure {
    Failure::new(Reason::BuildFailed, message)
}

/// Work on files, away from what serves requests. It is called off when the build ends before it,
/// and then drops what it made.
pub(super) async fn reading<T: Send + 'static>(
    shared: &Shared,
    build: &Build,
    work: impl FnOnce(Cancelled<'_>) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    shared.parsing.run(&build.app, work).await
}
