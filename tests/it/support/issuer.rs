//! An identity provider elsewhere: discovery and a key set over HTTP, with keys that tests change.

use std::{
    collections::HashMap,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::tls::Pair;

/// The provider; it is gone when dropped.
pub(crate) struct Issuer {
    shared: Arc<Shared>,
    addr: SocketAddr,
    task: AbortHandle,
}

struct Shared {
    url: String,
    /// What the key set shows, by id.
    shown: Mutex<HashMap<String, Value>>,
    fetches: AtomicUsize,
}

/// A key of the provider.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) kid: String,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Key {
    pub(crate) fn es256(kid: &str) -> Self {
        Self::of(
            kid,
            Algorithm::ES256,
            &["ecparam", "-name", "prime256v1", "-genkey", "-noout"],
        )
    }

    pub(crate) fn rs256(kid: &str) -> Self {
        Self::of(kid, Algorithm::RS256, &["genrsa", "2048"])
    }

    pub(crate) fn eddsa(kid: &str) -> Self {
        Self::of(kid, Algorithm::EdDSA, &["genpkey", "-algorithm", "ed25519"])
    }

    /// A key that openssl makes.
    fn of(kid: &str, algorithm: Algorithm, args: &[&str]) -> Self {
        let made = Command::new("openssl")
            .args(args)
            .output()
            .expect("openssl runs");
        assert!(made.status.success(), "{made:?}");
        let mut pem = made.stdout;
        let key = match algorithm {
            Algorithm::ES256 => {
                // Into the form that the library reads.
                let mut convert = Command::new("openssl");
                convert.args(["pkcs8", "-topk8", "-nocrypt"]);
                pem = piped(convert, &pem);
                EncodingKey::from_ec_pem(&pem)
            }
            Algorithm::EdDSA => EncodingKey::from_ed_pem(&pem),
            _ => EncodingKey::from_rsa_pem(&pem),
        };
        Self {
            kid: kid.to_owned(),
            algorithm,
            key: key.expect("a key"),
        }
    }

    /// The same key under another name.
    pub(crate) fn named(&self, kid: &str) -> Self {
        Self {
            kid: kid.to_owned(),
            ..self.clone()
        }
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a key");
        jwk.common.key_id = Some(self.kid.clone());
        serde_json::to_value(jwk).expect("JSON")
    }
}

fn piped(mut command: Command, input: &[u8]) -> Vec<u8> {
    use std::{io::Write as _, process::Stdio};
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input).expect("written");
    drop(stdin);
    child.wait_with_output().expect("it ends").stdout
}

impl Issuer {
    /// Starts the provider, at a free port or at one that it had before.
    pub(crate) async fn start(addr: Option<SocketAddr>) -> Self {
        let addr = addr.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = TcpListener::bind(addr).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (shared, router) = Self::made(format!("http://{addr}"));
        let serving = async move { axum::serve(listener, router).await };
        let task = tokio::spawn(serving).abort_handle();
        Self { shared, addr, task }
    }

    /// Starts a provider that speaks TLS alone, as `localhost` with this certificate.
    pub(crate) async fn over_tls(pair: &Pair) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (shared, router) = Self::made(format!("https://localhost:{}", addr.port()));
        let listener = TlsListener {
            tcp: listener,
            acceptor: pair.acceptor(),
        };
        let serving = async move { axum::serve(listener, router).await };
        let task = tokio::spawn(serving).abort_handle();
        Self { shared, addr, task }
    }

    fn made(origin: String) -> (Arc<Shared>, Router) {
        let shared = Arc::new(Shared {
            url: format!("{origin}/realms/theirs"),
            shown: Mutex::default(),
            fetches: AtomicUsize::new(0),
        });
        let router = Router::new()
            .route(
                "/realms/theirs/.well-known/openid-configuration",
                get(discovery),
            )
            .route("/keys", get(keys))
            .with_state(shared.clone());
        (shared, router)
    }

    pub(crate) fn url(&self) -> &str {
        &self.shared.url
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How often the key set was fetched.
    pub(crate) fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }

    pub(crate) fn show(&self, key: &Key) {
        let mut shown = self
            .shared
            .shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shown.insert(key.kid.clone(), key.jwk());
    }

    pub(crate) fn hide(&self, key: &Key) {
        let mut shown = self
            .shared
            .shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shown.remove(&key.kid);
    }

    /// A token with good claims and these over them; null takes a claim away.
    pub(crate) fn token(&self, key: &Key, more: Value) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        let mut claims = json!({
            "iss": self.url(),
            "sub": "somebody",
            "aud": ["account", "ignite"],
            "iat": now.as_secs(),
            "exp": now.as_secs() + 600,
            "scope": "openid profile",
            "organization": { "acme": { "id": "1" } },
        });
        for (name, value) in more.as_object().expect("an object") {
            if value.is_null() {
                claims.as_object_mut().expect("an object").remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        let mut header = Header::new(key.algorithm);
        header.kid = Some(key.kid.clone());
        jsonwebtoken::encode(&header, &claims, &key.key).expect("signed")
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connections whose handshake has succeeded; others are dropped.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            if let Ok((tcp, addr)) = self.tcp.accept().await
                && let Ok(tls) = self.acceptor.accept(tcp).await
            {
                return (tls, addr);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

async fn discovery(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let base = shared.url.trim_end_matches("/realms/theirs");
    Json(json!({ "issuer": shared.url, "jwks_uri": format!("{base}/keys") }))
}

async fn keys(State(shared): State<Arc<Shared>>) -> (StatusCode, Json<Value>) {
    shared.fetches.fetch_add(1, Ordering::SeqCst);
    let shown = shared.shown.lock().unwrap_or_else(PoisonError::into_inner);
    let keys: Vec<_> = shown.values().cloned().collect();
    (StatusCode::OK, Json(json!({ "keys": keys })))
}
