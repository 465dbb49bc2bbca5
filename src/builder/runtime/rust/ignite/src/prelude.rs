//! `use ignite::prelude::*`: the names of the platform's contract.

pub use serde::{Deserialize, Serialize};

pub use crate::{
    answer::IntoResponse, json, Body, Bytes, Context, Env, Error, HeaderMap, Json, Method,
    Response, Result, StatusCode, Stream, TempStore, Value,
};

/// A call; `body::<T>()` reads its body as JSON.
pub type Request = crate::Request<crate::Typed>;
