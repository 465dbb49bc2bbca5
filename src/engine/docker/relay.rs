//! The container of a relay (`crate::relay`): this program, in the network of the engine's host.
//!
//! Containers on the instance's network do not reach each other, but all of them reach the address
//! of its bridge, which is the host's. So the relay runs in the host's network, with as few rights as that
//! needs, and nothing else of the host; for a rootless engine, "the host" is the network in which
//! the engine itself lives, which has the bridge.
//!
//! It lives as long as the server's connection to it: when that ends, for whatever reason, the engine
//! closes the relay's input, upon which the relay ends, and removes it. What a crash of the engine
//! leaves is found by its label, removed before the next relay starts, and by `ignite prune`.

use std::{io, path::PathBuf, sync::Arc};

use bollard::{
    container::LogOutput,
    models::{
        ContainerCreateBody, HostConfig, HostConfigLogConfig, ResourcesUlimits, RestartPolicy,
        RestartPolicyNameEnum,
    },
    query_parameters::{AttachContainerOptions, ListContainersOptions},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, future, stream};
use parking_lot::Mutex;
use tar::{EntryType, Header};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio_util::io::{ReaderStream, StreamReader};

use super::{
    ContainerId, Docker, Error,
    client::{Client, remove_container},
    image, image_list,
    labels::{self, Origin, Role},
    names,
    own_image::OwnImage,
    program::Program,
    sealed, spec, states,
};
use crate::{engine::Limits, model::Platform};

/// The repository of relays' images on the engine; the tag is a digest of the program.
pub(super) const REPOSITORY: &str = "ignite-relay";
const IMPORT: &str = "import the relay's image";
const START: &str = "start the relay";
/// Threads of the relay, and spare ones for the way engines start it.
const PIDS: i64 = 32;
/// Descriptors beside those of what it carries: its listeners, pipes, libraries.
const OWN_FILES: i64 = 64;
/// Bytes of a tar archive's blocks.
const BLOCK: u64 = 512;
/// Bytes read of a file at a time.
const READ: usize = 256 << 10;
/// Most characters kept of what the relay says last.
const LAST_WORDS: usize = 500;

/// A running relay.
pub struct RunningRelay<T> {
    /// Its container.
    pub id: ContainerId,
    /// Its standard input and output. Closing it ends the relay.
    pub io: T,
    /// What it said last on its standard error.
    pub last_words: LastWords,
}

/// The last line that a relay wrote to its standard error.
#[derive(Debug, Clone, Default)]
pub struct LastWords(Arc<Mutex<String>>);

impl LastWords {
    /// The line; empty when there was none.
    pub fn get(&self) -> String {
        self.0.lock().clone()
    }

    fn hear(&self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            tracing::info!(line, "The relay says");
            *self.0.lock() = line.chars().take(LAST_WORDS).collect();
        }
    }
}

impl Docker {
    /// Starts a relay with these arguments, at most this much memory and so many sockets, after
    /// removing any that an earlier run left. It does not need the instance's network to be known.
    ///
    /// # Errors
    /// Why this program cannot run on the engine, or the engine's error.
    pub async fn start_relay(
        &self,
        arguments: Vec<String>,
        memory: u64,
        sockets: usize,
    ) -> Result<RunningRelay<impl AsyncRead + AsyncWrite + Unpin + Send + use<>>, Error> {
        let facts = self.facts().await?;
        check_platform(&facts.info.platform)?;
        self.remove_relays().await?;
        let program = tokio::task::spawn_blocking(Program::of_this_process);
        let program = program.await.map_err(io::Error::other);
        let program = program.flatten().map_err(|cause| refused(&cause))?;
        let image = self.ensure_relay_image(&program).await?;
        let mut body = container(image, memory, sockets, facts.traits().limits);
        body.entrypoint = Some(program.command);
        body.cmd = Some(arguments);
        body.labels = Some(labels::of_relay(&self.config, self.homes.run_id()));
        if let Some(host) = &mut body.host_config {
            host.security_opt = Some(spec::security(&self.config, facts.traits()));
            // Mapped users have no rights in the host's network.
            host.userns_mode = facts.info.maps_users.then(|| "host".to_owned());
        }
        let name = names::relay_name(&self.config.instance);
        let call = (START, self.client.limit());
        let made = sealed::create(&self.client, &self.config, call, name, body, None);
        let id = Box::pin(made).await?;
        match self.attach_and_start(&id).await {
            Ok((io, last_words)) => Ok(RunningRelay { id, io, last_words }),
            Err(err) => {
                self.remove_relay(&id).await;
                Err(err)
            }
        }
    }

