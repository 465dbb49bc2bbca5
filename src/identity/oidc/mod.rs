//! Issuers elsewhere: their keys, fetched by discovery and kept up to date in the background.
//!
//! An issuer that is down changes nothing: its keys stay as they were, also over a restart, since a
//! copy is in the data directory. A token with a key that is not known has the keys fetched, at most
//! every few seconds however many such tokens come, and its request waits for that.

mod fetch;
mod fetches;
mod jwks;
mod keep;

pub(super) use fetch::Client;
pub(super) use fetches::Fetches;
pub(super) use keep::{keep, remembered};
