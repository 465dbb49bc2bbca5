//! How the value of a handler becomes a response.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::{Body, Json, Response};

/// What can be an answer: a `serde_json::Value` (`json!`) or [`Json`] as JSON, text, bytes, a status
/// or headers with any of these, a whole [`Response`].
///
/// This is the trait of the prelude. That of axum, which the crate has at its root, cannot be given
/// to values of another crate; a handler's return type may have either.
pub trait IntoResponse {
    /// The answer.
    fn into_response(self) -> Response;
}

macro_rules! as_axum_has_it {
    ($($type:ty),*) => {$(
        impl IntoResponse for $type {
            fn into_response(self) -> Response {
                crate::IntoResponse::into_response(self)
            }
        }
    )*};
}

as_axum_has_it!(
    (),
    &'static str,
    String,
    Box<str>,
    Cow<'static, str>,
    &'static [u8],
    Vec<u8>,
    Bytes,
    Body,
    Response,
    StatusCode,
    HeaderMap
);

impl<const N: usize> IntoResponse for [u8; N] {
    fn into_response(self) -> Response {
        crate::IntoResponse::into_response(self)
    }
}

impl<const N: usize> IntoResponse for &'static [u8; N] {
    fn into_response(self) -> Response {
        crate::IntoResponse::into_response(self)
    }
}

impl IntoResponse for Value {
    fn into_response(self) -> Response {
        crate::IntoResponse::into_response(Json(self))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        crate::IntoResponse::into_response(self)
    }
}

impl<T: IntoResponse, E: IntoResponse> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(value) => value.into_response(),
            Err(error) => error.into_response(),
        }
    }
}

impl<T: IntoResponse> IntoResponse for (StatusCode, T) {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        *response.status_mut() = self.0;
        response
    }
}

impl<T: IntoResponse> IntoResponse for (HeaderMap, T) {
    fn into_response(self) -> Response {
        crate::IntoResponse::into_response((self.0, self.1.into_response()))
    }
}

impl<K, V, T, const N: usize> IntoResponse for ([(K, V); N], T)
where
    K: TryInto<HeaderName>,
    K::Error: std::fmt::Display,
    V: TryInto<HeaderValue>,
    V::Error: std::fmt::Display,
    T: IntoResponse,
{
    fn into_response(self) -> Response {
        crate::IntoResponse::into_response((self.0, self.1.into_response()))
    }
}

impl<H, T> IntoResponse for (StatusCode, H, T)
where
    (H, T): IntoResponse,
{
    fn into_response(self) -> Response {
        (self.0, (self.1, self.2)).into_response()
    }
}

/// Chooses how a value becomes the answer by the traits that its type has, the prelude's first:
/// method calls look at a type before they look at references to it.
pub trait ByPrelude {
    #[doc(hidden)]
    fn __ignite_answer(&self) -> Prelude {
        Prelude
    }
}

impl<T: IntoResponse> ByPrelude for T {}

/// As [`ByPrelude`], for types with axum's trait alone.
pub trait ByAxum {
    #[doc(hidden)]
    fn __ignite_answer(&self) -> Axum {
        Axum
    }
}

impl<T: crate::IntoResponse> ByAxum for &T {}

/// The way through the prelude's trait.
#[derive(Debug)]
pub struct Prelude;

impl Prelude {
    /// The answer.
    pub fn of(self, value: impl IntoResponse) -> Response {
        value.into_response()
    }
}

/// The way through axum's trait.
#[derive(Debug)]
pub struct Axum;

impl Axum {
    /// The answer.
    pub fn of(self, value: impl crate::IntoResponse) -> Response {
        value.into_response()
    }
}
