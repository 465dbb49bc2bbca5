//! `ignite app exec`: a command in a replica of an app, on the machine that serves.
//!
//! It is an operator's: it needs the data directory's key and the container engine, not the API's
//! leave. The API only says which replicas are ready.

use std::{
    io::{self, IsTerminal as _, Write as _},
    os::fd::AsFd as _,
};

use futures_util::StreamExt as _;
use rustix::{
    process::{Pid, Signal, kill_process},
    termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    signal::unix::{SignalKind, signal},
};

use super::super::{Context, Error, context::is_this_machine, failure::note, id::AppArg};
use crate::{
    api::proto::v1,
    engine::docker::exec::{Command, Operator, Output, Running},
    model::AppId,
    server,
};

/// How many bytes of stdin are sent at once.
const PIECE: usize = 16 * 1024;

/// Which replica, and what runs in it.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The app, as org:app or app.
    id: AppArg,
    /// The replica, as `ignite app replicas` lists it [default: the first that is ready].
    #[arg(long, value_name = "REPLICA")]
    replica: Option<String>,
    /// Give the command this command's stdin.
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal.
    #[arg(short, long)]
    tty: bool,
    /// The user in the container, as NAME, UID or UID:GID [default: the app's].
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// The directory in the container [default: the app's].
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// The container engine's address [default: the server's].
    #[arg(long, value_name = "URL")]
    docker_host: Option<String>,
    /// The program and its arguments; options of ignite stand before it.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the command; its exit code is this command's.
pub(super) async fn run(context: &Context, args: Args) -> Result<(), Error> {
    let app = context.app(args.id.clone())?;
    let Some((dir, serving)) = context.near() else {
        let why = if is_this_machine(context.endpoint()) {
            "the server's data directory is not known; set IGNITE_DATA_DIR to it"
        } else {
            "the server is on another machine, and a command needs its container engine; log in there"
        };
        return Err(Error::Usage(why.to_owned()));
    };
    if args.tty && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(Error::Usage(
            "--tty needs a terminal for stdin and stdout; leave it out here".to_owned(),
        ));
    }
    let replica = ready_replica(context, &app, args.replica.as_deref()).await?;
    let host = args.docker_host.clone().or(serving.engine);
    let operator = server::operator(dir, host.as_deref())?;
    let engine = |e: crate::engine::Error| Error::Other(anyhow::Error::new(e));
    let container = operator.container(&app, &replica).await.map_err(engine)?;
    let container = container.ok_or_else(|| {
        Error::Other(anyhow::anyhow!(
            "the engine has no container of the replica {replica}; if the server uses another engine, name it with --docker-host"
        ))
    })?;
    let command = Command {
        words: args.command,
        input: args.interactive,
        terminal: args.tty,
        user: args.user,
        directory: args.workdir,
    };
    let running = operator.start(&container, command).await.map_err(engine)?;
    let raw = args.tty.then(Raw::set).transpose()?;
    let ended = follow(&operator, running, args.interactive, args.tty).await;
    drop(raw);
    match ended? {
        0 => Ok(()),
        code => Err(Error::Exit(u8::try_from(code).unwrap_or(1))),
    }
}

/// The replica to enter.
///
/// # Errors
/// When the app has no ready one, or not the named one.
async fn ready_replica(
    context: &Context,
    app: &AppId,
    named: Option<&str>,
) -> Result<String, Error> {
    let session = context.connect(&app.org).await?;
    let request = v1::ListAppReplicasRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
    };
    let mut client = session.client();
    let listed = session.answer(client.list_app_replicas(request)).await?;
    let replicas = listed.replicas;
    let is_ready = |r: &&v1::Replica| r.state == "ready" && r.depth == "running";
    let (org, name) = (&app.org, &app.name);
    match named {
        None => replicas
            .iter()
            .find(is_ready)
            .map(|r| r.replica_id.clone())
            .ok_or_else(|| {
                Error::Unreachable(format!(
                    "{app} has no ready replica; start one with `ignite app scale {org}:{name} 1`, or by a request"
                ))
            }),
        Some(named) => match replicas.iter().find(|r| r.replica_id == named) {
            Some(replica) if is_ready(&replica) => Ok(named.to_owned()),
            Some(replica) => Err(Error::Unreachable(format!(
                "the replica {named} is not ready ({}, {})",
                replica.state, replica.depth
            ))),
            None => Err(Error::Usage(format!(
                "{app} has no replica {named}; `ignite app replicas {org}:{name}` lists them"
            ))),
        },
    }
}

