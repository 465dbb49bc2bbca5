//! The server's end: takes connections and queries from a relay.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{Connection, SendResponse},
};
use http::{Request, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};

use super::{
    Asked, Limits, Stream,
    wire::{self, Listens, Purpose, broken, keep_alive},
};

/// What serves the connections and answers the queries of a relay.
pub trait Front: Send + Sync + 'static {
    /// Serves one connection, from `peer` to the relay's listener at `at`, to its end.
    fn connection(
        &self,
        stream: Stream,
        peer: SocketAddr,
        at: SocketAddr,
    ) -> impl Future<Output = ()> + Send;

    /// The answer to a query; `None` for one that gets none.
    fn answer(&self, query: Bytes, asked: Asked) -> impl Future<Output = Option<Vec<u8>>> + Send;
}

/// A connected relay, which listens.
pub struct Link<T> {
    connection: Connection<T, Bytes>,
    listens: Listens,
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Link<T> {
    /// Waits until the relay at the other end listens. It may never answer.
    ///
    /// # Errors
    /// When the connection ends or speaks another protocol.
    pub async fn establish(io: T, limits: Limits) -> io::Result<Self> {
        let handshake = wire::server(limits).handshake(io).await;
        let mut connection = handshake.map_err(broken)?;
        let first = connection.accept().await;
        let (request, mut respond) = first.ok_or(io::ErrorKind::UnexpectedEof)?.map_err(broken)?;
        let Some(Purpose::Ready(listens)) = Purpose::of(&request) else {
            return Err(io::Error::other("the relay is of another release"));
        };
        let accepted = respond.send_response(Response::new(()), true);
        accepted.map_err(broken)?;
        Ok(Self {
            connection,
            listens,
        })
    }

    /// Where the relay listens.
    pub fn listens(&self) -> &Listens {
        &self.listens
    }

    /// Serves until the relay is lost; returns how. What it carried breaks off then.
    pub async fn serve<F: Front>(mut self, front: Arc<F>) -> io::Error {
        let pings = self.connection.ping_pong();
        let mut silence = std::pin::pin!(keep_alive(pings.expect("nothing else has taken it")));
        let mut tasks = JoinSet::new();
        loop {
            let (request, respond) = tokio::select! {
                accepted = self.connection.accept() => match accepted {
                    Some(Ok(accepted)) => accepted,
                    Some(Err(error)) => return broken(error),
                    None => return io::ErrorKind::UnexpectedEof.into(),
                },
                Some(_) = tasks.join_next() => continue,
                error = &mut silence => return error,
            };
            tasks.spawn(serve_one(request, respond, front.clone()));
        }
    }
}

async fn serve_one<F: Front>(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    front: Arc<F>,
) {
    let purpose = Purpose::of(&request);
    let body = request.into_body();
    match purpose {
        Some(Purpose::Connection { peer, at }) => {
            let Ok(outgoing) = respond.send_response(Response::new(()), false) else {
                // Whoever connected has left already.
                return;
            };
            let (stream, filling) = Stream::new(outgoing, std::future::ready(Ok(body)));
            tokio::join!(filling, front.connection(stream, peer, at));
        }
        Some(Purpose::Query(asked)) => answer(body, asked, respond, &*front).await,
        Some(Purpose::Ready(_)) | None => respond.send_reset(Reason::REFUSED_STREAM),
    }
}

async fn answer<F: Front>(
    body: RecvStream,
    asked: Asked,
    mut respond: SendResponse<Bytes>,
    front: &F,
) {
    let answered = async {
        let query = wire::message(body).await?;
        let answer = front.answer(query, asked).await.unwrap_or_default();
        let outgoing = respond.send_response(Response::new(()), false);
        let mut outgoing = outgoing.map_err(broken)?;
        outgoing.send_data(answer.into(), true).map_err(broken)
    };
    if let Err(error) = answered.await {
        tracing::trace!(%error, "A query from the relay got no answer");
    }
}
