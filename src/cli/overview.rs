//! What the API says of all apps of an organization at a moment; for `ignite status` and `ignite
//! top`.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{Error, context::Session, pages};
use crate::{
    api::proto::v1::{self, DeploymentState},
    model::{AppId, AppName, OrgName},
};

/// How many apps are asked after at once.
const AT_ONCE: usize = 16;

/// An app, its state, and its replicas.
pub(super) struct Seen {
    pub(super) app: v1::AppMeta,
    pub(super) state: v1::GetAppStateResponse,
    pub(super) replicas: Vec<v1::Replica>,
}

/// All apps of an organization.
///
/// # Errors
/// The server's.
pub(super) async fn apps(session: &Session, org: &OrgName) -> Result<Vec<v1::AppMeta>, Error> {
    Ok(list(session, org, None).await?.apps)
}

/// The apps of an organization, at most `limit`, and the cursor of those after them.
///
/// # Errors
/// The server's.
pub(super) async fn list(
    session: &Session,
    org: &OrgName,
    limit: Option<u32>,
) -> Result<v1::ListAppsResponse, Error> {
    let mut all = v1::ListAppsResponse::default();
    while let Some(limit) = pages::next_limit(limit, all.apps.len()) {
        let request = v1::ListAppsRequest {
            organization_name: org.to_string(),
            limit,
            cursor: std::mem::take(&mut all.next_cursor),
        };
        let page = session.answer(session.client().list_apps(request)).await?;
        all.apps.extend(page.apps);
        all.next_cursor = page.next_cursor;
        if all.next_cursor.is_empty() {
            break;
        }
    }
    Ok(all)
}

/// The state and the replicas of each app; one that is deleted meanwhile is left out.
///
/// # Errors
/// The server's.
pub(super) async fn look_at(session: &Session, apps: Vec<v1::AppMeta>) -> Result<Vec<Seen>, Error> {
    let seen: Vec<Option<Seen>> = stream::iter(apps.into_iter().map(|app| one(session, app)))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(seen.into_iter().flatten().collect())
}

async fn one(session: &Session, app: v1::AppMeta) -> Result<Option<Seen>, Error> {
    let Some((org, name)) = app.id.split_once('/') else {
        return Ok(None);
    };
    let (organization_name, app_name) = (org.to_owned(), name.to_owned());
    let request = v1::GetAppStateRequest {
        organization_name: organization_name.clone(),
        app_name: app_name.clone(),
    };
    let mut client = session.client();
    let state = match session.answer(client.get_app_state(request)).await {
        Err(error) if error.code() == Some(tonic::Code::NotFound) => return Ok(None),
        state => state?,
    };
    // Without a version it has none.
    let replicas = if state.active_version == 0 {
        Vec::new()
    } else {
        let request = v1::ListAppReplicasRequest {
            organization_name,
            app_name,
        };
        match session.answer(client.list_app_replicas(request)).await {
            Err(error) if error.code() == Some(tonic::Code::NotFound) => return Ok(None),
            listed => listed?.replicas,
        }
    };
    Ok(Some(Seen {
        app,
        state,
        replicas,
    }))
}

/// The id of an app as the API writes it, for calls.
pub(super) fn id_of(app: &v1::AppMeta) -> Option<AppId> {
    let (org, name) = app.id.split_once('/')?;
    let (org, name): (OrgName, AppName) = (org.parse().ok()?, name.parse().ok()?);
    Some(AppId { org, name })
}

/// How many apps there are in each state that some are in, in the order of the contract.
pub(super) fn by_state(apps: &[v1::AppMeta]) -> Vec<(DeploymentState, usize)> {
    let states = (1..).map_while(|state| DeploymentState::try_from(state).ok());
    states
        .map(|state| {
            let count = apps.iter().filter(|app| app.deployment_state() == state);
            (state, count.count())
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}
