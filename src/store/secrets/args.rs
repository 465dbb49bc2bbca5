//! Build arguments at rest: sealed like secrets, since people put passwords into them.

use std::{collections::BTreeMap, sync::Arc};

use super::{Secrets, key::Key};
use crate::model::{
    App, BuildArgs, CodeSource, Failure, OrgName, Reason, build_args::SealedArgs, catalog::Catalog,
};

/// The context that values are bound to, before the organization.
const SLOT: &str = "build arguments\0";

impl Secrets {
    /// Seals an organization's build arguments; creates the key if there is none.
    ///
    /// # Errors
    /// FAILED_PRECONDITION when the key cannot be used.
    pub async fn seal_args(&self, org: OrgName, args: BuildArgs) -> Result<BuildArgs, Failure> {
        let values = match args {
            BuildArgs::Clear(values) if !values.is_empty() => values,
            others => return Ok(others),
        };
        let key = self.key.clone();
        self.store
            .commit(move |catalog| {
                // On the writer's thread, so that no other change creates a key meanwhile.
                let key = key.open_or_create(has_sealed(catalog))?;
                let sealed = seal(key, &org, &values).ok_or_else(|| {
                    Failure::new(
                        Reason::Internal,
                        "the build arguments could not be encrypted; nothing was stored",
                    )
                })?;
                Ok((Vec::new(), BuildArgs::Sealed(sealed)))
            })
            .await
    }

    /// The build arguments in clear.
    ///
    /// # Errors
    /// FAILED_PRECONDITION when they were sealed with another key.
    pub async fn open_args(
        &self,
        org: &OrgName,
        args: BuildArgs,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let args = match args {
            BuildArgs::Clear(values) => return Ok(values),
            BuildArgs::Sealed(args) => args,
        };
        let (key, org) = (Arc::clone(&self.key), org.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let plain = key.open()?.open(&args.sealed, slot(&org).as_bytes());
            let values = plain.and_then(|plain| serde_json::from_slice(&plain).ok());
            values.ok_or_else(|| {
                Failure::new(
                    Reason::FailedPrecondition,
                    "the build arguments were sealed with another key than the platform has now; save the code again",
                )
            })
        });
        opened.await.unwrap_or_else(|_| {
            Err(Failure::new(
                Reason::Internal,
                "the build arguments could not be opened by a fault of the platform",
            ))
        })
    }
}

/// Seals the build arguments that an earlier release kept in clear, in the draft and the versions
/// of an app; `None` when the system provides no random bytes.
pub(in crate::store) fn seal_kept(app: &App, key: &Key) -> Option<App> {
    let mut app = app.clone();
    let sealed = |source: &CodeSource| {
        let mut source = source.clone();
        if let CodeSource::FromCode(code) = &mut source
            && let BuildArgs::Clear(values) = &code.build_args
            && !values.is_empty()
        {
            code.build_args = BuildArgs::Sealed(seal(key, &app.id.org, values)?);
        }
        Some(source)
    };
    let draft = app.draft.as_ref().map(|draft| sealed(&draft.source));
    let versions: Option<Vec<_>> = app.versions.iter().map(|v| sealed(&v.source)).collect();
    if let (Some(draft), Some(source)) = (&mut app.draft, draft) {
        draft.source = source?;
    }
    for (version, source) in app.versions.iter_mut().zip(versions?) {
        Arc::make_mut(version).source = source;
    }
    Some(app)
}

/// Whether anything is sealed, in which case the key must not be created anew. Environments are not
/// checked: they were opened with the store, which has the key by then.
pub(in crate::store) fn has_sealed(catalog: &Catalog) -> bool {
    let is_sealed = |source: &CodeSource| matches!(source, CodeSource::FromCode(code) if matches!(code.build_args, BuildArgs::Sealed(_)));
    catalog.has_secrets()
        || catalog.iter().any(|app| {
            let draft = app.draft.iter().map(|d| &d.source);
            draft
                .chain(app.versions.iter().map(|v| &v.source))
                .any(is_sealed)
        })
}

fn seal(key: &Key, org: &OrgName, values: &BTreeMap<String, String>) -> Option<SealedArgs> {
    let plain = serde_json::to_vec(values).ok()?;
    let slot = slot(org);
    Some(SealedArgs {
        mark: key.mark(&[slot.as_bytes(), &plain].concat()),
        sealed: key.seal(plain, slot.as_bytes())?,
    })
}

fn slot(org: &OrgName) -> String {
    format!("{SLOT}{org}")
}
