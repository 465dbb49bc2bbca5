//! `ignite app exec`: a command in a replica's container, for the operator.
//!
//! The client has no part in the server's process. It knows a replica by its sealed labels, with
//! the key in the data directory, so that no container that merely claims to be one is entered.

use std::pin::Pin;

use bollard::{
    container::LogOutput,
    exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::io::AsyncWrite;

use super::{
    Address, Client, Config, Connector, ContainerId, Error,
    labels::{self, Origin},
    listing,
};
use crate::model::AppId;

/// The client of `ignite app exec`.
pub struct Operator {
    client: Client,
    config: Config,
}

/// A command to run.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// Whether it gets an input.
    pub input: bool,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// The user that it runs as; `None` for the container's.
    pub user: Option<String>,
    /// The directory that it runs in; `None` for the container's.
    pub directory: Option<String>,
}

/// A part of what a command writes.
#[derive(Debug)]
pub enum Output {
    /// To its stdout, or to its terminal.
    Out(Bytes),
    /// To its stderr.
    Err(Bytes),
}

/// A command that runs.
pub struct Running {
    id: String,
    container: ContainerId,
    /// What it writes, until it ends.
    pub output: Pin<Box<dyn Stream<Item = Result<Output, Error>> + Send>>,
    /// What it reads.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

impl Operator {
    /// The client of an instance's engine.
    ///
    /// # Errors
    /// When the engine's address is bad.
    pub fn new(config: Config) -> Result<Self, Error> {
        let address = Address::find(config.host.as_deref(), |name| std::env::var(name).ok())?;
        let client = Client::new(
            Connector::new(address),
            config.call_timeout,
            config.metrics.clone(),
        );
        Ok(Self { client, config })
    }

    /// The container of an app's replica; `None` when there is none that its labels prove.
    ///
    /// # Errors
    /// When the engine does not list containers.
    pub async fn container(
        &self,
        app: &AppId,
        replica: &str,
    ) -> Result<Option<ContainerId>, Error> {
        let running = listing::running(&self.client, &self.config).await?;
        Ok(running.into_iter().find_map(|found| {
            let names = found.names.unwrap_or_default();
            let Origin::Ours(claims) = labels::origin(&self.config, &names, &found.labels?) else {
                return None;
            };
            let owner = claims.owner?;
            let is_it = claims.role == Some(labels::Role::Replica)
                && owner.app == *app
                && owner.replica.to_string() == replica;
            found.id.filter(|_| is_it).map(ContainerId)
        }))
    }

    /// Starts a command.
    ///
    /// # Errors
    /// When the engine refuses it.
    pub async fn start(&self, container: &ContainerId, command: Command) -> Result<Running, Error> {
        let options = CreateExecOptions {
            attach_stdin: Some(command.input),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(command.terminal),
            cmd: Some(command.words),
            user: command.user,
            working_dir: command.directory,
            ..CreateExecOptions::default()
        };
        let name = container.to_string();
        let id = self
            .client
            .run("prepare the command", |docker| async move {
                docker.create_exec(&name, options).await
            })
            .await?
            .id;
        let start = StartExecOptions {
            detach: false,
            tty: command.terminal,
            output_capacity: None,
        };
        let started = self
            .client
            .run("start the command", |docker| {
                let id = id.clone();
                async move { docker.start_exec(&id, Some(start)).await }
            })
            .await?;
        let StartExecResults::Attached { output, input } = started else {
            return Err(Error::Refused {
                call: "start the command",
                status: 0,
                message: "the engine did not attach to it".to_owned(),
            });
        };
        let (client, limit) = (self.client.clone(), self.client.limit());
        let output = output.map(move |part| match part {
            Ok(LogOutput::StdErr { message }) => Ok(Output::Err(message)),
            Ok(
                LogOutput::StdOut { message }
                | LogOutput::Console { message }
                | LogOutput::StdIn { message },
            ) => Ok(Output::Out(message)),
            Err(cause) => Err(client.translate("read the command's output", limit, cause)),
        });
        Ok(Running {
            id,
            container: container.clone(),
            output: Box::pin(output),
            input,
        })
    }

    /// Tells a command's terminal its size.
    ///
    /// # Errors
    /// When the engine refuses it, as it does once the command has ended.
    pub async fn resize(&self, running: &Running, width: u16, height: u16) -> Result<(), Error> {
        let id = running.id.clone();
        let size = ResizeExecOptions { width, height };
        self.client
            .run("resize the terminal", |docker| async move {
                docker.resize_exec(&id, size).await
            })
            .await
    }

    /// The exit code of a command; `None` while it runs.
    ///
    /// # Errors
    /// When the engine does not know it.
    pub async fn exit_code(&self, running: &Running) -> Result<Option<i64>, Error> {
        let id = running.id.clone();
        let state = self
            .client
            .run("inspect the command", |docker| async move {
                docker.inspect_exec(&id).await
            })
            .await?;
        Ok(state.exit_code.filter(|_| state.running != Some(true)))
    }

    /// The process of a command that runs, where it is one of this machine: an engine in a virtual
    /// machine counts its own.
    ///
    /// # Errors
    /// As [`Operator::exit_code`].
    pub async fn process(&self, running: &Running) -> Result<Option<i32>, Error> {
        let id = running.id.clone();
        let state = self
            .client
            .run("inspect the command", |docker| async move {
                docker.inspect_exec(&id).await
            })
            .await?;
        let pid = state.pid.filter(|_| state.running == Some(true));
        let pid = pid.and_then(|pid| i32::try_from(pid).ok());
        let is_in_container = |pid: &i32| {
            let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
            groups.is_ok_and(|text| text.contains(&running.container.to_string()))
        };
        Ok(pid.filter(|pid| *pid > 0).filter(is_in_container))
    }
}
