//! How many bytes of the store an app, its versions, its code and a secret take, for the quota of
//! an organization.
//!
//! Sizes follow from the model alone, so that a start counts the same as the run before. They are
//! the lengths of texts that users choose and of code in files, plus [`ROW`] for the rest of each
//! row.

use std::{collections::HashMap, sync::Arc};

use super::{
    app::{App, Version},
    build_args::BuildArgs,
    catalog::{Catalog, Change},
    code::{CodeSource, Runtime},
    id::{AppId, OrgName},
    secret::{Sealed, SecretName},
    settings::Settings,
};

/// The bytes of a row besides the texts in it: key, numbers, digests, the seal of an environment,
/// and the database's overhead.
pub const ROW: u64 = 512;

/// How many bytes the changes to a catalog add for each organization.
pub fn changed(before: &Catalog, changes: &[Change]) -> HashMap<OrgName, i64> {
    // The apps as the earlier changes of this list leave them.
    let mut apps: HashMap<&AppId, Option<&Arc<App>>> = HashMap::new();
    let mut secrets: HashMap<(&OrgName, &SecretName), Option<&Arc<Sealed>>> = HashMap::new();
    let mut all = HashMap::new();
    let mut add = |org: &OrgName, bytes: i64| {
        if bytes != 0 {
            *all.entry(org.clone()).or_default() += bytes;
        }
    };
    for change in changes {
        match change {
            Change::Put(app) => {
                let old = apps.insert(&app.id, Some(app));
                let old = old.unwrap_or_else(|| before.get(&app.id));
                add(&app.id.org, difference(old.map(|a| &**a), Some(app)));
            }
            Change::Delete(id) => {
                let old = apps.insert(id, None).unwrap_or_else(|| before.get(id));
                add(&id.org, difference(old.map(|a| &**a), None));
            }
            Change::PutSecret(secret) => {
                let old = secrets.insert((&secret.org, &secret.name), Some(secret));
                let old = old.unwrap_or_else(|| before.secret(&secret.org, &secret.name));
                let old = old.map_or(0, |s| signed(of_secret(s)));
                add(&secret.org, signed(of_secret(secret)) - old);
            }
            Change::DeleteSecret(org, name) => {
                let old = secrets.insert((org, name), None);
                let old = old.unwrap_or_else(|| before.secret(org, name));
                add(org, -old.map_or(0, |s| signed(of_secret(s))));
            }
            Change::PutPulled(_)
            | Change::DeletePulled(_)
            | Change::MarkVolumeForDeletion(..)
            | Change::VolumeGone(..) => {}
        }
    }
    all
}

/// An app with its draft, versions and code, in bytes.
pub fn of_app(app: &App) -> u64 {
    from(app, 0)
}

/// A secret, in bytes.
pub fn of_secret(secret: &Sealed) -> u64 {
    ROW + len(secret.name.as_str()) + secret.sealed.len() as u64
}

/// The approximate bytes of a version with these settings, besides its code.
pub fn of_snapshot(settings: &Settings) -> u64 {
    ROW + of_settings(settings)
}

/// How many bytes `after` takes more than `before`. Versions that both share are skipped.
fn difference(before: Option<&App>, after: Option<&App>) -> i64 {
    let shared = match (before, after) {
        (Some(before), Some(after)) => {
            let pairs = std::iter::zip(&before.versions, &after.versions);
            pairs.take_while(|(a, b)| Arc::ptr_eq(a, b)).count()
        }
        _ => 0,
    };
    let size = |app: Option<&App>| app.map_or(0, |app| signed(from(app, shared)));
    size(after) - size(before)
}

/// The bytes of an app without the first `skipped` of its versions.
fn from(app: &App, skipped: usize) -> u64 {
    let hosts = app.hosts.iter().map(|host| len(host.as_str()));
    let mut bytes = ROW + of_settings(&app.settings) + hosts.sum::<u64>();
    let mut code = skipped
        .checked_sub(1)
        .and_then(|last| app.versions.get(last));
    for version in app.versions.iter().skip(skipped) {
        bytes += of_version(version) + of_code(&version.source, code.map(|v| &v.source));
        code = Some(version);
    }
    if let Some(draft) = &app.draft {
        let built = draft.built.as_ref().map(|built| match &built.outcome {
            Ok(image) => len(&image.image_ref) + len(&image.image_id),
            Err(error) => len(&error.message),
        });
        bytes += of_source(&draft.source) + len(&draft.base) + built.unwrap_or_default();
        bytes += of_code(&draft.source, code.map(|v| &v.source));
    }
    bytes
}

fn of_version(version: &Version) -> u64 {
    let facts = &version.facts;
    of_snapshot(&version.settings)
        + of_source(&version.source)
        + len(&version.image_ref)
        + len(&facts.digest_ref)
        + len(&facts.home.path)
        + version
            .overlay
            .as_ref()
            .map_or(0, |o| len(&o.path) + o.files.len)
}

/// The bytes of a code file, unless the version before has the same one: a draft that is published
/// and all versions made of it share a file, and they are adjacent.
fn of_code(source: &CodeSource, before: Option<&CodeSource>) -> u64 {
    let Some(blob) = source.bytes() else {
        return 0;
    };
    let is_shared = before
        .and_then(CodeSource::bytes)
        .is_some_and(|before| before.id == blob.id);
    if is_shared { 0 } else { blob.len }
}

