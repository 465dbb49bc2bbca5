//! Requests on a connection that the app closes at that moment.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

/// The requests that an app has read.
type Count = Arc<AtomicUsize>;

/// An app that answers the first request of each connection, and does `then` with what is left.
async fn app<F>(
    then: impl Fn(TcpStream, Count) -> F + Send + Sync + Clone + 'static,
) -> (Arc<Pool>, Count)
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let pool = Pool::new(
        listener.local_addr().expect("bound"),
        &Connects::new(100, crate::connections::Connections::new(1000, 0)),
        false,
    );
    let seen = Count::default();
    let count = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let (then, count) = (then.clone(), count.clone());
            tokio::spawn(async move {
                if reads_one(&mut tcp, &count).await {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    tcp.write_all(answer).await.expect("sent");
                    then(tcp, count).await;
                }
            });
        }
    });
    (pool, seen)
}

async fn reads_one(tcp: &mut TcpStream, count: &Count) -> bool {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if !tcp.read_buf(&mut head).await.is_ok_and(|n| n > 0) {
            return false;
        }
    }
    count.fetch_add(1, SeqCst);
    true
}

async fn ask(pool: &Arc<Pool>, method: &str, body: Body) -> Result<Bytes, Error> {
    let request = Request::builder()
        .method(method)
        .uri("/x")
        .header("host", "app");
    let answer = pool.send(request.body(body).expect("valid")).await?;
    Ok(answer
        .into_body()
        .collect()
        .await
        .expect("its end")
        .to_bytes())
}

/// An idle connection may be closed in the very moment in which it is reused.
#[tokio::test(flavor = "multi_thread")]
async fn no_get_fails_although_the_app_closes_each_connection_a_moment_after_its_answer() {
    let (pool, _) = app(|tcp, count| async move {
        // Anything from at once to about as long as the next request takes to come.
        for _ in 0..count.load(SeqCst) % 40 {
            tokio::task::yield_now().await;
        }
        drop(tcp);
    })
    .await;
    let client = || async {
        for _ in 0..500 {
            assert_eq!(
                ask(&pool, "GET", Body::Empty).await.expect("an answer"),
                "ok"
            );
        }
    };
    join_all([client(), client(), client(), client()]).await;
}

/// The app reads the second request of a connection, and closes it without an answer.
#[tokio::test]
async fn what_may_be_repeated_is_repeated_once_and_nothing_else_is() {
    let (pool, seen) = app(|mut tcp, count| async move {
        reads_one(&mut tcp, &count).await;
    })
    .await;
    for (method, body, repeated) in [
        ("GET", Body::Empty, true),
        ("HEAD", Body::Empty, true),
        ("OPTIONS", Body::Empty, true),
        ("PUT", Body::Empty, true),
        ("DELETE", Body::Empty, true),
        ("TRACE", Body::Empty, true),
        ("POST", Body::Empty, false),
        ("PATCH", Body::Empty, false),
        ("POST", Body::from(Bytes::from("a")), false),
        ("PUT", Body::from(Bytes::from("a")), false),
    ] {
        pool.drop_idle();
        ask(&pool, "GET", Body::Empty).await.expect("an answer");
        let before = seen.load(SeqCst);
        let outcome = ask(&pool, method, body).await;
        assert_eq!(outcome.is_ok(), repeated, "{method}: {outcome:?}");
        let times = seen.load(SeqCst) - before;
        assert_eq!(times, 1 + usize::from(repeated), "{method}");
    }
}

/// A request is not repeated if its connection was new or an answer has begun.
#[tokio::test]
async fn an_app_that_never_answers_is_asked_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let pool = Pool::new(
        listener.local_addr().expect("bound"),
        &Connects::new(1, crate::connections::Connections::new(10, 0)),
        false,
    );
    let seen = Count::default();
    let count = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            reads_one(&mut tcp, &count).await;
        }
    });
    let outcome = ask(&pool, "GET", Body::Empty).await;
    assert!(matches!(outcome, Err(Error::Broke(_))), "{outcome:?}");
    assert_eq!(seen.load(SeqCst), 1);

    let (pool, seen) = app(|mut tcp, count| async move {
        reads_one(&mut tcp, &count).await;
        tcp.write_all(b"HTT").await.expect("sent");
    })
    .await;
    ask(&pool, "GET", Body::Empty).await.expect("an answer");
    let outcome = ask(&pool, "GET", Body::Empty).await;
    assert!(matches!(outcome, Err(Error::Broke(_))), "{outcome:?}");
    assert_eq!(seen.load(SeqCst), 2);
}

