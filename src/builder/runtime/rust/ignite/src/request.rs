//! A call as a handler reads it.

use std::{fmt, marker::PhantomData, ops::Deref, sync::OnceLock};

use bytes::Bytes;
use serde::{
    de::{value, DeserializeOwned, Error as _, Visitor},
    forward_to_deserialize_any, Deserializer,
};
use serde_json::Value;

use crate::{Error, Result};

/// Marks a [`Request`] whose `body()` is that of the crate `http`: the bytes.
#[derive(Debug)]
pub enum Plain {}

/// Marks a [`Request`] whose `body::<T>()` reads JSON.
#[derive(Debug)]
pub enum Typed {}

/// A call: method, URI, headers, and the whole body as [`Bytes`], as [`http::Request`] has them.
pub struct Request<B = Plain> {
    inner: http::Request<Bytes>,
    /// The body parsed as JSON, or the error, from the first use of a field on.
    json: OnceLock<std::result::Result<Value, String>>,
    /// The decoded query, from the first use of a parameter on.
    query: OnceLock<Vec<(String, String)>>,
    body: PhantomData<fn() -> B>,
}

impl<B> Request<B> {
    pub(crate) fn new(inner: http::Request<Bytes>) -> Self {
        Self {
            inner,
            json: OnceLock::new(),
            query: OnceLock::new(),
            body: PhantomData,
        }
    }

    /// A field of the body, which is a JSON object. An `Option` is `None` where there is no such
    /// field.
    ///
    /// # Errors
    /// When the body is not a JSON object, or the field is missing or not of this type.
    pub fn field<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let parse = || serde_json::from_slice(self.raw()).map_err(|e| e.to_string());
        let fields = match self.json.get_or_init(parse) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err(Error::msg("the body is not a JSON object")),
            Err(why) => return Err(Error::msg(format!("the body is not JSON: {why}"))),
        };
        let wrong = |why: &dyn fmt::Display| Error::msg(format!("the body's field {name:?} {why}"));
        match fields.get(name) {
            Some(value) => T::deserialize(value).map_err(|e| wrong(&format!("does not fit: {e}"))),
            None => T::deserialize(Missing).map_err(|e| wrong(&e)),
        }
    }

    /// Parses the body as JSON.
    ///
    /// # Errors
    /// When the body is not JSON, or not of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(serde_json::from_slice(self.raw())?)
    }

    /// The body as it came.
    pub fn raw(&self) -> &[u8] {
        self.inner.body()
    }

    /// The path of the URL, percent-encoded as it came.
    pub fn path(&self) -> &str {
        self.inner.uri().path()
    }

    /// The first parameter of this name in the query, decoded.
    pub fn query_param(&self, name: &str) -> Option<&str> {
        let decode = || {
            let query = self.inner.uri().query().unwrap_or_default();
            form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect()
        };
        let all = self.query.get_or_init(decode);
        all.iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| &**value)
    }

    /// The first header of this name, in any case; `None` also for one that is not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// The request as the `http` crate has it.
    pub fn into_inner(self) -> http::Request<Bytes> {
        self.inner
    }
}

impl Request<Typed> {
    /// Parses the body as JSON.
    ///
    /// # Errors
    /// When the body is not JSON, or not of this type.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T> {
        self.json()
    }

    /// The method, such as `POST`.
    pub fn method(&self) -> &str {
        self.inner.method().as_str()
    }
}

impl<B> Deref for Request<B> {
    type Target = http::Request<Bytes>;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl<B> fmt::Debug for Request<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Request").field(&self.inner).finish()
    }
}

/// Deserializes an absent field: an option becomes `None` and any other type an error, as for a field
/// of a struct.
struct Missing;

impl<'de> Deserializer<'de> for Missing {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> std::result::Result<V::Value, value::Error> {
        Err(value::Error::custom("is missing"))
    }

    fn deserialize_option<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, value::Error> {
        visitor.visit_none()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
