//! Volumes that the engine fills with much of an image: once, whoever waits for it.
//!
//! The engine fills an empty volume while it makes the first container that has it. Should the
//! caller of that give up, the next container would find a volume with half of the files, which is
//! not empty any more. So that container is made by a task of its own, which nobody cuts short.

use std::time::Duration;

use bollard::{models::ContainerCreateBody, query_parameters::CreateContainerOptions};

use super::{
    super::{
        client::{has_status, remove_container},
        single_flight::SingleFlight,
        volumes,
    },
    Client, ContainerId, Error,
};

/// What is asked of the engine, as a verb.
const CALL: &str = "fill the app's volume from its image";

/// The volumes that are being filled, by name.
#[derive(Debug)]
pub(super) struct Fills(SingleFlight<String>);

impl Fills {
    pub(super) fn new() -> Self {
        Self(SingleFlight::new(CALL))
    }

    /// Makes the volume, with what the image of `body` has in its place, unless there is one.
    pub(super) async fn ensure(
        &self,
        client: &Client,
        volume: String,
        body: ContainerCreateBody,
        limit: Duration,
    ) -> Result<(), Error> {
        let (client, name) = (client.clone(), volume.clone());
        let work = || async move { fill(&client, &name, body, limit).await };
        self.0.run(volume, work).await
    }
}

async fn fill(
    client: &Client,
    volume: &str,
    body: ContainerCreateBody,
    limit: Duration,
) -> Result<(), Error> {
    if volumes::made_at(client, volume).await?.is_some() {
        return Ok(());
    }
    tracing::info!(
        volume,
        "Filling an app's new volume with what its image has in its home"
    );
    let made = client
        .run_within(CALL, limit, |docker| async move {
            let options = None::<CreateContainerOptions>;
            docker.create_container(options, body).await
        })
        .await;
    match made {
        Ok(made) => {
            let helper = ContainerId(made.id);
            if let Err(cause) = remove_container(client, &helper).await {
                tracing::warn!(container = %helper, %cause, "A container that filled a volume stays until the next start");
            }
            Ok(())
        }
        Err(err) => {
            // The engine may go on, or have left half of it; neither may be taken for the whole.
            if !has_status(&err, 404)
                && let Err(cause) = volumes::remove(client, volume).await
            {
                tracing::warn!(volume, %cause, "A volume that was not filled to the end cannot be removed; remove it by hand before the app is started");
            }
            Err(err)
        }
    }
}
