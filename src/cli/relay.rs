//! `ignite relay`: what a server has the engine run in a container, where it cannot listen itself.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::unix::pipe,
};

use super::{Error, block_on};
use crate::relay::{self, Limits, Plan};

/// The arguments of the relay, which a server gives it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where names are asked for.
    #[arg(long)]
    names: Option<SocketAddr>,
    /// A listener, at the first of these addresses that is free; repeatable.
    #[arg(long, value_parser = addresses)]
    listen: Vec<Addresses>,
    /// A further listener, where it is free; repeatable.
    #[arg(long)]
    also: Vec<SocketAddr>,
    /// The most connections.
    #[arg(long)]
    connections: usize,
    /// The most connections of one address.
    #[arg(long)]
    connections_each: usize,
    /// The most queries of names at a time.
    #[arg(long)]
    queries: usize,
    /// The most queries of one address.
    #[arg(long)]
    queries_each: usize,
}

/// Addresses that are tried in turn.
#[derive(Debug, Clone)]
struct Addresses(Vec<SocketAddr>);

fn addresses(text: &str) -> Result<Addresses, String> {
    let all = text.split(',').map(str::parse).collect::<Result<_, _>>();
    all.map(Addresses)
        .map_err(|_| "write addresses and ports with commas between".to_owned())
}

/// Carries until the server at the other end of standard input and output ends it.
pub(super) fn run(args: Args) -> Result<(), Error> {
    let plan = Plan {
        names: args.names,
        listeners: args.listen.into_iter().map(|all| all.0).collect(),
        also: args.also,
        limits: Limits {
            connections: args.connections,
            connections_each: args.connections_each,
            queries: args.queries,
            queries_each: args.queries_each,
        },
    };
    block_on(async {
        let io = ends().map_err(|cause| {
            Error::Usage(format!(
                "a server starts it, with pipes as standard input and output: {cause}"
            ))
        })?;
        let carried = relay::run(plan, io).await;
        carried.map_err(|cause| Error::Other(cause.into()))
    })
}

/// Standard input and output, which wait without a thread.
fn ends() -> io::Result<impl AsyncRead + AsyncWrite + Unpin> {
    let own = |end: BorrowedFd<'_>| end.try_clone_to_owned();
    let input = pipe::Receiver::from_owned_fd(own(io::stdin().as_fd())?)?;
    let output = pipe::Sender::from_owned_fd(own(io::stdout().as_fd())?)?;
    Ok(tokio::io::join(input, output))
}
