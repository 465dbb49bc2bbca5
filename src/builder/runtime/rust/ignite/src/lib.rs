//! What a handler is written with: [`Request`], [`Context`], and the types of its response.
//!
//! ```ignore
//! use ignite::{Context, IntoResponse, Request, Result};
//!
//! #[ignite::main]
//! async fn handler(req: Request, ctx: Context) -> Result<impl IntoResponse> {
//!     Ok(format!("{} bytes for {}", req.body().len(), ctx.function_id))
//! }
//! ```
//!
//! A handler returns axum's [`IntoResponse`]: text, bytes, [`Json`], a status with any of these, a
//! whole [`Response`]. An error or a panic becomes a 500 with `error`.

use std::{fmt, ops::Deref};

pub use axum_core::{
    body::Body,
    response::{IntoResponse, Response},
};
pub use bytes::Bytes;
pub use http::{self, HeaderMap, Method, StatusCode, Uri};
pub use ignite_macros::main;
pub use serde_json::{self, json, Value};

mod server;

pub use server::run;

/// A call: method, URI, headers, and the whole body as [`Bytes`], as [`http::Request`] has them.
#[derive(Debug)]
pub struct Request(http::Request<Bytes>);

impl Request {
    /// Parses the body as JSON.
    ///
    /// # Errors
    /// When the body is not JSON, or not of this type.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        Ok(serde_json::from_slice(self.body())?)
    }

    /// The request as the `http` crate has it.
    pub fn into_inner(self) -> http::Request<Bytes> {
        self.0
    }
}

impl Deref for Request {
    type Target = http::Request<Bytes>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// The origin of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The execution.
    pub execution_id: String,
    /// The app, as org/name.
    pub function_id: String,
    /// The organization.
    pub organization_id: String,
}

/// A value as JSON.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(http::header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => server::failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
}

/// What a handler returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error, for `?`. Any other type that implements `Display` works too.
#[derive(Debug)]
pub struct Error(Box<dyn std::error::Error + Send + Sync>);

impl Error {
    /// An error with this message.
    pub fn msg(text: impl fmt::Display) -> Self {
        Self(text.to_string().into())
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
