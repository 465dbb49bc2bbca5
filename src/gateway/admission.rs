//! Who may send requests to an app's URL, and how others are refused.
//!
//! A caller who may not use an app must not learn whether it exists. So a refusal depends on the
//! request and the caller, never on the app.

use std::{net::IpAddr, sync::Arc};

use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, header};

use super::{
    Gateway,
    peer::{ClientAddress, Peer},
    request,
};
use crate::{
    fleet::Deployment,
    identity::{self, Caller, lacks_scope},
    model::{AppId, Failure, Reason, Scope, host, id::PUBLIC_ORG},
};

/// An app as the client of an app URL names it.
#[derive(Debug, Clone, Copy)]
pub(super) enum RequestedApp<'a> {
    /// By the label of its host.
    Label(&'a str),
    /// By its name in a path.
    Path(&'a AppId),
    /// By a host name that it was given.
    Host(&'a AppId, &'a str),
}

/// Who sent a request: `None` without a token, an error for one that is not valid.
type Authentication = Result<Option<Arc<Caller>>, Failure>;

impl Gateway {
    /// The caller that a request's token identifies.
    ///
    /// # Errors
    /// UNAUTHENTICATED, with what is missing or wrong.
    pub fn caller(&self, headers: &HeaderMap, from: IpAddr) -> Result<Arc<Caller>, Failure> {
        let token = identity::bearer(headers)?.ok_or_else(no_token)?;
        self.verifier.verify(token, || from)
    }

    fn authenticate(&self, headers: &HeaderMap, peer: &Peer) -> Authentication {
        let token = identity::bearer(headers)?;
        let from = || self.client(peer, headers);
        token.map(|t| self.verifier.verify(t, from)).transpose()
    }

    /// The address of the client of a request.
    pub(super) fn client(&self, peer: &Peer, headers: &HeaderMap) -> IpAddr {
        ClientAddress::of(peer, headers, &self.trusted_proxies).0
    }

    /// The wait for the key of a request's token; see [`identity::Verifier::awaited_key`].
    pub fn awaited_key(&self, headers: &HeaderMap, peer: &Peer) -> Option<BoxFuture<'static, ()>> {
        let from = || self.client(peer, headers);
        self.verifier.awaited_key(headers, from)
    }

    /// Checks the token and removes it from the headers: apps never see the platform's tokens.
    pub(super) fn admit<B>(
        &self,
        deployment: &Deployment,
        request: &mut Request<B>,
        peer: &Peer,
        by_path: bool,
    ) -> Result<Option<Arc<Caller>>, Failure> {
        let open = deployment.with_revision(|r| r.allow_unauthenticated);
        match self.authenticate(request.headers(), peer) {
            Ok(Some(caller)) if open || caller.may_invoke(deployment.id()) => {
                request.headers_mut().remove(header::AUTHORIZATION);
                Ok(Some(caller))
            }
            // Any other Authorization is between the client and the app. A token that the platform
            // issued is withheld even if it is not valid here and now: it may be elsewhere, or
            // once a clock is right.
            _ if open => {
                self.verifier.withhold(request.headers_mut());
                Ok(None)
            }
            authentication => {
                let id = deployment.id();
                let requested = match request::host_of(request).filter(|_| !by_path) {
                    None => RequestedApp::Path(id),
                    Some(host) => match self.hosts.label(host) {
                        Some(label) => RequestedApp::Label(label),
                        None => RequestedApp::Host(id, host),
                    },
                };
                Err(self.refusal(requested, authentication))
            }
        }
    }

    /// The answer to a request for an app that does not exist.
    pub(super) fn not_found(
        &self,
        requested: RequestedApp<'_>,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Failure {
        self.refusal(requested, self.authenticate(headers, peer))
    }

    /// The answer to a request for an app that does not exist, or that the caller may not use.
    fn refusal(&self, requested: RequestedApp<'_>, authentication: Authentication) -> Failure {
        let caller = match authentication {
            Ok(Some(caller)) => caller,
            Ok(None) => return no_token(),
            Err(failure) => return failure,
        };
        match requested {
            RequestedApp::Path(id) | RequestedApp::Host(id, _) if caller.may_invoke(id) => {
                unpublished(id)
            }
            RequestedApp::Path(id) => may_not_invoke(&caller, id),
            RequestedApp::Host(_, host) => foreign_host(host::name(host)),
            // Which of the apps that it may invoke, if any, has this label is not looked up.
            RequestedApp::Label(_) if !caller.grants.everywhere.has(Scope::InvokeApp) => {
                lacks_scope(Scope::InvokeApp, None)
            }
            RequestedApp::Label(label) => {
                let label = label.to_ascii_lowercase();
                let host = format!("{label}.{}", self.hosts.base_domain);
                let orgs = caller.orgs.iter().map(|org| org.as_str());
                if orgs
                    .chain([PUBLIC_ORG])
                    .any(|org| host::may_be_of(&label, org))
                {
                    unknown_host(&host)
                } else {
                    foreign_host(&host)
                }
            }
        }
    }
}

/// The answer to a request without a token.
fn no_token() -> Failure {
    Failure::new(
        Reason::Unauthenticated,
        "the request has no bearer token; send `Authorization: Bearer <token>` (on this machine: `ignite token create --org <org>`)",
    )
}

/// The answer to a caller who may not invoke an app.
pub fn may_not_invoke(caller: &Caller, id: &AppId) -> Failure {
    if caller.owns(&id.org) || id.org.as_str() == PUBLIC_ORG {
        lacks_scope(Scope::InvokeApp, Some(&format!("app {id}")))
    } else {
        not_yours(id)
    }
}

/// The answer to a token of another organization.
fn not_yours(id: &AppId) -> Failure {
    Failure::new(
        Reason::PermissionDenied,
        format!(
            "the token's organization may not use app {id}; use a token of organization {}",
            id.org
        ),
    )
}

/// The answer for an app that has no URL yet, or does not exist.
pub fn unpublished(id: &AppId) -> Failure {
    Failure::new(
        Reason::NotFound,
        format!(
            "app {id} does not exist or has no published version; publish one with `ignite app deploy`"
        ),
    )
}

/// The answer for a host that an app of the caller's organization could have.
fn unknown_host(host: &str) -> Failure {
    Failure::new(
        Reason::NotFound,
        format!(
            "no published app of the token's organization has the host {host}; `ignite app list` shows the URLs of apps"
        ),
    )
}

/// The answer for a host that only an app of another organization could have.
fn foreign_host(host: &str) -> Failure {
    Failure::new(
        Reason::PermissionDenied,
        format!(
            "the host {host} is none of the token's organization; use a token of the organization whose app it would be"
        ),
    )
}
