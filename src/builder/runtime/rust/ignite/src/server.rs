//! The HTTP server around a handler.
//!
//! Each call is a task, so a call that panics ends alone. On SIGTERM nothing new is accepted, and
//! the process ends when every call has its response.

use std::{
    convert::Infallible,
    env, fmt,
    future::{poll_fn, Future},
    net::SocketAddr,
    panic::resume_unwind,
    pin::Pin,
    process::ExitCode,
    sync::Arc,
    task::{ready, Context as Wakes, Poll},
    time::Duration,
};

use http::{header::CONTENT_TYPE, Method, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use tokio::{
    net::TcpListener,
    signal::unix::{signal, SignalKind},
    sync::{mpsc, Notify},
    task::{spawn_blocking, JoinError, JoinHandle},
};

use crate::{stream, Context, IntoResponse, Request, Response};

const HEALTH_PATH: &str = "/healthz";
/// Pause after a failed accept, for example when no descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Pieces of an answer that wait for the caller to take them.
const PIECES: usize = 1;

/// What a call comes to: the answer, or why there is none.
type Outcome = Result<Response, String>;

/// Serves a handler on `$PORT` until SIGTERM: what `#[ignite::main]` does, for a `main` that does
/// more.
pub fn run<B, H, F, T, E>(handler: H) -> ExitCode
where
    B: 'static,
    H: Fn(Request<B>, Context) -> F + Send + Sync + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: IntoResponse,
    E: fmt::Display,
{
    serve(move |request, context| {
        let call = handler(request, context);
        async move {
            match call.await {
                Ok(answer) => Ok(answer.into_response()),
                Err(error) => Err(text(error)),
            }
        }
    })
}

/// What a handler's error says.
pub fn text(error: impl fmt::Display) -> String {
    format!("{error:#}")
}

/// Runs a call of a handler that is not async on a thread where it may wait.
pub async fn blocking(call: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
    let ended = spawn_blocking(call).await;
    ended.unwrap_or_else(|e| match e.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(e) => Err(e.to_string()),
    })
}

/// Serves calls on `$PORT` until SIGTERM.
pub fn serve<B, H, F>(handler: H) -> ExitCode
where
    B: 'static,
    H: Fn(Request<B>, Context) -> F + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    let served = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("no threads: {e}"))
        .and_then(|runtime| runtime.block_on(listen(Arc::new(handler))));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("ignite: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn listen<B, H, F>(handler: Arc<H>) -> Result<(), String>
where
    B: 'static,
    H: Fn(Request<B>, Context) -> F + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    let port = setting("PORT", 80)?;
    let port = u16::try_from(port).map_err(|_| format!("PORT={port} is no port"))?;
    let most = setting("IGNITE_MAX_PAYLOAD_BYTES", 64 * 1024 * 1024)?;
    let address = SocketAddr::from(([0, 0, 0, 0], port));
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| format!("cannot listen on port {port}: {e}"))?;
    let ended = Arc::new(Notify::new());
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut told = signal(kind).map_err(|e| format!("signals cannot be waited for: {e}"))?;
        let ended = ended.clone();
        tokio::spawn(async move {
            told.recv().await;
            ended.notify_one();
        });
    }
    let graceful = Arc::new(GracefulShutdown::new());
    let watcher = graceful.clone();
    let accepting = tokio::spawn(async move {
        loop {
            let Ok((socket, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let _ = socket.set_nodelay(true);
            let handler = handler.clone();
            let service = service_fn(move |request| {
                let handler = handler.clone();
                async move { Ok::<_, Infallible>(answer(handler, request, most).await) }
            });
            let connection = http1::Builder::new()
                // Connections without a request stay open: the gateway keeps them for the next one.
                .header_read_timeout(None)
                .serve_connection(TokioIo::new(socket), service);
            let connection = watcher.watch(connection);
            // A connection that ends early is the client's affair.
            tokio::spawn(async move { drop(connection.await) });
        }
    });
    ended.notified().await;
    accepting.abort();
    // The listener and its share of the connections are dropped with it.
    let _ = accepting.await;
    if let Ok(graceful) = Arc::try_unwrap(graceful) {
        graceful.shutdown().await;
    }
    Ok(())
}

/// A whole number of at least 1 from the environment.
fn setting(name: &str, otherwise: usize) -> Result<usize, String> {
    match env::var(name) {
        Ok(text) if !text.is_empty() => match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!(
                "{name}={text:?} is not a whole number of at least 1"
            )),
        },
        _ => Ok(otherwise),
    }
}

async fn answer<B, H, F>(handler: Arc<H>, request: http::Request<Incoming>, most: usize) -> Response
where
    B: 'static,
    H: Fn(Request<B>, Context) -> F + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    if is_health(&request) {
        return "ok\n".into_response();
    }
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, most).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let text = format!("the payload has more than {most} bytes");
            return failed(StatusCode::PAYLOAD_TOO_LARGE, &text);
        }
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let (open, pieces) = mpsc::channel(PIECES);
    let context = Context::of_request(&head.headers, open.downgrade());
    let execution = context.execution_id.clone();
    let request = Request::new(http::Request::from_parts(head, body));
    // A separate task: it continues when the caller disconnects, and contains its own panic.
    let call = tokio::spawn(async move {
        let outcome = handler(request, context).await;
        // Until here the handler may have its answer streamed.
        drop(open);
        outcome
    });
    stream::answer(Running { call, execution }, pieces).await
}

/// A call under way.
pub(crate) struct Running {
    call: JoinHandle<Outcome>,
    execution: String,
}

impl Running {
    /// What the handler returns, as the whole answer.
    pub(crate) async fn whole(mut self) -> Response {
        let outcome = poll_fn(|cx| self.poll_outcome(cx)).await;
        outcome.unwrap_or_else(|why| failed(StatusCode::INTERNAL_SERVER_ERROR, &why))
    }

    /// How the call ends; a failure is in the log then.
    pub(crate) fn poll_outcome(&mut self, cx: &mut Wakes<'_>) -> Poll<Outcome> {
        let ended = ready!(Pin::new(&mut self.call).poll(cx));
        let outcome = ended.unwrap_or_else(|e| Err(broke(e)));
        if let Err(why) = &outcome {
            let execution = match &*self.execution {
                "" => "none",
                execution => execution,
            };
            eprintln!("ignite: execution {execution} failed: {why}");
        }
        Poll::Ready(outcome)
    }
}

/// Why a call has no outcome.
fn broke(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => format!("the handler panicked: {}", panic_text(&*panic)),
        Err(error) => error.to_string(),
    }
}

/// Whether the platform asks for the container's health: at the usual path, or at one that the app
/// set, where only the platform's own questions name no execution.
fn is_health(request: &http::Request<Incoming>) -> bool {
    let is_get = [Method::GET, Method::HEAD].contains(request.method());
    let agent = request.headers().get("user-agent");
    let agent = agent
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    is_get
        && (request.uri().path() == HEALTH_PATH
            || !request.headers().contains_key("x-ignite-execution-id")
                && agent.starts_with("ignite-health"))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// The response to a failure.
pub(crate) fn failed(status: StatusCode, error: &str) -> Response {
    let body = serde_json::json!({ "error": error }).to_string();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}