    /// Removes a relay; one that is gone is a success.
    pub async fn remove_relay(&self, id: &ContainerId) {
        if let Err(cause) = remove_container(&self.client, id).await {
            tracing::warn!(container = %id, %cause, "A relay was left behind; the next one's start removes it");
        }
    }

    /// Removes every relay of this instance.
    ///
    /// # Errors
    /// The engine's.
    pub async fn remove_relays(&self) -> Result<(), Error> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(labels::filter(&self.config.instance)),
            ..ListContainersOptions::default()
        };
        let found = self
            .client
            .run("list containers", |docker| async move {
                states::in_dockers_words(docker.list_containers(Some(options)).await)
            })
            .await?;
        for container in found {
            let names = container.names.unwrap_or_default();
            let labels = container.labels.unwrap_or_default();
            let is_relay = matches!(
                labels::origin(&self.config, &names, &labels),
                Origin::Ours(claims) if claims.role == Some(Role::Relay)
            );
            if let Some(id) = container.id.filter(|_| is_relay) {
                remove_container(&self.client, &ContainerId(id)).await?;
            }
        }
        Ok(())
    }

    async fn attach_and_start(
        &self,
        id: &ContainerId,
    ) -> Result<
        (
            impl AsyncRead + AsyncWrite + Unpin + Send + use<>,
            LastWords,
        ),
        Error,
    > {
        let options = AttachContainerOptions {
            stream: true,
            stdin: true,
            stdout: true,
            stderr: true,
            ..AttachContainerOptions::default()
        };
        let attached = self
            .client
            .run("connect to the relay", |docker| async move {
                docker.attach_container(&id.0, Some(options)).await
            })
            .await?;
        // Before it can say anything, so that nothing is lost.
        self.start_once(id).await?;
        let last_words = LastWords::default();
        let heard = last_words.clone();
        let output = attached.output.filter_map(move |said| {
            future::ready(match said {
                Ok(LogOutput::StdErr { message }) => {
                    heard.hear(&message);
                    None
                }
                Ok(said) => Some(Ok(said.into_bytes())),
                Err(cause) => Some(Err(io::Error::other(cause))),
            })
        });
        let io = tokio::io::join(StreamReader::new(output), attached.input);
        Ok((io, last_words))
    }

    /// The image with this program, imported unless the engine has it. Images with other programs
    /// that no container uses are removed.
    async fn ensure_relay_image(&self, program: &Program) -> Result<String, Error> {
        let image = OwnImage {
            repository: REPOSITORY,
            tag: program.digest.clone(),
            call: IMPORT,
        };
        let reference = image.reference();
        let archive = archive(program.files.clone());
        let limit = self.config.pull_timeout;
        if image.ensure(&self.client, limit, archive).await? {
            tracing::info!(
                image = reference,
                "Imported this program as the relay's image"
            );
            remove_unused(&self.client, Some(&reference)).await;
        }
        Ok(reference)
    }
}

/// Removes the images of relays that no container uses, except for this one. Failures are left to
/// the next time.
pub(super) async fn remove_unused(client: &Client, except: Option<&str>) {
    let found = image_list::list(client, &[("reference", REPOSITORY.to_owned())]).await;
    let tags = found
        .into_iter()
        .flatten()
        .flat_map(|image| image.repo_tags);
    for tag in tags.filter(|tag| except != Some(tag.as_str())) {
        if let Err(cause) = image::untag(client, &tag).await {
            tracing::debug!(tag, %cause, "An image of a relay stays, since it is in use");
        }
    }
}

/// Refuses an engine on which this program does not run.
fn check_platform(engine: &Platform) -> Result<(), Error> {
    let own = Platform::new(std::env::consts::OS, std::env::consts::ARCH, "");
    if own.to_string() == engine.to_string() {
        return Ok(());
    }
    Err(refused(&format!(
        "the relay is this very program, which is for {own}, and the engine runs {engine}"
    )))
}

fn refused(cause: &impl ToString) -> Error {
    Error::Refused {
        call: START,
        status: 0,
        message: cause.to_string(),
    }
}

