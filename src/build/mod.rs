//! From code to an image on this machine. So far: images that exist already.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::{
    engine::{Engine, Error, Image},
    model::{Failure, ImageSource, Reason},
};

type Ensure = dyn Fn(String) -> BoxFuture<'static, Result<Image, Error>> + Send + Sync;

/// Makes images available; the engine's type ends here.
#[derive(Clone)]
pub struct Images {
    ensure: Arc<Ensure>,
    strict: bool,
}

impl Images {
    /// Images of an engine. `strict` refuses those that the platform would refuse.
    pub fn new<E: Engine>(engine: Arc<E>, strict: bool) -> Self {
        let ensure = move |reference: String| -> BoxFuture<'static, Result<Image, Error>> {
            let engine = engine.clone();
            Box::pin(async move { engine.ensure_image(&reference, None).await })
        };
        Self {
            ensure: Arc::new(ensure),
            strict,
        }
    }

    /// The image of a source, pulled if it is not here.
    ///
    /// # Errors
    /// IMAGE_UNAVAILABLE, ENGINE_UNAVAILABLE, or FAILED_PRECONDITION for an image that a strict
    /// platform refuses.
    pub async fn resolve(&self, source: &ImageSource) -> Result<Image, Failure> {
        if !source.registry_secret_ref.is_empty() {
            return Err(Failure::new(
                Reason::Unimplemented,
                "registry_secret_ref is not supported yet; make the image available on this machine (`docker pull`) and leave the field empty",
            ));
        }
        let image = (self.ensure)(source.image_ref.clone())
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
        self.judge(source, &image)?;
        Ok(image)
    }

    /// The image that a version was published with, pulled by its name if it is not here.
    ///
    /// # Errors
    /// As [`Images::resolve`], and IMAGE_UNAVAILABLE when the name stands for another image now.
    pub async fn pinned(&self, source: &ImageSource, id: &str) -> Result<(), Failure> {
        match (self.ensure)(id.to_owned()).await {
            Ok(_) => return Ok(()),
            Err(Error::NoSuchImage { .. }) => {}
            Err(e) => return Err(e.to_failure()),
        }
        let image = self.resolve(source).await?;
        if image.id == id {
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

    /// Says what the platform would refuse about an image; a strict one does.
    fn judge(&self, source: &ImageSource, image: &Image) -> Result<(), Failure> {
        if let Err(objection) = check_user(&image.user) {
            let text = format!("image {:?} {objection}", source.image_ref);
            if self.strict {
                return Err(Failure::new(Reason::FailedPrecondition, text));
            }
            tracing::warn!("{text}; it runs here because --strict is off");
        }
        Ok(())
    }
}

/// The platform takes images with a numeric user that is not root.
fn check_user(user: &str) -> Result<(), String> {
    let name = user.split(':').next().unwrap_or_default();
    match name.parse::<u32>() {
        Ok(0) => Err("runs as root (USER 0), which the platform refuses; set a numeric USER such as 65532".to_owned()),
        Ok(_) => Ok(()),
        Err(_) if name.is_empty() => Err("names no USER and so runs as root, which the platform refuses; set a numeric USER such as 65532".to_owned()),
        Err(_) => Err(format!("has the USER {name:?}; the platform takes numeric ones only, such as 65532")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numeric_users_other_than_root_pass() {
        assert!(check_user("65532").is_ok());
        assert!(check_user("1000:1000").is_ok());
        for bad in ["", "0", "0:0", "root", "nobody:nogroup"] {
            assert!(check_user(bad).is_err(), "{bad}");
        }
    }
}
