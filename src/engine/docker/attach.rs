//! What containers get to call apps by their URLs: a name server, and variables.
//!
//! Whoever serves these listens on the instance's network, so each time the network is found or made
//! it is asked what containers get ([`Attach`]), before any is made on it. A container that was made
//! with something else would find nobody there: its configuration's digest, in its label, says what
//! it got ([`Attached::mark`]), and it is replaced as one with other settings is.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::{ContainerSpec, Docker, Error, client::Client, firewall::Doors};
use crate::{engine::Owner, model::hex};

/// Stands in a variable's value for the label of the app's own host.
pub const LABEL: &str = "{label}";
/// Stands before the mark in a digest.
const MARK: char = '+';
/// What the digest of a container reads as that was attached otherwise: no configuration has it.
const OTHERWISE: &str = "attached otherwise";
/// Most images whose variables are remembered.
const MAX_IMAGES: usize = 1024;

/// The instance's network, as who serves its containers has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedNetwork {
    /// Its name in the engine.
    pub name: String,
    /// The address of this host on it, or of this process's own container, as containers see it.
    pub gateway: Ipv4Addr,
    /// Whether its addresses are reached from this process.
    pub is_direct: bool,
}

/// A folder of this host that containers see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// On this host.
    pub folder: PathBuf,
    /// In containers.
    pub at: String,
    /// Variables that name files in it.
    pub env: Vec<(String, String)>,
}

/// What containers get; by default nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attached {
    /// Their name server.
    pub names: Option<Ipv4Addr>,
    /// The name servers that they ask while that one does not answer.
    pub fallback: Vec<IpAddr>,
    /// Variables, unless the app or its image sets them. [`LABEL`] in a value is replaced.
    pub env: Vec<(String, String)>,
    /// A folder with certificates.
    pub certificates: Option<Shown>,
    /// The ports of this host that they reach, whatever the rules say.
    pub doors: Doors,
}

/// Says what containers on a network get.
#[derive(Clone)]
pub struct Attach(Arc<AttachFn>);

type AttachFn = dyn Fn(AttachedNetwork) -> BoxFuture<'static, Attached> + Send + Sync;

impl Attach {
    /// Asks `attach`.
    pub fn new(
        attach: impl Fn(AttachedNetwork) -> BoxFuture<'static, Attached> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(attach))
    }

    pub(super) async fn ask(&self, network: AttachedNetwork) -> Attached {
        (self.0)(network).await
    }
}

impl fmt::Debug for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attach")
    }
}

impl Attached {
    /// What tells containers that got this from those that got something else; `None` for nothing.
    /// The servers that are asked in between change with the machine's network, and do no harm.
    fn mark(&self) -> Option<String> {
        self.names?;
        let certificates = self.certificates.as_ref().map(|c| (&c.at, &c.env));
        let text = format!("{:?} {:?} {certificates:?}", self.names, self.env);
        Some(hex::encode(&Sha256::digest(text)[..4]))
    }

    /// The digest of a container's configuration with this mark.
    fn marked(&self, digest: &str) -> String {
        match self.mark() {
            Some(mark) => format!("{digest}{MARK}{mark}"),
            None => digest.to_owned(),
        }
    }

    /// A digest without its mark; that of no configuration where the mark is another one.
    pub(super) fn unmarked(&self, mut owner: Owner) -> Owner {
        let digest = &owner.config_hash;
        let (plain, mark) = match digest.split_once(MARK) {
            Some((plain, mark)) => (plain, Some(mark)),
            None => (digest.as_str(), None),
        };
        owner.config_hash = if mark == self.mark().as_deref() {
            plain.to_owned()
        } else {
            OTHERWISE.to_owned()
        };
        owner
    }

    /// The spec with what the container gets; `set` are the variables of its image.
    pub(super) fn complete(&self, spec: &ContainerSpec, set: &BTreeSet<String>) -> ContainerSpec {
        let mut spec = spec.clone();
        spec.owner.config_hash = self.marked(&spec.owner.config_hash);
        let of_certificates = self.certificates.iter().flat_map(|c| &c.env);
        for (name, value) in self.env.iter().chain(of_certificates) {
            if !set.contains(name) {
                let value = value.replace(LABEL, &spec.host_label);
                spec.env.entry(name.clone()).or_insert(value);
            }
        }
        spec
    }

    /// Gives a container with a network of its own the name servers.
    pub(super) fn put_names(&self, host: &mut HostConfig) {
        let servers = self.names.map(IpAddr::V4).into_iter();
        let servers = servers.chain(self.fallback.iter().copied());
        host.dns = self
            .names
            .is_some()
            .then(|| servers.map(|s| s.to_string()).collect());
    }

    /// Shows a container that runs an app the certificates.
    pub(super) fn put_certificates(&self, body: &mut ContainerCreateBody) {
        let Some(shown) = &self.certificates else {
            return;
        };
        let host = body.host_config.get_or_insert_default();
        host.mounts.get_or_insert_default().push(Mount {
            source: Some(shown.folder.to_string_lossy().into_owned()),
            target: Some(shown.at.clone()),
            typ: Some(MountType::BIND),
            read_only: Some(true),
            ..Mount::default()
        });
    }
}

