//! Volumes that the engine fills with much of an image: once, whoever waits for it.
//!
//! The engine fills an empty volume while it makes the first container that has it. Should the
//! caller of that give up, the next container would find a volume with half of the files, which is
//! not empty any more. So its own task makes that container, which no caller cuts short.

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

/// What is asked of the engine, as a verb.
const CALL: &str = "fill the app's volume from its image";

/// How a volume is filled.
pub(super) struct Filling {
    pub(super) client: Client,
    pub(super) config: Config,
    /// Goes into the labels of the container.
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

    /// Makes the volume, with what the container's image has in its place, unless there is one.
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
        "Filling an app's new volume with what its image has in its home"
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
            // The engine may go on, or have left half of it; neither may be taken for the whole.
            if !has_status(&err, 404)
                && let Err(cause) = engine_volumes::remove(&client, volume).await
            {
                tracing::warn!(volume, %cause, "A volume that was not filled to the end cannot be removed; remove it by hand before the app is started");
            }
            Err(err)
        }
    }
}