/// The relay's container, but for its program, labels and security options.
fn container(image: String, memory: u64, sockets: usize, limits: Limits) -> ContainerCreateBody {
    let memory = i64::try_from(memory).unwrap_or(i64::MAX);
    let descriptors = i64::try_from(sockets).map_or(i64::MAX, |n| n.saturating_add(OWN_FILES));
    let host = HostConfig {
        network_mode: Some("host".to_owned()),
        // A limit that the engine cannot set would keep the relay from starting.
        memory: limits.memory.then_some(memory),
        memory_swap: (limits.memory && limits.swap).then_some(memory),
        pids_limit: Some(if limits.pids { PIDS } else { 0 }),
        ulimits: Some(vec![ResourcesUlimits {
            name: Some("nofile".to_owned()),
            soft: Some(descriptors),
            hard: Some(descriptors),
        }]),
        cap_drop: Some(vec!["ALL".to_owned()]),
        // Kernel settings cannot be changed in the host's network, so that ports need the right.
        cap_add: Some(vec!["NET_BIND_SERVICE".to_owned()]),
        readonly_rootfs: Some(true),
        init: Some(false),
        auto_remove: Some(true),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        // All that it carries goes over its standard output.
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(image),
        open_stdin: Some(true),
        // The end of the server's connection is the end of the relay's input.
        stdin_once: Some(true),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(false),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

/// A tar archive of these files, read as it is sent.
fn archive(
    files: Vec<(String, PathBuf)>,
) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static {
    let entries = stream::iter(files).then(|(name, path)| async move {
        let file = tokio::fs::File::open(path).await?;
        let length = file.metadata().await?.len();
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_path(name)?;
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(length);
        header.set_cksum();
        let head = Bytes::copy_from_slice(header.as_bytes());
        let padding = usize::try_from(length.next_multiple_of(BLOCK) - length);
        let padding = Bytes::from(vec![0; padding.expect("it is less than a block")]);
        let content = ReaderStream::with_capacity(file.take(length), READ);
        Ok::<_, io::Error>(
            stream::iter([Ok(head)])
                .chain(content)
                .chain(stream::iter([Ok(padding)])),
        )
    });
    let end = Bytes::from_static(&[0; 2 * BLOCK as usize]);
    Box::pin(entries.try_flatten()).chain(stream::iter([Ok(end)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_archive_has_every_file_whole() {
        let folder = tempfile::tempdir().expect("a directory");
        let contents = [vec![1; 511], vec![2; 512], vec![3; 200_000], Vec::new()];
        let mut files = Vec::new();
        for (number, content) in contents.iter().enumerate() {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, content).expect("written");
            files.push((format!("lib/{number}"), path));
        }
        let parts: Vec<Bytes> = archive(files).try_collect().await.expect("it can be read");
        let whole = parts.concat();
        let mut archive = tar::Archive::new(&whole[..]);
        let mut seen = 0;
        for (number, entry) in archive.entries().expect("an archive").enumerate() {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").into_owned();
            assert_eq!(path.to_str(), Some(format!("lib/{number}").as_str()));
            assert_eq!(entry.header().mode().expect("a mode"), 0o755);
            let mut content = Vec::new();
            io::Read::read_to_end(&mut entry, &mut content).expect("content");
            assert!(content == contents[number]);
            seen += 1;
        }
        assert_eq!(seen, contents.len());
    }

    #[test]
    fn the_relay_has_no_right_but_to_bind_ports() {
        let of = |limits| container("i".to_owned(), 64 << 20, 100, limits);
        let none = Limits {
            memory: false,
            swap: false,
            cpu: false,
            pids: false,
        };
        let unlimited = of(none).host_config.expect("set");
        assert_eq!((unlimited.memory, unlimited.pids_limit), (None, Some(0)));
        let body = of(Limits::ALL);
        let host = body.host_config.expect("set");
        assert_eq!((host.memory, host.pids_limit), (Some(64 << 20), Some(PIDS)));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.cap_add, Some(vec!["NET_BIND_SERVICE".to_owned()]));
        assert_eq!(host.readonly_rootfs, Some(true));
        assert_eq!(
            host.log_config.and_then(|log| log.typ).as_deref(),
            Some("none")
        );
        assert_eq!(
            (body.stdin_once, host.auto_remove),
            (Some(true), Some(true))
        );
    }

    #[test]
    fn an_engine_of_another_processor_is_refused() {
        let own = std::env::consts::ARCH;
        let other = if own == "x86_64" { "aarch64" } else { "x86_64" };
        let engine = |arch| Platform::new(std::env::consts::OS, arch, "");
        assert!(check_platform(&engine(own)).is_ok());
        let why = check_platform(&engine(other))
            .expect_err("another")
            .to_string();
        assert!(why.contains("this very program"), "{why}");
    }
}