/// Carries input and output until the command ends; its exit code.
async fn follow(
    operator: &Operator,
    mut running: Running,
    input: bool,
    terminal: bool,
) -> Result<i64, Error> {
    let engine = |e: crate::engine::Error| Error::Other(anyhow::Error::new(e));
    let on = |kind| signal(kind).map_err(|e| Error::Other(e.into()));
    let (mut interrupt, mut terminate) =
        (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    let mut resized = on(SignalKind::window_change())?;
    if terminal {
        resize(operator, &running).await;
    }
    let writer = std::mem::replace(&mut running.input, Box::pin(tokio::io::sink()));
    let mut feeding = Box::pin(feed(writer, input));
    let (mut is_fed, mut asked) = (false, false);
    loop {
        tokio::select! {
            part = running.output.next() => match part {
                Some(Ok(Output::Out(bytes))) => write(&mut io::stdout().lock(), &bytes)?,
                Some(Ok(Output::Err(bytes))) => write(&mut io::stderr().lock(), &bytes)?,
                Some(Err(error)) => return Err(engine(error)),
                None => break,
            },
            () = &mut feeding, if !is_fed => is_fed = true,
            _ = resized.recv(), if terminal => resize(operator, &running).await,
            _ = interrupt.recv() => end(operator, &running, Signal::INT, &mut asked).await?,
            _ = terminate.recv() => end(operator, &running, Signal::TERM, &mut asked).await?,
        }
    }
    let code = operator.exit_code(&running).await.map_err(engine)?;
    code.ok_or_else(|| {
        Error::Other(anyhow::anyhow!(
            "the engine closed the connection before the command ended"
        ))
    })
}

/// Passes a signal on; a second one ends this command alone.
async fn end(
    operator: &Operator,
    running: &Running,
    signal: Signal,
    asked: &mut bool,
) -> Result<(), Error> {
    let process = match std::mem::replace(asked, true) {
        false => operator.process(running).await.ok().flatten(),
        true => None,
    };
    let sent = process
        .and_then(Pid::from_raw)
        .is_some_and(|pid| kill_process(pid, signal).is_ok());
    if sent {
        return Ok(());
    }
    note("the command may go on in the replica");
    Err(Error::Interrupted)
}

/// Sends stdin to its end.
async fn feed(mut writer: std::pin::Pin<Box<dyn AsyncWrite + Send>>, input: bool) {
    if !input {
        return;
    }
    let (mut stdin, mut piece) = (tokio::io::stdin(), vec![0; PIECE]);
    while let Ok(read @ 1..) = stdin.read(&mut piece).await {
        if writer.write_all(&piece[..read]).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
    // A command that has ended reads no more.
    let _ = writer.shutdown().await;
}

fn write(out: &mut impl io::Write, bytes: &[u8]) -> Result<(), Error> {
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

async fn resize(operator: &Operator, running: &Running) {
    if let Ok(size) = tcgetwinsize(io::stdout()) {
        // It may have ended already.
        let _ = operator.resize(running, size.ws_col, size.ws_row).await;
    }
}

/// The terminal passes every key on, until this is dropped.
struct Raw(Termios);

impl Raw {
    fn set() -> Result<Self, Error> {
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd()).map_err(io::Error::from)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw).map_err(io::Error::from)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &self.0);
        let _ = io::stdout().flush();
    }
}
