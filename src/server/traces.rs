//! The collector of traces, from the configuration.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::data_dir::DataDir;
use crate::{
    config::Config,
    metrics::Metrics,
    trace::{Settings, Tracer},
    vitals::Vitals,
};

/// Longest time for the last spans at a stop.
const LAST: Duration = Duration::from_secs(5);

/// Sends spans while the server runs.
pub(super) struct Traces {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Traces {
    /// A tracer, and what sends its spans; one that is off without a collector.
    ///
    /// # Errors
    /// When the collector's address cannot be used.
    pub(super) fn start(
        config: &Config,
        data: &DataDir,
        metrics: &Arc<Metrics>,
        vitals: &Vitals,
    ) -> Result<(Tracer, Option<Self>)> {
        let Some(endpoint) = &config.otlp.endpoint else {
            return Ok((Tracer::default(), None));
        };
        let settings = Settings {
            endpoint: endpoint.clone(),
            protocol: config.otlp.protocol,
            headers: config.otlp.headers.clone().unwrap_or_default(),
            ratio: config.otlp.ratio,
            instance: data.instance().to_string(),
        };
        let (tracer, exporting) = Tracer::start(&settings, metrics)?;
        let stop = CancellationToken::new();
        let run = vitals.watch("the exporter of traces", exporting.run(stop.clone()));
        let task = AbortOnDropHandle::new(tokio::spawn(run));
        Ok((tracer, Some(Self { stop, task })))
    }

    /// Sends the last spans, within a bound.
    pub(super) async fn finish(self) {
        self.stop.cancel();
        if tokio::time::timeout(LAST, self.task).await.is_err() {
            tracing::warn!("The last traces were not taken in time");
        }
    }
}
