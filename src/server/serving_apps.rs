//! Serves apps in containers on the sockets that are bound for them (`app_calls.rs`).

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    app_calls::{AppCalls, Bound},
    base::Base,
    encryption,
    endpoints::tokens,
    parts::{app_calls_limits, own_hosts},
    platform::Platform,
    relaying::Served,
};
use crate::{
    config::{Config, Proxies},
    engine::Error,
    gateway::{
        FromApps, Front, Gateway, Grants,
        limits::Limits,
        listener::{self, Stop, Streams},
        workers::Workers,
    },
    resolver::{self, RESOLV_CONF, Resolver},
    tls::{Protocol, Tls},
};

/// What serves apps.
pub(super) struct Serving {
    service: FromApps,
    resolver: Resolver,
    workers: Arc<Workers>,
    limits: Limits,
    /// TLS, if there is any.
    tls: Option<(Tls, Arc<Config>)>,
    gateway: Arc<Gateway>,
}

impl Serving {
    pub(super) fn new(
        base: &Base,
        platform: &Platform,
        front: Front,
        workers: Arc<Workers>,
        tls: Option<Tls>,
    ) -> Self {
        let config = &base.config;
        let engine = base.engine.clone();
        let grants: Grants = Arc::new(move |address| {
            let engine = engine.clone();
            Box::pin(async move {
                let found = engine.app_at(address).await;
                found.map_err(|error: Error| error.to_failure())
            })
        });
        Self {
            service: FromApps::new(front, tokens(base), grants),
            resolver: resolver(base, &platform.gateway),
            workers,
            limits: app_calls_limits(config, &base.shares, Proxies::none()),
            tls: tls.map(|tls| (tls, Arc::new(config.clone()))),
            gateway: platform.gateway.clone(),
        }
    }

    /// Serves what is bound, and what a relay carries, until `stop`. A network at another address
    /// ends what the one before had.
    pub(super) async fn serve(self, calls: Arc<AppCalls>, stop: Stop) {
        let Some(mut to_serve) = calls.bound() else {
            return;
        };
        let tasks = TaskTracker::new();
        calls.serve_relayed(self.relayed(&tasks, &stop).await);
        let mut latest = CancellationToken::new();
        while let Some(Some(bound)) = stop.drain.run_until_cancelled(to_serve.recv()).await {
            latest.cancel();
            latest = stop.drain.child_token();
            self.start(bound, &tasks, &latest, &stop.force);
        }
        latest.cancel();
        tasks.close();
        tasks.wait().await;
        calls.end_relay().await;
    }

    /// What serves the calls that a relay carries.
    async fn relayed(&self, tasks: &TaskTracker, stop: &Stop) -> Served {
        let (service, limits) = (self.service.clone(), self.limits.clone());
        Served {
            streams: Streams::new(service, limits, stop.clone()).await,
            resolver: self.resolver.clone(),
            tasks: tasks.clone(),
        }
    }

    fn start(
        &self,
        bound: Bound,
        tasks: &TaskTracker,
        drain: &CancellationToken,
        force: &CancellationToken,
    ) {
        let stop = Stop {
            drain: drain.clone(),
            force: force.clone(),
        };
        let names = resolver::serve(bound.names, self.resolver.clone(), drain.clone());
        tasks.spawn(names);
        for socket in bound.http {
            tasks.spawn(listener::run(
                socket,
                self.workers.clone(),
                self.service.clone(),
                self.limits.clone(),
                stop.clone(),
            ));
        }
        let Some((tls, config)) = &self.tls else {
            return;
        };
        for socket in bound.https {
            let secure = encryption::listener(config, tls, &self.gateway, Protocol::Web);
            tasks.spawn(listener::run_secure(
                socket,
                self.workers.clone(),
                self.service.clone(),
                self.limits.clone(),
                stop.clone(),
                secure,
            ));
        }
    }
}

/// The name server.
pub(super) fn resolver(base: &Base, gateway: &Gateway) -> Resolver {
    let calls = &base.config.app_calls;
    let (routes, hosts) = (gateway.routes.clone(), own_hosts(&base.config));
    let engine = base.engine.clone();
    Resolver::new(resolver::Config {
        is_apps: Arc::new(move |name| hosts.has_app_below(name) || routes.app_of(name).is_some()),
        may_ask: Arc::new(move |client, server| engine.may_ask(client, server)),
        servers: calls.dns_servers.clone(),
        resolv_conf: RESOLV_CONF.into(),
        queries: calls.dns_queries,
        connections: calls.dns_connections,
        timeout: calls.dns_timeout,
    })
}
