//! Host names that apps are given. They belong to the app, not to a version: a rollback leaves them.

use std::sync::Arc;

use super::{Apps, Shared};
use crate::{
    clock::now_ms,
    model::{App, AppId, Failure, Reason, host_name::HostName},
};

impl Apps {
    /// Gives an app a host name, unless it has it.
    ///
    /// # Errors
    /// NOT_FOUND; ALREADY_EXISTS when another app has the name; STORE_QUOTA.
    pub async fn add_host(&self, id: AppId, host: HostName) -> Result<(), Failure> {
        let most = self.shared.most.hosts_per_app;
        self.change_hosts(id, move |app| {
            let Err(at) = app.hosts.binary_search(&host) else {
                return Ok(());
            };
            if app.hosts.len() >= most {
                return Err(Failure::new(
                    Reason::StoreQuota,
                    format!(
                        "app {} has {most} host names, as many as it may have (IGNITE_HOSTS_MAX_PER_APP); remove some (`ignite app host remove`), or ask the operator for more",
                        app.id
                    ),
                ));
            }
            app.hosts.insert(at, host);
            Ok(())
        })
        .await
    }

    /// Takes a host name from an app.
    ///
    /// # Errors
    /// NOT_FOUND for the app, or when it has no such name.
    pub async fn remove_host(&self, id: AppId, host: HostName) -> Result<(), Failure> {
        self.change_hosts(id, move |app| {
            let at = app.hosts.binary_search(&host).map_err(|_| {
                Failure::new(
                    Reason::NotFound,
                    format!(
                        "app {} has no host name {host}; `ignite app host list` shows those that it has",
                        app.id
                    ),
                )
            })?;
            app.hosts.remove(at);
            Ok(())
        })
        .await
    }

    async fn change_hosts(
        &self,
        id: AppId,
        change: impl FnOnce(&mut App) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        self.run_detached(move |s: Arc<Shared>| async move {
            // Replicas do not change, so a roll-out under way continues.
            let _committing = s.commit_locks.acquire(&id).await;
            let of = id.clone();
            let edit = move |app: &mut App| {
                change(app)?;
                app.updated_at_ms = now_ms();
                Ok(())
            };
            s.store
                .commit_within(move |c| Ok((vec![c.update(&of, edit)?], ())))
                .await?;
            s.routes.set_hosts(&id, &s.get(&id)?.hosts);
            Ok(())
        })
        .await
    }
}
