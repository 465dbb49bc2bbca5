//! What a handler is written with: [`Request`], [`Context`], and the types of its response.
//!
//! ```ignore
//! use ignite::prelude::*;
//!
//! #[ignite::main]
//! async fn handler(req: Request, ctx: Context) -> Result<impl IntoResponse> {
//!     let name: String = req.field("name").unwrap_or_else(|_| "world".to_owned());
//!     Ok(json!({ "hello": name, "execution_id": ctx.execution_id() }))
//! }
//! ```
//!
//! An error or a panic becomes a 500 with `error`.
//!
//! The [`prelude`] has the names of the platform's contract. Two names differ at the root of the
//! crate, so that handlers written before the prelude compile: there `Request::body()` is the bytes,
//! as in the crate `http`, and [`IntoResponse`] is axum's. A handler may use either.

use std::fmt;

pub use axum_core::{
    body::Body,
    response::{IntoResponse, Response},
};
pub use bytes::Bytes;
pub use http::{self, HeaderMap, Method, StatusCode, Uri};
pub use ignite_macros::main;
pub use serde;
pub use serde_json::{self, json, Value};

mod answer;
mod context;
pub mod prelude;
mod request;
mod server;
mod stream;

pub use context::{Context, Env, TempStore};
pub use request::{Plain, Request, Typed};
pub use server::run;
pub use stream::{Piece, Stream};

/// The functions and traits that the code written by `#[ignite::main]` uses.
#[doc(hidden)]
pub mod __private {
    pub use crate::{
        answer::{ByAxum, ByPrelude},
        server::{blocking, serve, text},
    };
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