fn of_source(source: &CodeSource) -> u64 {
    match source {
        CodeSource::Prebuilt(image) => len(&image.image_ref) + len(&image.registry_secret_ref),
        CodeSource::FromCode(code) => {
            let args = match &code.build_args {
                BuildArgs::Clear(values) => values.iter().map(|(k, v)| len(k) + len(v)).sum(),
                BuildArgs::Sealed(args) => args.sealed.len() as u64 + len(&args.mark),
            };
            len(&code.dockerfile_path) + len(&code.registry_secret_ref) + args
        }
        CodeSource::FromGit(git) => {
            let texts = [&git.url, &git.reference, &git.sub_path];
            let more = [
                &git.dockerfile_path,
                &git.secret_ref,
                &git.registry_secret_ref,
            ];
            texts.into_iter().chain(more).map(|text| len(text)).sum()
        }
        CodeSource::Compile(compile) => match &compile.runtime {
            Runtime::Rust { target, toolchain } => len(target) + len(toolchain),
            Runtime::Python | Runtime::Go | Runtime::Deno => 0,
        },
    }
}

fn of_settings(s: &Settings) -> u64 {
    let env: u64 = s.env.iter().map(|(k, v)| len(k) + len(v)).sum();
    let origins: u64 = s.cors_origins.iter().map(|origin| len(origin)).sum();
    let texts = [&s.description, &s.input_schema, &s.output_schema];
    let texts: u64 = texts.into_iter().map(|text| len(text)).sum();
    env + origins + texts + s.health_path.as_deref().map_or(0, len)
}

fn len(text: &str) -> u64 {
    text.len() as u64
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Blob, Draft, code::Compile};

    fn code(n: usize) -> CodeSource {
        CodeSource::Compile(Compile {
            runtime: Runtime::Python,
            source: Blob {
                id: n.to_string(),
                len: 1000 * n as u64,
                sha256: String::new(),
            },
        })
    }

    fn draft(n: usize) -> Draft {
        Draft {
            source: code(n),
            created_at_ms: 0,
            built: None,
            base: String::new(),
        }
    }

    fn version(app: &App) -> Option<Arc<Version>> {
        Some(Arc::new(Version {
            number: app.versions.last().map_or(0, |v| v.number) + 1,
            source: app.draft.as_ref()?.source.clone(),
            image_ref: "image".to_owned(),
            image_id: String::new(),
            facts: Default::default(),
            overlay: None,
            created_at_ms: 0,
            settings: app.settings.clone(),
        }))
    }

    #[test]
    fn code_that_several_name_counts_once() {
        let mut app = App {
            draft: Some(draft(7)),
            ..crate::model::app::bare("o/a")
        };
        let with_draft = of_app(&app);
        for _ in 0..2 {
            app.versions.extend(version(&app));
        }
        assert!((7000..8000).contains(&with_draft), "{with_draft}");
        assert!(of_app(&app) < 9000, "{}", of_app(&app));
        // A later draft has another file, and the versions keep theirs.
        app.draft = Some(draft(8));
        assert!(of_app(&app) > 15_000);
    }

    proptest! {
        /// Whatever is changed, one by one or several at once: the sum of the changes is the total.
        #[test]
        fn changes_add_up_to_what_there_is(
            steps in prop::collection::vec((0u8..6, 0usize..3, 0usize..50, any::<bool>()), 1..60)
        ) {
            let mut catalog = Catalog::default();
            let mut added: HashMap<OrgName, i64> = HashMap::new();
            let mut pending: Vec<Change> = Vec::new();
            // The catalog as the changes that are not applied yet will leave it.
            let mut next = Catalog::default();
            for (n, (what, which, size, apply)) in steps.into_iter().enumerate() {
                let id: AppId = format!("o{}/a{which}", which % 2).parse().expect("valid");
                let name: SecretName = format!("s{which}").parse().expect("valid");
                let mut app = next.get(&id).map_or_else(
                    || crate::model::app::bare(&id.to_string()),
                    |app| App::clone(app),
                );
                let change = match what {
                    0 => {
                        app.settings.env.insert("A".to_owned(), "x".repeat(size));
                        Change::Put(Arc::new(app))
                    }
                    1 => {
                        app.draft = Some(draft(n));
                        Change::Put(Arc::new(app))
                    }
                    2 => {
                        app.versions.extend(version(&app));
                        Change::Put(Arc::new(app))
                    }
                    3 => Change::Delete(id),
                    4 => Change::PutSecret(Arc::new(Sealed {
                        org: id.org,
                        name,
                        kind: crate::model::secret::Kind::Git,
                        created_at_ms: 0,
                        updated_at_ms: 0,
                        sealed: vec![0; size],
                    })),
                    _ => Change::DeleteSecret(id.org, name),
                };
                next.apply(&change);
                pending.push(change);
                if apply {
                    for (org, bytes) in changed(&catalog, &pending) {
                        *added.entry(org).or_default() += bytes;
                    }
                    pending.drain(..).for_each(|change| catalog.apply(&change));
                }
            }
            let mut there: HashMap<OrgName, i64> = HashMap::new();
            for app in catalog.iter() {
                *there.entry(app.id.org.clone()).or_default() += signed(of_app(app));
            }
            for secret in catalog.all_secrets() {
                *there.entry(secret.org.clone()).or_default() += signed(of_secret(secret));
            }
            added.retain(|_, bytes| *bytes != 0);
            prop_assert_eq!(added, there);
        }
    }
}
