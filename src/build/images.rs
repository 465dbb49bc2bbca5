//! Images that exist: found on this machine or pulled, and judged.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::{
    engine::{Credentials, Engine, Error, Image, Keychain},
    model::{
        Failure, ImageSource, OrgName, Platform, Reason, Version, code::BuiltImage,
        files::objection_to_user,
    },
};

type Ensured = BoxFuture<'static, Result<Image, Error>>;
type Ensure = dyn Fn(String, Option<Credentials>) -> Ensured + Send + Sync;
type Ask = dyn Fn() -> BoxFuture<'static, Result<Platform, Error>> + Send + Sync;

/// Makes images available; the engine's type ends here.
#[derive(Clone)]
pub struct Images {
    ensure: Arc<Ensure>,
    /// What the engine's host runs.
    host: Arc<Ask>,
    keychain: Keychain,
    rules: Rules,
}

/// Which images are refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// Those that the platform would refuse.
    pub strict: bool,
    /// Those for another processor or system than the engine's host are not: it emulates them.
    pub foreign_arch: bool,
}

impl Images {
    /// Images of an engine, pulled with what the keychain has.
    pub fn new<E: Engine>(engine: Arc<E>, keychain: Keychain, rules: Rules) -> Self {
        let asked = engine.clone();
        let host = move || -> BoxFuture<'static, Result<Platform, Error>> {
            let engine = asked.clone();
            Box::pin(async move { Ok(engine.info().await?.platform) })
        };
        let ensure = move |reference: String, credentials: Option<Credentials>| -> Ensured {
            let engine = engine.clone();
            Box::pin(async move { engine.ensure_image(&reference, credentials.as_ref()).await })
        };
        Self {
            ensure: Arc::new(ensure),
            host: Arc::new(host),
            keychain,
            rules,
        }
    }

    /// The image of an organization's source, pulled if it is not here. A secret that the source
    /// names must be usable even then, since a later pull will need it.
    ///
    /// # Errors
    /// IMAGE_UNAVAILABLE, ENGINE_UNAVAILABLE, or FAILED_PRECONDITION for an image that a strict
    /// platform refuses or that the engine cannot run, or a secret that cannot be used.
    pub async fn resolve(&self, org: &OrgName, source: &ImageSource) -> Result<Image, Failure> {
        let credentials = self.keychain.of(org, source).await?;
        let image = (self.ensure)(source.image_ref.clone(), credentials)
            .await
            .map_err(|e| match e {
                // Not a start that failed: the image could not be had for a reason of the engine's.
                Error::Refused { .. } | Error::TimedOut { .. } => Failure::new(
                    Reason::ImageUnavailable,
                    format!(
                        "image {:?} could not be made available: {e}",
                        source.image_ref
                    ),
                ),
                e => e.to_failure(),
            })?;
        self.judge(&source.image_ref, &image).await?;
        Ok(image)
    }

    /// An image that was built here; `None` when somebody removed it.
    ///
    /// # Errors
    /// ENGINE_UNAVAILABLE, or FAILED_PRECONDITION for an image that a strict platform refuses or
    /// that the engine cannot run.
    pub async fn built(&self, built: &BuiltImage) -> Result<Option<Image>, Failure> {
        match (self.ensure)(built.image_id.clone(), None).await {
            Ok(image) => {
                self.judge(&built.image_ref, &image).await?;
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

    /// Says what the platform would refuse about an image, a strict one does; and whether the
    /// engine can run it.
    async fn judge(&self, name: &str, image: &Image) -> Result<(), Failure> {
        if let Some(text) = self.foreign(name, image).await?
            && !self.rules.foreign_arch
        {
            let text = format!(
                "{text}; build it for that (`docker build --platform`), or set allow_foreign_arch (IGNITE_ALLOW_FOREIGN_ARCH) where the engine emulates it"
            );
            return Err(Failure::new(Reason::FailedPrecondition, text));
        }
        if let Some(objection) = objection_to_user(&image.user) {
            let text = format!("image {name:?} {objection}");
            if self.rules.strict {
                return Err(Failure::new(Reason::FailedPrecondition, text));
            }
            tracing::warn!("{text}; it runs here because --strict is off");
        }
        Ok(())
    }

    /// That an image is made for another host than the engine's, in words; `None` if it is not.
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
