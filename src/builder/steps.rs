//! The steps of one build: get the source, make the context, have the engine build it.

use std::{collections::BTreeMap, io, path::Path};

use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio_util::io::ReaderStream;

use super::{
    Context, Source,
    archive::{self, Format},
    build::{Build, BuildEnv, SecretUse},
    context::{Recipe, STAGE_ARG, recipe},
    dockerfile::Plan,
    dockerfile_policy,
    failure::{TAIL, failed},
    git,
    recognize::Recognized,
    runtime,
};
use crate::{
    engine::{BuildCache, BuildEvent, BuildRequest, Credentials, Error},
    model::{
        AppId, CodeSource, Failure, Reason,
        code::{BuiltImage, Compile, FromCode, FromGit, Runtime},
        work::Cancelled,
    },
};

/// Builds a draft, and logs its progress.
///
/// # Errors
/// BUILD_FAILED with the step and the last lines, or the engine's or the store's error.
///
/// # Cancel safety
/// Dropping the future ends the engine's build and removes what was unpacked.
pub(super) async fn run(env: &BuildEnv, build: &Build) -> Result<BuiltImage, Failure> {
    let (context, registry) = match &build.draft.source {
        CodeSource::Prebuilt(image) => {
            build
                .log
                .line(format!("Looking for the image {}", image.image_ref));
            let found = env.images.resolve(&build.app.org, image).await?;
            return Ok(BuiltImage {
                image_ref: image.image_ref.clone(),
                image_id: found.id,
            });
        }
        CodeSource::FromCode(code) => (
            from_code(env, build, code).await?,
            &code.registry_secret_ref,
        ),
        CodeSource::FromGit(git) => (from_git(env, build, git).await?, &git.registry_secret_ref),
        CodeSource::Compile(code) => (compile(env, build, code).await?, &NO_SECRET),
    };
    // The bases of a handler are the operator's.
    let registry = if context.is_managed {
        &NO_SECRET
    } else {
        registry
    };
    engine(env, build, context, registry).await
}

static NO_SECRET: String = String::new();

async fn from_code(env: &BuildEnv, build: &Build, code: &FromCode) -> Result<Context, Failure> {
    let bytes = env.blobs.get(&code.archive).await?;
    build.log.line(format!("Unpacking {} bytes", bytes.len()));
    let limits = env.config.limits;
    let folder = scratch(&env.config.scratch)?;
    let code = code.clone();
    let open = &env.open_args;
    let build_args = open(build.app.org.clone(), code.build_args.clone()).await?;
    let runtimes = env.config.runtimes.clone();
    let assembled = env.parse(build, move |cancelled| {
        let source = archive::unpack(&bytes, limits, folder, cancelled)
            .map_err(|why| failed(format!("the archive is refused: {why}")))?;
        assemble(source, &code.dockerfile_path, &runtimes, cancelled)
    });
    let mut context = noted(build, assembled.await?);
    if !context.is_managed {
        context.build_args = build_args;
    } else if !build_args.is_empty() {
        let line = "The build arguments are not used: they are for a Dockerfile";
        build.log.line(line);
    }
    Ok(context)
}

async fn from_git(env: &BuildEnv, build: &Build, from: &FromGit) -> Result<Context, Failure> {
    let folder = scratch(&env.config.scratch)?;
    let source = git::fetch(env, build, from, folder).await?;
    let dockerfile = from.dockerfile_path.clone();
    let runtimes = env.config.runtimes.clone();
    let assembled = env.parse(build, move |cancelled| {
        assemble(source, &dockerfile, &runtimes, cancelled)
    });
    Ok(noted(build, assembled.await?))
}

/// The context of code, with its own Dockerfile or as the handler that it was recognized as.
fn assemble(
    source: Source,
    dockerfile: &str,
    runtimes: &runtime::Settings,
    cancelled: Cancelled<'_>,
) -> Result<(Context, Option<Recognized>), Failure> {
    match recipe(dockerfile, source.entries()).map_err(failed)? {
        Recipe::Dockerfile(path) => Ok((Context::whole(source, &path, cancelled)?, None)),
        Recipe::Handler(found) => {
            // The owner named no runtime, so the failure says which one it was and why.
            let context = runtime::context(&found.runtime, source, runtimes)
                .map_err(|failure| failed(format!("{found}: {}", failure.message)))?;
            Ok((context, Some(found)))
        }
    }
}

