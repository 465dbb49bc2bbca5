//! What an invocation waits for, while a replica starts.

use std::{convert::Infallible, time::Duration};

use tokio::time::sleep;

use crate::{
    api::proto::v1,
    cli::{context::Session, failure::note, text},
};

/// An invocation that takes longer is explained; most end before.
const QUIET: Duration = Duration::from_secs(3);
/// Time between two looks at the app's state.
const INTERVAL: Duration = Duration::from_secs(2);

/// Notes on stderr why the app is not ready, and each other reason after that. Callers who may not
/// see the app's state wait without it.
pub(super) async fn explain(session: &Session, org: &str, name: &str) -> Infallible {
    let mut said = String::new();
    sleep(QUIET).await;
    loop {
        let request = v1::GetAppStateRequest {
            organization_name: org.to_owned(),
            app_name: name.to_owned(),
        };
        let state = session.client().get_app_state(request).await;
        let why = state.map(|state| state.into_inner().not_ready);
        if let Ok(why) = why
            && !why.is_empty()
            && why != said
        {
            note(&format!("waiting for a replica: {}", text::quoted(&why)));
            said = why;
        }
        sleep(INTERVAL).await;
    }
}
