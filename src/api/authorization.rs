//! Which token each method needs, and the audit of methods that change something.
//!
//! A layer around the services, inside what JSON and gRPC share. It knows a call's method and caller,
//! and not what the call is about: it refuses callers whose token opens the method for nothing at all,
//! and leaves the scope in the extensions for the service, which checks it once it knows the app.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, OnceLock},
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Response},
    middleware::{Next, from_fn_with_state},
};
use tonic::service::Routes;

use super::status::{ERROR_HEADER, to_status};
use crate::{
    audit::{Audit, DONE, Entry, Kind},
    gateway::{Gateway, peer::ClientAddress},
    identity::{Caller, lacks_scope},
    model::{AppId, Failure, OrgName, Reason, Scope},
};

/// What a method needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// No token.
    Nothing,
    /// A token with a scope.
    Scope(Scope),
}

/// A row of the table of methods.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The method as `Service/Method`, without the package.
    pub method: &'static str,
    /// What it needs.
    pub need: Need,
    /// Whether calls of it are in the audit log.
    pub is_audited: bool,
}

const fn reads(method: &'static str, need: Need) -> Rule {
    Rule {
        method,
        need,
        is_audited: false,
    }
}

const fn changes(method: &'static str, scope: Scope) -> Rule {
    Rule {
        method,
        need: Need::Scope(scope),
        is_audited: true,
    }
}

use Need::{Nothing, Scope as Of};
use Scope::{
    CancelBuild, CreateSecret, DeleteSecret, DeployApp, GetApp, GetBuild, GetExecution, GetSecret,
    InvokeApp, ListAppVersions, ListApps, ListSecrets, RollbackApp,
};

/// What every method of the contract needs. One that is not here is refused.
pub const RULES: &[Rule] = &[
    changes("BuildService/CancelBuild", CancelBuild),
    changes("ComputeService/CompileDraft", DeployApp),
    changes("ComputeService/CreateApp", DeployApp),
    changes("ComputeService/DeleteApp", DeployApp),
    reads("ComputeService/GetApp", Of(GetApp)),
    reads("ComputeService/GetAppCode", Of(GetApp)),
    reads("ComputeService/GetAppEvents", Of(GetApp)),
    reads("ComputeService/GetAppLogs", Of(GetApp)),
    reads("ComputeService/GetAppState", Of(GetApp)),
    reads("ComputeService/GetAppVersion", Of(ListAppVersions)),
    reads("ComputeService/GetBuildLog", Of(GetBuild)),
    reads("ComputeService/GetDraftInfo", Of(GetApp)),
    reads("ComputeService/GetExecution", Of(GetExecution)),
    reads("ComputeService/GetExecutionStats", Of(GetExecution)),
    reads("ComputeService/GetMcpToolDefinition", Of(GetApp)),
    reads("ComputeService/GetPublicCatalogDetail", Nothing),
    reads("ComputeService/HealthCheck", Nothing),
    reads("ComputeService/Invoke", Of(InvokeApp)),
    reads("ComputeService/InvokeAsync", Of(InvokeApp)),
    reads("ComputeService/ListAppReplicas", Of(GetApp)),
    reads("ComputeService/ListAppVersions", Of(ListAppVersions)),
    reads("ComputeService/ListApps", Of(ListApps)),
    reads("ComputeService/ListCatalog", Of(ListApps)),
    reads("ComputeService/ListMcpTools", Of(ListApps)),
    reads("ComputeService/ListPublicCatalog", Nothing),
    changes("ComputeService/PublishDraft", DeployApp),
    changes("ComputeService/RollbackApp", RollbackApp),
    changes("ComputeService/SaveDraft", DeployApp),
    reads("ComputeService/StreamAppEvents", Of(GetApp)),
    reads("ComputeService/StreamAppLogs", Of(GetApp)),
    reads("ComputeService/StreamCompileLogs", Of(GetBuild)),
    changes("ComputeService/TestAppVersion", DeployApp),
    changes("ComputeService/TestDraft", DeployApp),
    changes("ComputeService/UpdateAppConfig", DeployApp),
    reads("ComputeService/WatchExecution", Of(GetExecution)),
    changes("DevService/DropVersion", DeployApp),
    reads("DevService/GetDevSupport", Of(GetApp)),
    changes("DevService/StopDev", DeployApp),
    changes("DevService/SyncDraft", DeployApp),
    changes("ExecutionService/CancelExecution", InvokeApp),
    reads("ExecutionService/ListExecutions", Of(GetExecution)),
    changes("HostService/AddHost", DeployApp),
    reads("HostService/ListHosts", Of(GetApp)),
    changes("HostService/RemoveHost", DeployApp),
    changes("ScalingService/FreezeAutoscaler", DeployApp),
    changes("ScalingService/IdleApp", DeployApp),
    changes("ScalingService/ScaleApp", DeployApp),
    changes("ScalingService/SetStandby", DeployApp),
    changes("ScalingService/UnfreezeAutoscaler", DeployApp),
    reads("ScalingService/WaitApp", Of(GetApp)),
    changes("SecretService/CreateSecret", CreateSecret),
    changes("SecretService/DeleteSecret", DeleteSecret),
    // It shows the value.
    changes("SecretService/GetSecret", GetSecret),
    reads("SecretService/ListSecrets", Of(ListSecrets)),
    changes("VersionService/PruneVersions", DeployApp),
];

/// The packages whose methods are in the table; reflection and gRPC's health are not.
const PACKAGES: [&str; 2] = ["/dodil.ignite.v1.", "/dodil.ignite.local.v1."];