/// The context, once the log says what the code was recognized as.
fn noted(build: &Build, (context, found): (Context, Option<Recognized>)) -> Context {
    if let Some(found) = found {
        build.log.line(found.to_string());
    }
    context
}

async fn compile(env: &BuildEnv, build: &Build, code: &Compile) -> Result<Context, Failure> {
    let bytes = env.blobs.get(&code.source).await?;
    build
        .log
        .line(format!("Reading {} bytes of source", bytes.len()));
    let config = env.config.clone();
    let folder = scratch(&config.scratch)?;
    let code = code.clone();
    env.parse(build, move |cancelled| {
        let source = match archive::format(&bytes) {
            Format::Other => Source::of_file(folder, single_file(&code.runtime), &bytes)
                .map_err(|e| failed(format!("the source cannot be written down here: {e}")))?,
            _ => archive::unpack(&bytes, config.limits, folder, cancelled)
                .map_err(|why| failed(format!("the archive is refused: {why}")))?,
        };
        runtime::context(&code.runtime, source, &config.runtimes)
    })
    .await
}

/// The file name of a source that is one file.
fn single_file(runtime: &Runtime) -> &'static str {
    match runtime {
        Runtime::Python => "handler.py",
        Runtime::Rust { .. } => "src/main.rs",
        Runtime::Go => "handler.go",
        Runtime::Deno => "main.ts",
    }
}

/// Has the engine build a context.
async fn engine(
    env: &BuildEnv,
    build: &Build,
    mut context: Context,
    registry_secret: &str,
) -> Result<BuiltImage, Failure> {
    let tag = env.image_tag(&build.app, build.id);
    let credentials = credentials(env, build, registry_secret).await?;
    let plan = if context.is_managed {
        None
    } else {
        let given = credentials.as_ref();
        let plan = dockerfile_policy::enforce(env, build, &mut context, registry_secret, given);
        Some(plan.await?)
    };
    let stage = context.has_stages.then(|| env.image_name(&build.app));
    let mut packed = pack(env, build, context).await?;
    let stage_arg = stage
        .iter()
        .map(|name| (STAGE_ARG.to_owned(), name.clone()));
    packed.build_args.extend(stage_arg);
    let request = |archive, cache| BuildRequest {
        tag: tag.clone(),
        context: ReaderStream::new(tokio::fs::File::from_std(archive)).boxed(),
        dockerfile: packed.dockerfile.clone(),
        build_args: packed.build_args.clone(),
        credentials: credentials.iter().cloned().collect(),
        network: env.config.network.clone(),
        cache,
        limits: env.config.step_limits.clone(),
    };
    let [first, second] = packed.archive;
    let first = request(first, cache(env, &build.app).await?);
    let made = match listen(env, build, first, plan.as_ref()).await {
        Err(NotBuilt::LayerLost(failure)) => {
            build.log.line(format!(
                "{}: the layer was removed from the engine during the build. Building once more, without cached layers",
                failure.message
            ));
            let second = request(second, BuildCache::Of(Vec::new()));
            listen(env, build, second, plan.as_ref()).await
        }
        made => made,
    };
    if let Some(stage) = stage
        && let Err(error) = env.engine.remove_stages(&stage).await
    {
        // The stages cost only disk space, and the next build tries again.
        tracing::warn!(app = %build.app, %error, "The stages of a build cannot be removed");
    }
    let image_id = made.map_err(NotBuilt::into_failure)?;
    Ok(BuiltImage {
        image_ref: tag,
        image_id,
    })
}

/// The credentials for base images, when the draft names a secret for them.
async fn credentials(
    env: &BuildEnv,
    build: &Build,
    secret: &str,
) -> Result<Option<Credentials>, Failure> {
    if secret.is_empty() {
        return Ok(None);
    }
    let find = &env.vault;
    let found = find(
        build.app.org.clone(),
        secret.to_owned(),
        SecretUse::Registry,
    );
    let found = found.await?;
    Ok(Some(Credentials {
        username: found.username,
        password: found.password,
        server_address: Some(found.server_address).filter(|a| !a.is_empty()),
    }))
}

/// A build context in the form that the engine takes.
struct Packed {
    /// Open twice, to be read from the beginning twice.
    archive: [std::fs::File; 2],
    dockerfile: String,
    build_args: BTreeMap<String, String>,
}

