//! What callers hand in and get back: submissions, requests and results.

use bytes::Bytes;

use super::spool::StoredBody;
use crate::model::{AppId, ExecutionId, OrgName};

/// The HTTP request of an execution.
#[derive(Debug, Default)]
pub struct StoredRequest {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The headers that the caller gave.
    pub headers: Vec<(String, Bytes)>,
    /// The body.
    pub body: StoredBody,
}

impl StoredRequest {
    /// About how many bytes it takes in the store.
    pub(super) fn size(&self) -> u64 {
        let headers = self.headers.iter().map(|(n, v)| n.len() + v.len());
        let head = headers.sum::<usize>() + self.method.len() + self.target.len();
        self.body.len() + head as u64
    }
}

/// What a caller submits.
#[derive(Debug)]
pub struct Submission {
    /// The app.
    pub app: AppId,
    /// The caller's organizations.
    pub submitters: Vec<OrgName>,
    /// Makes a repeated submit return the first id.
    pub idempotency_key: Option<String>,
    /// A digest that differs between two different requests with one idempotency key.
    pub digest: Vec<u8>,
    /// The request.
    pub request: StoredRequest,
}

/// An accepted submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The execution's id.
    pub id: ExecutionId,
    /// It was accepted before, under the same idempotency key.
    pub known: bool,
}

/// A request read back, with its body whole.
pub struct LoadedRequest {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The headers.
    pub headers: Vec<(String, Bytes)>,
    /// The body.
    pub body: Bytes,
}

/// The answer of an app, as it is stored.
#[derive(Debug, Default)]
pub struct StoredResult {
    /// Its headers.
    pub headers: Vec<(String, Bytes)>,
    /// Its body.
    pub body: StoredBody,
}

impl StoredResult {
    /// A copy, when none of it is in a file.
    pub fn in_memory(&self) -> Option<Self> {
        let StoredBody::Inline(body) = &self.body else {
            return None;
        };
        Some(Self {
            headers: self.headers.clone(),
            body: StoredBody::Inline(body.clone()),
        })
    }
}
