//! A stand-in for a private registry: as much of the distribution API as an engine needs to push
//! and pull, on loopback, where engines ask for no TLS. It demands a user and a password.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, Response, StatusCode, header},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bollard::{
    auth::DockerCredentials,
    query_parameters::{PushImageOptions, RemoveImageOptions, TagImageOptions},
};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpListener, sync::Mutex, task::AbortHandle};

use super::engine::docker;

const USER: &str = "robot";

/// The registry; it ends when this is dropped.
pub(crate) struct Registry {
    addr: SocketAddr,
    content: Arc<Mutex<Content>>,
    task: AbortHandle,
}

#[derive(Default)]
struct Content {
    password: String,
    blobs: HashMap<String, Bytes>,
    /// Manifests by name and tag or digest, with their media types.
    manifests: HashMap<String, (String, Bytes)>,
    uploads: Vec<Vec<u8>>,
}

impl Registry {
    /// A registry that accepts this password.
    pub(crate) async fn start(password: &str) -> Self {
        let content = Arc::new(Mutex::new(Content {
            password: password.to_owned(),
            ..Content::default()
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let app = axum::Router::new()
            .fallback(serve)
            .with_state(content.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await }).abort_handle();
        Self {
            addr,
            content,
            task,
        }
    }

    /// Its address as a secret has it.
    pub(crate) fn address(&self) -> String {
        self.addr.to_string()
    }

    /// The value of a secret that the registry accepts.
    pub(crate) fn secret(&self, password: &str) -> serde_json::Value {
        serde_json::json!({ "registry_secret": {
            "username": USER, "password": password, "server_address": self.address(),
        }})
    }

    /// Accepts only this password from now on.
    pub(crate) async fn set_password(&self, password: &str) {
        self.content.lock().await.password = password.to_owned();
    }

    /// Moves a local image here, so that it is no longer on the machine. Returns its reference.
    pub(crate) async fn take(&self, image: &str) -> String {
        let docker = docker().await;
        let repo = format!("{}/team/app", self.addr);
        let tag = TagImageOptions {
            repo: Some(repo.clone()),
            tag: Some("1".to_owned()),
        };
        docker.tag_image(image, Some(tag)).await.expect("a tag");
        let credentials = DockerCredentials {
            username: Some(USER.to_owned()),
            password: Some(self.content.lock().await.password.clone()),
            serveraddress: Some(self.address()),
            ..DockerCredentials::default()
        };
        let options = PushImageOptions {
            tag: Some("1".to_owned()),
            ..PushImageOptions::default()
        };
        let push = docker.push_image(&repo, Some(options), Some(credentials));
        let steps: Vec<_> = push.try_collect().await.expect("it is pushed");
        drop(steps);
        let reference = format!("{repo}:1");
        forget(&reference).await;
        forget(image).await;
        reference
    }
}

/// Removes an image from the machine.
pub(crate) async fn forget(image: &str) {
    let force = RemoveImageOptions {
        force: true,
        ..RemoveImageOptions::default()
    };
    let removed = docker().await.remove_image(image, Some(force), None).await;
    removed.unwrap_or_else(|e| panic!("{image} stays: {e}"));
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(State(content): State<Arc<Mutex<Content>>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a whole body");
    let mut content = content.lock().await;
    let allowed = format!(
        "Basic {}",
        STANDARD.encode(format!("{USER}:{}", content.password))
    );
    let given = parts.headers.get(header::AUTHORIZATION);
    if given.and_then(|v| v.to_str().ok()) != Some(allowed.as_str()) {
        let response = answer(StatusCode::UNAUTHORIZED)
            .header(header::WWW_AUTHENTICATE, "Basic realm=\"stand-in\"")
            .header(header::CONTENT_TYPE, "application/json");
        let why = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        return response.body(why.into()).expect("valid");
    }
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default();
    let digest_of = |bytes: &[u8]| format!("sha256:{:x}", Sha256::digest(bytes));
    let (name, kind, last) = split(&path);
    let response = match (&parts.method, kind) {
        (_, "") => answer(StatusCode::OK).body(Body::empty()),
        (&Method::POST, "blobs/uploads") => {
            content.uploads.push(Vec::new());
            let at = content.uploads.len() - 1;
            answer(StatusCode::ACCEPTED)
                .header(header::LOCATION, format!("/v2/{name}/blobs/uploads/{at}"))
                .header("docker-upload-uuid", at.to_string())
                .header(header::RANGE, "0-0")
                .body(Body::empty())
        }
        (method @ (&Method::PATCH | &Method::PUT), "blobs/uploads") => {
            let at: usize = last.parse().expect("an upload's number");
            content.uploads[at].extend_from_slice(&body);
            if method == Method::PUT {
                let blob = Bytes::from(std::mem::take(&mut content.uploads[at]));
                let digest = digest_of(&blob);
                assert!(query.contains(&digest.replace(':', "%3A")), "{query}");
                content.blobs.insert(digest, blob);
                return created();
            }
            let end = content.uploads[at].len().saturating_sub(1);
            answer(StatusCode::ACCEPTED)
                .header(header::LOCATION, path.as_str())
                .header("docker-upload-uuid", last)
                .header(header::RANGE, format!("0-{end}"))
                .body(Body::empty())
        }
        (&Method::PUT, "manifests") => {
            let media = parts.headers[header::CONTENT_TYPE].to_str().expect("text");
            let manifest = (media.to_owned(), body.clone());
            let digest = digest_of(&body);
            for reference in [last, &digest] {
                let key = format!("{name}@{reference}");
                content.manifests.insert(key, manifest.clone());
            }
            answer(StatusCode::CREATED)
                .header("docker-content-digest", digest)
                .body(Body::empty())
        }
        (method, kind) => {
            let found = match kind {
                "manifests" => content.manifests.get(&format!("{name}@{last}")).cloned(),
                _ => (content.blobs.get(last))
                    .map(|blob| ("application/octet-stream".to_owned(), blob.clone())),
            };
            match found {
                Some((media, bytes)) => answer(StatusCode::OK)
                    .header(header::CONTENT_TYPE, media)
                    .header("docker-content-digest", digest_of(&bytes))
                    .header(header::CONTENT_LENGTH, bytes.len())
                    .body(if method == Method::HEAD {
                        Body::empty()
                    } else {
                        bytes.into()
                    }),
                None => answer(StatusCode::NOT_FOUND).body(Body::empty()),
            }
        }
    };
    response.expect("valid")
}

fn answer(status: StatusCode) -> axum::http::response::Builder {
    Response::builder()
        .status(status)
        .header("docker-distribution-api-version", "registry/2.0")
}

fn created() -> Response<Body> {
    let response = answer(StatusCode::CREATED).body(Body::empty());
    response.expect("valid")
}

/// The repository's name, the kind of resource, and the last part of the path.
fn split(path: &str) -> (&str, &str, &str) {
    let path = path.strip_prefix("/v2/").unwrap_or_default();
    for kind in ["blobs/uploads", "blobs", "manifests"] {
        if let Some((name, last)) = path.split_once(&format!("/{kind}/")) {
            return (name, kind, last);
        }
    }
    ("", "", "")
}