/// Packs a context into an archive that is unlinked from disk already.
async fn pack(env: &BuildEnv, build: &Build, context: Context) -> Result<Packed, Failure> {
    let folder = scratch(&env.config.scratch)?;
    env.parse(build, move |cancelled| {
        let at = folder.path().join("context.tar");
        let archive = std::fs::File::create(&at).and_then(|file| {
            context.pack(io::BufWriter::new(file), cancelled)?;
            Ok([std::fs::File::open(&at)?, std::fs::File::open(&at)?])
        });
        let archive = archive.map_err(|e| {
            failed(format!(
                "the build context cannot be packed on this machine: {e}"
            ))
        })?;
        // The packed archive is open and the tree no longer needed; it is removed here, on a thread
        // where no request waits for the disk.
        let Context {
            dockerfile,
            build_args,
            ..
        } = context;
        Ok(Packed {
            archive,
            dockerfile,
            build_args,
        })
    })
    .await
}

/// The layers that a build may reuse: the app's own, where organizations are isolated.
async fn cache(env: &BuildEnv, app: &AppId) -> Result<BuildCache, Failure> {
    if !env.images.admission().isolates_organizations() {
        return Ok(BuildCache::Shared);
    }
    let built = env.engine.built().await.map_err(|e| e.to_failure())?;
    let own = format!("{}:", env.image_name(app));
    Ok(BuildCache::Of(
        built
            .into_iter()
            .filter(|tag| tag.starts_with(&own))
            .collect(),
    ))
}

/// Why the engine has made no image.
enum NotBuilt {
    /// A layer that the build went on from was removed meanwhile.
    LayerLost(Failure),
    /// Anything that would be so again.
    ForGood(Failure),
}

impl NotBuilt {
    fn into_failure(self) -> Failure {
        let (NotBuilt::LayerLost(failure) | NotBuilt::ForGood(failure)) = self;
        failure
    }
}

impl From<Failure> for NotBuilt {
    fn from(failure: Failure) -> Self {
        NotBuilt::ForGood(failure)
    }
}

/// Follows the engine's build to its end; returns the image's content id.
async fn listen(
    env: &BuildEnv,
    build: &Build,
    request: BuildRequest,
    plan: Option<&Plan>,
) -> Result<String, NotBuilt> {
    let mut events = env.engine.build(request);
    let mut step = String::new();
    let mut image = None;
    let mut no_network = None;
    while let Some(event) = events.next().await {
        match event {
            Ok(BuildEvent::Step(begun)) => {
                if let Some(plan) = plan {
                    plan.check_step(&begun).map_err(failed)?;
                }
                let text = begun.to_string();
                text.lines()
                    .next()
                    .unwrap_or_default()
                    .clone_into(&mut step);
                build.log.output(&format!("{text}\n"));
            }
            Ok(BuildEvent::Output(text)) => build.log.output(&text),
            Ok(BuildEvent::Status(line)) => build.log.line(line),
            Ok(BuildEvent::NoNetwork(why)) => {
                let line = format!("Steps of this build have no network: {why}");
                build.log.line(&line);
                no_network = Some(line);
            }
            Ok(BuildEvent::Built(id)) => image = Some(id),
            Ok(BuildEvent::Failed(why)) => {
                return Err(broke(build, &step, &why, no_network.as_deref()).into());
            }
            Ok(BuildEvent::LayerLost(why)) => {
                let failure = broke(build, &step, &why, no_network.as_deref());
                return Err(NotBuilt::LayerLost(failure));
            }
            Err(Error::Refused { message, .. }) => {
                return Err(broke(build, &step, &message, no_network.as_deref()).into());
            }
            Err(error) => return Err(error.to_failure().into()),
        }
    }
    image.ok_or_else(|| {
        let why = "the engine ended the build without an image; its log may say why";
        failed(why).with_detail(build.log.tail(TAIL)).into()
    })
}

/// The failure of a step. `no_network` is added, since that may be the cause.
fn broke(build: &Build, step: &str, why: &str, no_network: Option<&str>) -> Failure {
    let at = if step.is_empty() {
        String::new()
    } else {
        format!(" at {step:?}")
    };
    let no_network = no_network.map_or_else(String::new, |line| format!("; {line}"));
    failed(format!("the build failed{at}: {why}{no_network}")).with_detail(build.log.tail(TAIL))
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
