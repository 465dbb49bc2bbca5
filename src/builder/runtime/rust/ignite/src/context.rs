//! The origin of a call, and the state that belongs to it.

use std::{
    collections::HashMap,
    env,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::HeaderMap;
use serde::{de::DeserializeOwned, Serialize};
use serde_json::Value;
use tokio::sync::mpsc::{self, WeakSender};

use crate::{
    stream::{Sent, Stream},
    Result,
};

/// The origin of a call. Clones share the call's state.
#[derive(Debug, Clone)]
pub struct Context {
    /// The execution.
    pub execution_id: String,
    /// The app, as org/name.
    pub function_id: String,
    /// The organization.
    pub organization_id: String,
    call: Arc<Call>,
}

/// The state of a call.
#[derive(Debug)]
struct Call {
    /// Weak: how long the answer stays open is for the handler and its streams to say.
    answer: WeakSender<Sent>,
    stored: Mutex<HashMap<String, Value>>,
}

impl Context {
    /// A context for tests of a handler. Its stream is closed.
    pub fn new(execution_id: &str, function_id: &str, organization_id: &str) -> Self {
        let (answer, _) = mpsc::channel(1);
        Self::of_call(
            [execution_id, function_id, organization_id],
            answer.downgrade(),
        )
    }

    /// The context of a request whose answer is streamed through `answer`.
    pub(crate) fn of_request(headers: &HeaderMap, answer: WeakSender<Sent>) -> Self {
        let names = ["execution-id", "function-id", "organization-id"];
        let header = |name| headers.get(format!("x-ignite-{name}"))?.to_str().ok();
        Self::of_call(names.map(|name| header(name).unwrap_or_default()), answer)
    }

    fn of_call([execution, function, organization]: [&str; 3], answer: WeakSender<Sent>) -> Self {
        Self {
            execution_id: execution.to_owned(),
            function_id: function.to_owned(),
            organization_id: organization.to_owned(),
            call: Arc::new(Call {
                answer,
                stored: Mutex::default(),
            }),
        }
    }

    /// The execution.
    pub fn execution_id(&self) -> &str {
        &self.execution_id
    }

    /// The app, as org/name.
    pub fn function_id(&self) -> &str {
        &self.function_id
    }

    /// The organization.
    pub fn organization_id(&self) -> &str {
        &self.organization_id
    }

    /// The app's environment.
    pub fn env(&self) -> Env {
        Env(())
    }

    /// A place for values of this call, in memory: all clones of the context see the same, other
    /// calls see none of it, and it goes with the call.
    pub fn temp_store(&self) -> TempStore {
        TempStore(self.call.clone())
    }

    /// The answer, to be sent piece by piece while the handler runs; see [`Stream`].
    pub fn stream(&self) -> Stream {
        Stream::new(self.call.answer.upgrade())
    }
}

impl PartialEq for Context {
    fn eq(&self, other: &Self) -> bool {
        let names =
            |c: &Self| [&c.execution_id, &c.function_id, &c.organization_id].map(String::clone);
        names(self) == names(other)
    }
}

impl Eq for Context {}

/// The environment variables of the app: its `env`, and those of the platform.
#[derive(Debug, Clone, Copy)]
pub struct Env(());

impl Env {
    /// A variable; `None` when it is not set, or not text.
    pub fn get(&self, name: &str) -> Option<String> {
        // Names that no variable can have.
        if name.is_empty() || name.contains(['=', '\0']) {
            return None;
        }
        env::var(name).ok()
    }

    /// All variables that are text.
    pub fn iter(&self) -> impl Iterator<Item = (String, String)> {
        env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
    }
}

/// Values of one call by their keys; see [`Context::temp_store`]. Clones are the same store.
#[derive(Debug, Clone)]
pub struct TempStore(Arc<Call>);

impl TempStore {
    /// Keeps a value, in place of what the key had.
    ///
    /// # Errors
    /// When it cannot be JSON.
    pub fn set(&self, key: impl Into<String>, value: impl Serialize) -> Result<()> {
        let value = serde_json::to_value(value)?;
        self.all().insert(key.into(), value);
        Ok(())
    }

    /// A copy of a value; `None` when the key has none.
    ///
    /// # Errors
    /// When it is of another type.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let value = self.all().get(key).cloned();
        Ok(value.map(serde_json::from_value).transpose()?)
    }

    /// Drops a value; whether there was one.
    pub fn remove(&self, key: &str) -> bool {
        self.all().remove(key).is_some()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Value>> {
        // Each change is one call of the map, so a panic leaves nothing half done.
        self.0.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
