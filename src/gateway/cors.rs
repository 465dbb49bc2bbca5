//! CORS: which web pages may call an app's URL from a browser.
//!
//! The platform answers preflights, so they start no replica and need no token, and lets pages read
//! answers without an `Access-Control-Allow-Origin`. One that the app sets stays. `model/reach.rs`
//! decides which origins are allowed.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use crate::model::{
    Revision,
    reach::{self, Cors},
};

/// Seconds for which a browser may cache a preflight: short, so that a change of settings shows
/// soon.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// Which of the platform's headers a page may read, besides the app's own simple ones.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("x-ignite-execution-id, x-ignite-error, retry-after");

/// What one answer has to say; `None` for requests that no web page made.
pub(super) struct Answer {
    origin: HeaderValue,
    cors: Cors,
}

impl Answer {
    /// What the app's settings say to the origin of a request, if it has one.
    pub(super) fn of(revision: &Revision, headers: &HeaderMap) -> Option<Self> {
        let origin = headers.get(header::ORIGIN)?;
        let cors = reach::cors(
            &revision.cors_origins,
            revision.allow_unauthenticated,
            origin.as_bytes(),
        );
        (cors != Cors::Silent).then(|| Self {
            origin: origin.clone(),
            cors,
        })
    }

    /// The answer to a preflight; `None` for any other request.
    pub(super) fn preflight<B: Default>(
        &self,
        method: &Method,
        headers: &HeaderMap,
    ) -> Option<Response<B>> {
        let asked = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        if method != Method::OPTIONS {
            return None;
        }
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let out = response.headers_mut();
        out.insert(
            header::VARY,
            HeaderValue::from_static(
                "origin, access-control-request-method, access-control-request-headers",
            ),
        );
        match self.cors {
            Cors::Any => out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY),
            Cors::This => out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone()),
            // Without the header the browser refuses, and tells its developer why.
            Cors::Silent | Cors::Other => return Some(response),
        };
        out.insert(header::ACCESS_CONTROL_ALLOW_METHODS, asked.clone());
        if let Some(names) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            // Named one by one, since `*` does not stand for Authorization.
            out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        out.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        Some(response)
    }

    /// Lets the page read an answer, unless the app has said itself who may.
    pub(super) fn put(&self, out: &mut HeaderMap) {
        let allow: HeaderName = header::ACCESS_CONTROL_ALLOW_ORIGIN;
        if out.contains_key(&allow) {
            return;
        }
        match self.cors {
            Cors::Any => {
                out.insert(allow, ANY);
            }
            Cors::This => {
                out.insert(allow, self.origin.clone());
                out.append(header::VARY, HeaderValue::from_static("origin"));
            }
            Cors::Other => {
                out.append(header::VARY, HeaderValue::from_static("origin"));
                return;
            }
            Cors::Silent => return,
        }
        if !out.contains_key(header::ACCESS_CONTROL_EXPOSE_HEADERS) {
            out.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}
