//! One app of a server under test, as its owner uses it.

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{HANGS, eventually_ok, http, ignite::Ignite, probe};

/// Longest wait for the engine to start or remove something.
pub(crate) const ENGINE_LIMIT: Duration = HANGS;

/// An app, and a token of its organization. It outlives restarts of the server, which every call
/// is given anew.
#[derive(Clone)]
pub(crate) struct App {
    /// Its organization.
    pub(crate) org: String,
    /// Its name.
    pub(crate) name: String,
    /// The owner's token.
    pub(crate) token: String,
}

impl App {
    /// Creates an app that runs the probe, and does not publish it. `settings` are fields of
    /// CreateApp.
    pub(crate) async fn create(ignite: &Ignite, id: &str, settings: Value) -> Self {
        let (org, name) = id.split_once('/').expect("an id is org/name");
        let app = Self {
            org: org.to_owned(),
            name: name.to_owned(),
            token: ignite.token(org),
        };
        let mut body = Map::from_iter([
            ("name".to_owned(), json!(name)),
            ("code".to_owned(), code(&probe::image().await)),
        ]);
        body.extend(settings.as_object().cloned().unwrap_or_default());
        let path = format!("/v1/ignite/app/{org}");
        let (status, _, answer) = ignite
            .api(Method::POST, &path, &app.token, &Value::Object(body))
            .await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        app
    }

    /// Creates and publishes an app that runs the probe. Whether it can start is not checked: tests
    /// of later events begin at zero, some with an app that never becomes ready.
    pub(crate) async fn deploy(ignite: &Ignite, id: &str, settings: Value) -> Self {
        let app = Self::create(ignite, id, settings).await;
        let (status, answer) = app.publish_unchecked(ignite).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        app
    }

    /// One call of the JSON API about this app; `rest` comes after its name.
    pub(crate) async fn api(
        &self,
        ignite: &Ignite,
        method: Method,
        rest: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let path = format!("/v1/ignite/app/{}/{}{rest}", self.org, self.name);
        let (status, _, answer) = ignite.api(method, &path, &self.token, &body).await;
        (status, answer)
    }

    /// Publishes the draft.
    pub(crate) async fn publish(&self, ignite: &Ignite) -> (StatusCode, Value) {
        self.api(ignite, Method::POST, "/draft/publish", json!({}))
            .await
    }

    /// Publishes the draft, whether it can start or not.
    pub(crate) async fn publish_unchecked(&self, ignite: &Ignite) -> (StatusCode, Value) {
        let unchecked = json!({ "skipReadyCheck": true });
        self.api(ignite, Method::POST, "/draft/publish", unchecked)
            .await
    }

    /// Saves this image as the draft.
    pub(crate) async fn save_image(&self, ignite: &Ignite, image: &str) {
        let draft = json!({ "code": code(image) });
        let (status, answer) = self.api(ignite, Method::POST, "/draft", draft).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    /// Saves this image as the draft and publishes it.
    pub(crate) async fn publish_image(&self, ignite: &Ignite, image: &str) -> (StatusCode, Value) {
        self.save_image(ignite, image).await;
        self.publish(ignite).await
    }

    /// Changes settings.
    pub(crate) async fn update(&self, ignite: &Ignite, settings: Value) {
        let (status, answer) = self.api(ignite, Method::PATCH, "/config", settings).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    /// A request to the app's URL with the owner's token.
    pub(crate) fn request(&self, ignite: &Ignite, method: Method, path: &str) -> http::Request {
        ignite
            .request(method, path)
            .host(&format!("{}-{}.ignite.localhost", self.name, self.org))
            .token(&self.token)
    }

    /// A GET that must be answered, whatever the status.
    pub(crate) async fn get(&self, ignite: &Ignite, path: &str) -> http::Answer {
        self.request(ignite, Method::GET, path)
            .send()
            .await
            .unwrap_or_else(|e| panic!("GET {path}: {e}"))
    }

    /// A GET that must be answered 200.
    pub(crate) async fn get_ok(&self, ignite: &Ignite, path: &str) -> http::Answer {
        let answer = self.get(ignite, path).await;
        if answer.status != StatusCode::OK {
            let status = answer.status;
            panic!("GET {path}: {status} {}", answer.text().await);
        }
        answer
    }

    /// The version that the probe says it is.
    pub(crate) async fn version(&self, ignite: &Ignite) -> String {
        let answer = self.get_ok(ignite, "/").await;
        answer
            .header("x-probe-version")
            .expect("the probe")
            .to_owned()
    }

    /// One number of GetAppState; in JSON of proto3 a field that is missing is 0.
    pub(crate) async fn figure(&self, ignite: &Ignite, field: &str) -> u64 {
        let (status, state) = self.api(ignite, Method::GET, "/state", Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{state}");
        match &state[field] {
            Value::Null => 0,
            value => value
                .as_u64()
                .unwrap_or_else(|| panic!("{field} is no number in {state}")),
        }
    }

    /// Waits until one number of GetAppState is this.
    pub(crate) async fn wait_for(&self, ignite: &Ignite, field: &str, wanted: u64) {
        eventually_ok(ENGINE_LIMIT, || async {
            match self.figure(ignite, field).await {
                now if now == wanted => Ok(()),
                now => Err(format!("{field} is {now}, not {wanted}")),
            }
        })
        .await;
    }
}

/// An image as the API takes it.
fn code(image: &str) -> Value {
    json!({ "image": { "prebuilt": { "imageRef": image } } })
}

/// The process that answered: the same id, the same container.
pub(crate) fn instance(answer: &http::Answer) -> String {
    answer
        .header("x-probe-instance")
        .unwrap_or_else(|| panic!("the probe did not answer: {answer:?}"))
        .to_owned()
}

/// Whether the platform says that this answer waited for a start.
pub(crate) fn is_cold(answer: &http::Answer) -> bool {
    answer.header("x-ignite-cold-start") == Some("true")
}

/// Writes a file in the app's container; the error is the kernel's.
pub(crate) async fn write(
    ignite: &Ignite,
    app: &App,
    path: &str,
    content: &str,
) -> Result<(), String> {
    let request = app.request(ignite, Method::PUT, &format!("/write{path}"));
    let answer = request.body(content.to_owned()).send().await;
    let answer = answer.expect("an answer");
    match answer.status {
        StatusCode::OK => Ok(()),
        _ => Err(answer.text().await),
    }
}

/// Reads a file in the app's container.
pub(crate) async fn read(ignite: &Ignite, app: &App, path: &str) -> Result<String, String> {
    let answer = app.get(ignite, &format!("/read{path}")).await;
    match answer.status {
        StatusCode::OK => Ok(answer.text().await),
        _ => Err(answer.text().await),
    }
}
