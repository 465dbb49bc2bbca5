//! What callers submit and receive: submissions, requests and results.

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
    /// Its approximate size in the store, in bytes.
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
    /// Makes a repeated submission return the first id.
    pub idempotency_key: Option<String>,
    /// A digest that distinguishes requests submitted with the same idempotency key.
    pub digest: Vec<u8>,
    /// The request.
    pub request: StoredRequest,
}

/// An accepted submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The execution's id.
    pub id: ExecutionId,
    /// Whether it was accepted before, under the same idempotency key.
    pub known: bool,
}

/// A request that was read back, with its whole body.
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

/// The response of an app, as it is stored.
#[derive(Debug, Default)]
pub struct StoredResult {
    /// Its headers.
    pub headers: Vec<(String, Bytes)>,
    /// Its body.
    pub body: StoredBody,
}

impl StoredResult {
    /// A copy, unless its body is in a file.
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
