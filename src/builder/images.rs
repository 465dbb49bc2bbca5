//! Images that exist: found on this machine or pulled, and checked against the rules.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::source_policy::{Admission, Grant};

use crate::{
    engine::{Credentials, Engine, Error, Image, Keychain},
    model::{
        Failure, ImageSource, OrgName, Platform, Reason, Version, code::BuiltImage,
        files::user_incompatibility, image_name::by_digest,
    },
};

type Ensured = BoxFuture<'static, Result<Image, Error>>;
type Ensure = dyn Fn(String, Option<Credentials>) -> Ensured + Send + Sync;
type Find = dyn Fn(String) -> BoxFuture<'static, Result<Option<Image>, Error>> + Send + Sync;
type Digest =
    dyn Fn(String, Option<Credentials>) -> BoxFuture<'static, Result<String, Error>> + Send + Sync;
type AskPlatform = dyn Fn() -> BoxFuture<'static, Result<Platform, Error>> + Send + Sync;

/// Makes images available; hides the type of the engine.
#[derive(Clone)]
pub struct Images {
    ensure: Arc<Ensure>,
    /// As `ensure`, for base images of builds.
    ensure_base: Arc<Ensure>,
    find: Arc<Find>,
    /// The digest that a registry has for a reference.
    digest: Arc<Digest>,
    /// The platform of the engine's host.
    host: Arc<AskPlatform>,
    keychain: Keychain,
    rules: Rules,
    admission: Arc<Admission>,
}

/// An image that a build begins from or copies out of.
#[derive(Debug)]
pub(super) struct Base {
    /// A name that always stands for this content. With `None` the engine finds or pulls the image
    /// by its own name.
    pub(super) pinned: Option<String>,
    /// Its `ONBUILD` instructions; empty where no stage begins from it.
    pub(super) triggers: Vec<String>,
}

/// The rules for images.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// Refuse images that the cloud platform would refuse.
    pub strict: bool,
    /// Accept images for another processor or system than the engine's host: it emulates them.
    pub foreign_arch: bool,
}

