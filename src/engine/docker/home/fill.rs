//! Volumes that the engine fills with a large part of an image: once, however many callers wait.
//!
//! The engine fills an empty volume while it makes the first container that has it. If the caller
//! of that gave up, the next container would find a volume with half of the files, which is no
//! longer empty. So a task makes that container, which no caller cuts short.

use bollard::models::ContainerCreateBody;

use super::{
    super::{
        client::{has_status, remove_container},
        engine_volumes,
        sealed::create_helper,
        single_flight::SingleFlight,
    },
    Client, Config, Error,
};

/// What the engine is asked to do, as a verb.
const CALL: &str = "fill the app's volume from its image";

/// How a volume is filled.
pub(super) struct Filling {
    pub(super) client: Client,
    pub(super) config: Config,
    /// Labels the container.
    pub(super) run_id: String,
    /// The container that has the volume.
    pub(super) body: ContainerCreateBody,
}

/// The volumes that are being filled, by name.
#[derive(Debug)]
pub(super) struct Fills(SingleFlight<String>);

impl Fills {
    pub(super) fn new() -> Self {
        Self(SingleFlight::new(CALL))
    }

    /// Makes the volume, filled with what the container's image has at that path, unless it exists.
    pub(super) async fn ensure(&self, volume: String, filling: Filling) -> Result<(), Error> {
        let name = volume.clone();
        let work = || async move { fill(&name, filling).await };
        self.0.run(volume, work).await
    }
}

async fn fill(volume: &str, filling: Filling) -> Result<(), Error> {
    let Filling {
        client,
        config,
        run_id,
        body,
    } = filling;
    if engine_volumes::made_at(&client, volume).await?.is_some() {
        return Ok(());
    }
    tracing::info!(
        volume,
        "Filling an app's new volume from the home in its image"
    );
    let call = (CALL, config.pull_timeout);
    match create_helper(&client, &config, &run_id, call, body).await {
        Ok(helper) => {
            if let Err(cause) = remove_container(&client, &helper).await {
                tracing::warn!(container = %helper, %cause, "A container that filled a volume stays until the next start");
            }
            Ok(())
        }
        Err(err) => {
            // The engine may continue, or have left half of it; neither may count as complete.
            if !has_status(&err, 404)
                && let Err(cause) = engine_volumes::remove(&client, volume).await
            {
                tracing::warn!(volume, %cause, "A partly filled volume cannot be removed; remove it by hand before the app is started");
            }
            Err(err)
        }
    }
}