/// The names of the variables that images set. An image never changes under its id.
#[derive(Debug, Default)]
pub(super) struct ImageVariables(Mutex<HashMap<String, Arc<BTreeSet<String>>>>);

impl ImageVariables {
    async fn of(&self, client: &Client, image: &str) -> Result<Arc<BTreeSet<String>>, Error> {
        if let Some(known) = self.0.lock().get(image) {
            return Ok(known.clone());
        }
        let found = client
            .run("inspect the image", |docker| async move {
                docker.inspect_image(image).await
            })
            .await?;
        let env = found.config.and_then(|c| c.env).unwrap_or_default();
        let names = env.iter().filter_map(|pair| pair.split('=').next());
        let names: Arc<BTreeSet<_>> = Arc::new(names.map(str::to_owned).collect());
        let mut known = self.0.lock();
        if known.len() >= MAX_IMAGES {
            known.clear();
        }
        known.insert(image.to_owned(), names.clone());
        Ok(names)
    }
}

impl Docker {
    /// What containers of the instance get. Where the engine refuses to make the network, there is
    /// none on it.
    ///
    /// # Errors
    /// When the engine does not answer: what containers got is not known then.
    pub(super) async fn attached(&self) -> Result<Attached, Error> {
        if self.config.attach.is_none() {
            return Ok(Attached::default());
        }
        match self.ensure_network_and_rules().await {
            Err(Error::Refused { .. } | Error::NotIsolated { .. }) => Ok(Attached::default()),
            known => known,
        }
    }

    /// What containers get, without folders of this host where the engine does not see them.
    ///
    /// # Errors
    /// When the engine does not answer, so that this remains unknown.
    pub(super) async fn with_folders_that_are_seen(
        &self,
        mut attached: Attached,
    ) -> Result<Attached, Error> {
        if attached.certificates.is_some() && !self.shares_host().await? {
            attached.certificates = None;
            if !self.warned_of_certificates.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "The engine does not see the data directory, so programs in apps do not know the local certificate authority; give them its certificate (`ignite ca print`) to have them call apps over HTTPS (logged once)"
                );
            }
        }
        Ok(attached)
    }

    /// The spec with what containers on the instance's network get to call apps.
    pub(super) async fn attach(
        &self,
        spec: &ContainerSpec,
        attached: &Attached,
    ) -> Result<ContainerSpec, Error> {
        if attached.names.is_none() {
            return Ok(spec.clone());
        }
        let set = self.image_variables.of(&self.client, &spec.image).await?;
        Ok(attached.complete(spec, &set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::docker::spec;

    fn attached(port: u16) -> Attached {
        Attached {
            names: Some([172, 18, 0, 1].into()),
            fallback: vec![[10, 0, 0, 2].into()],
            env: vec![(
                "IGNITE_APP_URL".to_owned(),
                format!("http://{LABEL}.ignite.internal:{port}"),
            )],
            ..Attached::default()
        }
    }

    fn owner(digest: &str) -> Owner {
        Owner {
            app: "acme/a".parse().expect("valid"),
            replica: "0123456789".parse().expect("valid"),
            version: 1,
            config_hash: digest.to_owned(),
        }
    }

    #[test]
    fn variables_of_the_app_and_of_its_image_stay() {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let attached = Attached {
            certificates: Some(Shown {
                folder: "/d/certificates".into(),
                at: "/c".to_owned(),
                env: ["A", "B", "C"].map(|v| variable(v, "/c/f")).into(),
            }),
            ..attached(80)
        };
        assert_ne!(attached.mark(), self::attached(80).mark());
        let spec = ContainerSpec {
            env: [variable("A", "app's")].into(),
            ..spec::tests::spec()
        };
        let completed = attached.complete(&spec, &["B".to_owned()].into());
        let expected = [
            variable("A", "app's"),
            variable("C", "/c/f"),
            (
                "IGNITE_APP_URL".to_owned(),
                format!("http://{}.ignite.internal:80", spec.host_label),
            ),
        ];
        assert_eq!(completed.env, expected.into());
        let mut body = ContainerCreateBody::default();
        attached.put_certificates(&mut body);
        let mounts = body.host_config.and_then(|h| h.mounts).expect("one");
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].source.as_deref(), Some("/d/certificates"));
        assert_eq!(mounts[0].read_only, Some(true));
    }

    #[test]
    fn a_container_that_got_something_else_has_the_digest_of_no_configuration() {
        let here = attached(80);
        let marked = here.marked("abc");
        let read = |attached: &Attached, digest: &str| attached.unmarked(owner(digest)).config_hash;
        assert_eq!(read(&here, &marked), "abc");
        let other_servers = Attached {
            fallback: Vec::new(),
            ..here.clone()
        };
        assert_eq!(read(&other_servers, &marked), "abc");
        assert_eq!(read(&attached(8480), &marked), OTHERWISE);
        assert_eq!(read(&here, "abc"), OTHERWISE, "of an earlier version");
        let none = Attached::default();
        assert_eq!(read(&none, "abc"), "abc");
        assert_eq!(read(&none, &marked), OTHERWISE);
        assert_eq!(none.marked("abc"), "abc");
    }
}