impl Images {
    /// Images of an engine, pulled with the credentials of the keychain.
    pub fn new<E: Engine>(
        engine: Arc<E>,
        keychain: Keychain,
        rules: Rules,
        admission: Admission,
    ) -> Self {
        let asked = engine.clone();
        let host = move || -> BoxFuture<'static, Result<Platform, Error>> {
            let engine = asked.clone();
            Box::pin(async move { Ok(engine.info().await?.platform) })
        };
        let finder = engine.clone();
        let find = move |reference: String| -> BoxFuture<'static, Result<Option<Image>, Error>> {
            let engine = finder.clone();
            Box::pin(async move { engine.find_image(&reference).await })
        };
        let registry = engine.clone();
        let digest = move |reference: String,
                           credentials: Option<Credentials>|
              -> BoxFuture<'static, Result<String, Error>> {
            let engine = registry.clone();
            Box::pin(async move {
                engine
                    .registry_digest(&reference, credentials.as_ref())
                    .await
            })
        };
        let based = engine.clone();
        let ensure_base = move |reference: String, credentials: Option<Credentials>| -> Ensured {
            let engine = based.clone();
            Box::pin(async move { engine.ensure_base(&reference, credentials.as_ref()).await })
        };
        let ensure = move |reference: String, credentials: Option<Credentials>| -> Ensured {
            let engine = engine.clone();
            Box::pin(async move { engine.ensure_image(&reference, credentials.as_ref()).await })
        };
        Self {
            ensure: Arc::new(ensure),
            ensure_base: Arc::new(ensure_base),
            find: Arc::new(find),
            digest: Arc::new(digest),
            host: Arc::new(host),
            keychain,
            rules,
            admission: Arc::new(admission),
        }
    }

    /// The rules that images and hosts are admitted by.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The image of an organization's source, pulled if it is not here. A secret that the source
    /// names must be usable even then, since a later pull will need it.
    ///
    /// # Errors
    /// IMAGE_UNAVAILABLE, ENGINE_UNAVAILABLE, or FAILED_PRECONDITION for an image that a strict
    /// platform refuses or that the engine cannot run, or a secret that cannot be used.
    pub async fn resolve(&self, org: &OrgName, source: &ImageSource) -> Result<Image, Failure> {
        let refused = |why| Failure::new(Reason::FailedPrecondition, why);
        let (name, secret) = (&source.image_ref, &source.registry_secret_ref);
        let admission = &self.admission;
        admission.check_name(org, name).map_err(refused)?;
        admission.check_registry(name).await.map_err(refused)?;
        let credentials = self.keychain.of(org, source).await?;
        let wanted = if admission.needs_grant(org, name) {
            self.granted(org, name, secret, credentials.clone()).await?
        } else {
            name.clone()
        };
        let image = (self.ensure)(wanted, credentials)
            .await
            .map_err(|e| match e {
                // No start has failed: the engine could not provide the image.
                Error::Refused { .. } | Error::TimedOut { .. } => Failure::new(
                    Reason::ImageUnavailable,
                    format!(
                        "image {:?} could not be made available: {e}",
                        source.image_ref
                    ),
                ),
                e => e.to_failure(),
            })?;
        self.check_rules(&source.image_ref, &image).await?;
        Ok(image)
    }

    /// The reference by digest that a registry grants an organization.
    ///
    /// # Errors
    /// IMAGE_UNAVAILABLE when it grants none, ENGINE_UNAVAILABLE.
    async fn granted(
        &self,
        org: &OrgName,
        reference: &str,
        secret: &str,
        credentials: Option<Credentials>,
    ) -> Result<String, Failure> {
        let grant = Grant {
            org: org.clone(),
            reference: reference.to_owned(),
            secret: secret.to_owned(),
        };
        if let Some(digest) = self.admission.granted(&grant) {
            return Ok(by_digest(reference, &digest));
        }
        let digest = (self.digest)(reference.to_owned(), credentials)
            .await
            .map_err(|e| match e {
                Error::NoSuchImage { .. } | Error::TimedOut { .. } => Failure::new(
                    Reason::ImageUnavailable,
                    format!(
                        "the registry does not give image {reference:?} to organization {org} ({e}); name a secret of the organization that it takes (registry_secret_ref)"
                    ),
                ),
                e => e.to_failure(),
            })?;
        self.admission.grant(grant, digest.clone());
        Ok(by_digest(reference, &digest))
    }

    /// An image that a build names, once the organization is known to have access. One that a stage
    /// begins from (`is_base`) is pulled when it is missing here, so that its triggers are known
    /// before they run. Where the host is isolated the build gets the image whose triggers were
    /// read, by its id; between organizations that do not trust each other it gets the image by its
    /// digest, so that it is what the registry granted and not a local image of the same name.
    /// `pulling` is called before a pull.
    ///
    /// # Errors
    /// Why the image may not be named or is not available, as [`Images::resolve`].
    pub(super) async fn base(
        &self,
        org: &OrgName,
        (reference, is_base): (&str, bool),
        secret: &str,
        credentials: Option<Credentials>,
        pulling: impl FnOnce(),
    ) -> Result<Base, Failure> {
        let refused = |why| Failure::new(Reason::BuildFailed, why);
        let admission = &self.admission;
        admission.check_name(org, reference).map_err(refused)?;
        admission.check_registry(reference).await.map_err(refused)?;
        let engine = |e: Error| e.to_failure();
        if !admission.needs_grant(org, reference) {
            let nothing = Base {
                pinned: None,
                triggers: Vec::new(),
            };
            if !is_base {
                return Ok(nothing);
            }
            let here = match (self.find)(reference.to_owned()).await.map_err(engine)? {
                Some(image) => image,
                None => {
                    pulling();
                    let pulled = (self.ensure_base)(reference.to_owned(), credentials).await;
                    pulled.map_err(|e| match e {
                        Error::NoSuchImage { .. } | Error::Refused { .. } => Failure::new(
                            Reason::BuildFailed,
                            format!("image {reference:?} could not be made available: {e}"),
                        ),
                        e => e.to_failure(),
                    })?
                }
            };
            return Ok(Base {
                pinned: admission.isolates_host().then_some(here.id),
                triggers: here.triggers,
            });
        }
        let pinned = self
            .granted(org, reference, secret, credentials.clone())
            .await?;
        let here = match (self.find)(pinned.clone()).await.map_err(engine)? {
            Some(image) => image,
            None => {
                pulling();
                let pulled = (self.ensure)(pinned.clone(), credentials).await;
                pulled.map_err(engine)?
            }
        };
        Ok(Base {
            pinned: Some(pinned),
            triggers: here.triggers,
        })
    }

    /// An image that was built here; `None` when it was removed.
    ///
    /// # Errors
    /// ENGINE_UNAVAILABLE, or FAILED_PRECONDITION for an image that a strict platform refuses or
    /// that the engine cannot run.
    pub async fn built(&self, built: &BuiltImage) -> Result<Option<Image>, Failure> {
        match (self.ensure)(built.image_id.clone(), None).await {
            Ok(image) => {
                self.check_rules(&built.image_ref, &image).await?;
                Ok(Some(image))
            }
            Err(Error::NoSuchImage { .. }) => Ok(None),
            Err(e) => Err(e.to_failure()),
        }
    }

    /// The image that a version was published with, pulled by its name if it is not here.
    ///
    /// # Errors
    /// As [`Images::resolve`], and IMAGE_UNAVAILABLE when the name stands for another image now.
    pub async fn pinned(&self, org: &OrgName, version: &Version) -> Result<(), Failure> {
        let id = &version.image_id;
        match (self.ensure)(id.clone(), None).await {
            Ok(_) => return Ok(()),
            Err(Error::NoSuchImage { .. }) => {}
            Err(e) => return Err(e.to_failure()),
        }
        let Some(source) = version.pull_source() else {
            return Err(Failure::new(
                Reason::ImageUnavailable,
                format!(
                    "the image {id} that version {} was built into is gone from this machine; save the version's code as a draft again (`ignite version code --to FILE`, `ignite draft save --code FILE`) and publish it to build it anew",
                    version.number
                ),
            ));
        };
        let image = self.resolve(org, &source).await?;
        if image.id == *id {
            return Ok(());
        }
        Err(Failure::new(
            Reason::ImageUnavailable,
            format!(
                "the image {id} that this version was published with is gone from this machine, and {:?} names another one now; bring it back (`docker load`), or publish again",
                source.image_ref
            ),
        ))
    }

    /// Refuses an image that the engine cannot run, and, when strict, one that the cloud platform
    /// would refuse; otherwise the latter is only logged.
    async fn check_rules(&self, name: &str, image: &Image) -> Result<(), Failure> {
        if let Some(text) = self.foreign(name, image).await?
            && !self.rules.foreign_arch
        {
            let text = format!(
                "{text}; build it for that (`docker build --platform`), or set allow_foreign_arch (IGNITE_ALLOW_FOREIGN_ARCH) where the engine emulates it"
            );
            return Err(Failure::new(Reason::FailedPrecondition, text));
        }
        if let Some(why) = user_incompatibility(&image.user) {
            let text = format!("image {name:?} {why}");
            if self.rules.strict {
                return Err(Failure::new(Reason::FailedPrecondition, text));
            }
            tracing::warn!("{text}; it runs here because --strict is off");
        }
        Ok(())
    }

    /// A sentence that the image is made for another host than the engine's; `None` if it is not.
    ///
    /// # Errors
    /// ENGINE_UNAVAILABLE.
    pub async fn foreign(&self, name: &str, image: &Image) -> Result<Option<String>, Failure> {
        let host = (self.host)().await.map_err(|e| e.to_failure())?;
        Ok((!host.runs(&image.platform)).then(|| {
            format!(
                "image {name:?} is made for {} and the engine runs {host}",
                image.platform
            )
        }))
    }
}