/// An app over HTTP/2 that applies `refuse` to the first request of its first connection, and
/// answers all others.
async fn h2_app(refuse: fn(&mut h2_server::Connection, h2_server::Call)) -> (Arc<Pool>, Count) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let pool = Pool::new(
        listener.local_addr().expect("bound"),
        &Connects::new(100, crate::connections::Connections::new(1000, 0)),
        false,
    );
    let seen = Count::default();
    let count = seen.clone();
    tokio::spawn(async move {
        let mut refuse = Some(refuse);
        while let Ok((tcp, _)) = listener.accept().await {
            let refuse = refuse.take();
            let count = count.clone();
            tokio::spawn(async move {
                let mut refuse = refuse;
                let mut http2 = ::h2::server::handshake(tcp).await.expect("HTTP/2");
                while let Some(Ok((request, mut respond))) = http2.accept().await {
                    count.fetch_add(1, SeqCst);
                    match refuse.take() {
                        Some(refuse) => refuse(&mut http2, (request, respond)),
                        None => {
                            respond
                                .send_response(Response::new(()), true)
                                .expect("sent");
                        }
                    }
                }
            });
        }
    });
    (pool, seen)
}

mod h2_server {
    pub(super) type Connection = ::h2::server::Connection<tokio::net::TcpStream, bytes::Bytes>;
    pub(super) type Call = (
        http::Request<::h2::RecvStream>,
        ::h2::server::SendResponse<bytes::Bytes>,
    );
}

async fn ask_h2(pool: &Arc<Pool>, method: &str, body: &'static str) -> Result<(), Error> {
    let request = Request::builder()
        .method(method)
        .uri("/x")
        .version(Version::HTTP_2);
    let body = Body::from(Bytes::from(body));
    pool.send(request.body(body).expect("valid"))
        .await
        .map(drop)
}

#[tokio::test]
async fn what_an_app_over_http_2_says_it_has_not_looked_at_is_sent_again_whatever_its_method() {
    for body in ["", "a"] {
        let (pool, seen) = h2_app(|_, (_, mut r)| r.send_reset(::h2::Reason::REFUSED_STREAM)).await;
        ask_h2(&pool, "POST", body).await.expect("an answer");
        assert_eq!(seen.load(SeqCst), 2);
        let (pool, seen) = h2_app(|_, (_, mut r)| r.send_reset(::h2::Reason::INTERNAL_ERROR)).await;
        ask_h2(&pool, "GET", body)
            .await
            .expect_err("it was looked at");
        assert_eq!(seen.load(SeqCst), 1);
        // It has looked at all that it has by now.
        let (pool, seen) = h2_app(|http2, _| http2.abrupt_shutdown(::h2::Reason::NO_ERROR)).await;
        ask_h2(&pool, "POST", body)
            .await
            .expect_err("it was looked at");
        assert_eq!(seen.load(SeqCst), 1);
    }
}

/// GOAWAY names the last stream that was processed: here none.
#[tokio::test]
async fn a_request_that_crosses_the_goodbye_of_an_app_is_sent_again() {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const HEADERS: u8 = 1;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let pool = Pool::new(
        listener.local_addr().expect("bound"),
        &Connects::new(1, crate::connections::Connections::new(10, 0)),
        false,
    );
    let app = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.expect("a connection");
        first.write_all(&SETTINGS).await.expect("sent");
        first.read_exact(&mut [0; 24]).await.expect("the preface");
        loop {
            let mut head = [0; 9];
            first.read_exact(&mut head).await.expect("a frame");
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            first
                .read_exact(&mut vec![0; len as usize])
                .await
                .expect("all of it");
            if head[3] == HEADERS {
                break;
            }
        }
        first.write_all(&GOAWAY).await.expect("sent");
        let (second, _) = listener.accept().await.expect("a second connection");
        let mut http2 = ::h2::server::handshake(second).await.expect("HTTP/2");
        while let Some(Ok((_, mut respond))) = http2.accept().await {
            respond
                .send_response(Response::new(()), true)
                .expect("sent");
        }
    });
    ask_h2(&pool, "POST", "").await.expect("an answer");
    app.abort();
}