/// The rule of a call's path, such as `/dodil.ignite.v1.ComputeService/GetApp`; `None` for a path of
/// no method of the contract.
fn rule(path: &str) -> Option<&'static Rule> {
    static BY_METHOD: LazyLock<HashMap<&str, &Rule>> =
        LazyLock::new(|| RULES.iter().map(|rule| (rule.method, rule)).collect());
    let method = PACKAGES.iter().find_map(|p| path.strip_prefix(p))?;
    BY_METHOD.get(method).copied()
}

/// What a call of this path needs; `None` for a path of no method of the contract.
pub(super) fn need(path: &str) -> Option<Need> {
    rule(path).map(|rule| rule.need)
}

/// What the services find in the extensions of a call that was let in.
#[derive(Clone)]
pub(super) struct Admitted {
    caller: Arc<Caller>,
    scope: Scope,
    /// What the call is about, once the service knows it: the organization, and the thing in it.
    subject: Arc<OnceLock<(OrgName, String)>>,
}

impl Admitted {
    /// Who calls.
    pub(super) fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// Checks the method's scope for the whole of an organization.
    ///
    /// # Errors
    /// PERMISSION_DENIED, with the scope.
    pub(super) fn check_org(&self, org: &OrgName) -> Result<(), Failure> {
        if self.caller.grants.everywhere.has(self.scope) {
            return Ok(());
        }
        let what = format!("organization {org}");
        Err(lacks_scope(self.scope, Some(&what)))
    }

    /// Checks the method's scope for an app.
    ///
    /// # Errors
    /// PERMISSION_DENIED, with the scope.
    pub(super) fn check_app(&self, app: &AppId) -> Result<(), Failure> {
        self.is_about(&app.org, app.to_string());
        if self.caller.grants.allow(self.scope, app) {
            return Ok(());
        }
        Err(lacks_scope(self.scope, Some(&format!("app {app}"))))
    }

    /// Says what the call is about, for the audit log. The first word counts.
    pub(super) fn is_about(&self, org: &OrgName, thing: String) {
        let _ = self.subject.set((org.clone(), thing));
    }
}

struct Guard {
    gateway: Arc<Gateway>,
    audit: Audit,
}

/// The services behind the layer.
pub fn guard(services: Routes, gateway: Arc<Gateway>, audit: Audit) -> Routes {
    let guard = Arc::new(Guard { gateway, audit });
    let router = services.into_axum_router();
    Routes::from(router.layer(from_fn_with_state(guard, admit)))
}

async fn admit(State(guard): State<Arc<Guard>>, mut call: Request, next: Next) -> Response<Body> {
    let Some(rule) = rule(call.uri().path()) else {
        return next.run(call).await;
    };
    let scope = match rule.need {
        Need::Nothing => return next.run(call).await,
        Need::Scope(scope) => scope,
    };
    let from = call.extensions().get::<ClientAddress>().map(|c| c.0);
    // The transport has checked the token of a call with a body.
    let known = call.extensions().get::<Arc<Caller>>().cloned();
    let caller = match known {
        Some(known) => Ok(known),
        None => {
            let unknown = std::net::Ipv4Addr::UNSPECIFIED.into();
            guard
                .gateway
                .caller(call.headers(), from.unwrap_or(unknown))
        }
    };
    let caller = match caller {
        Ok(caller) => caller,
        Err(failure) => return refusal(&failure),
    };
    let admitted = Admitted {
        caller: caller.clone(),
        scope,
        subject: Arc::default(),
    };
    let subject = admitted.subject.clone();
    let answer = if caller.grants.allow_somewhere(scope) {
        call.extensions_mut().insert(admitted);
        next.run(call).await
    } else {
        refusal(&lacks_scope(scope, None))
    };
    if rule.is_audited {
        let (_, method) = rule.method.split_once('/').unwrap_or_default();
        let entry = Entry::new(
            Kind::Api,
            method,
            &result(answer.headers()),
            &caller.subject,
        )
        .token(caller.token_id.as_deref())
        .from(from);
        let entry = match subject.get() {
            Some((org, thing)) => entry.org(Some(org.as_str())).target(Some(thing)),
            None => entry.org(caller.orgs.first().map(OrgName::as_str)),
        };
        guard.audit.record(entry);
    }
    answer
}

fn refusal(failure: &Failure) -> Response<Body> {
    to_status(failure, false)
        .into_http::<tonic::body::Body>()
        .map(Body::new)
}

/// How a call went, as its head says: what a method fails with stands there.
fn result(headers: &HeaderMap) -> String {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    match (text(ERROR_HEADER), text("grpc-status")) {
        (Some(reason), _) => reason.to_owned(),
        (None, None | Some("0")) => DONE.to_owned(),
        (None, Some(code)) => format!("gRPC code {code}"),
    }
}

/// The failure of a service that is reached past the layer.
pub(super) fn unguarded() -> Failure {
    Failure::new(
        Reason::Internal,
        "the call was not checked for what its token opens; this is a bug in ignite",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::proto;

    #[test]
    fn every_method_of_the_contract_has_one_rule() {
        let mut known: Vec<String> = proto::method_names().collect();
        known.sort_by_key(|path| path.rsplit('.').next().map(str::to_owned));
        let methods = known.iter().map(|path| {
            assert!(rule(path).is_some(), "{path} has no rule");
            path.rsplit('.').next().expect("a name")
        });
        let methods: Vec<_> = methods.collect();
        let rules: Vec<_> = RULES.iter().map(|rule| rule.method).collect();
        assert_eq!(rules, methods);
        assert!(rule("/grpc.health.v1.Health/Check").is_none());
    }
}
