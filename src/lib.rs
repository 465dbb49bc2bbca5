//! `ignite`: a serverless platform on one machine with a container engine.
//!
//! A request arrives by app URL, `Invoke` or JSON; the gateway finds its app, `fleet` hands out a
//! replica or holds the request while one starts, and the response streams back. The parts, each of
//! which may use only those before it:
//! `model` ← `store`, `engine` ← `builder`, `fleet` ← `gateway` ← `executor` ← `apps` ← `api` ←
//! `server` ← `cli`.
//! The commands of `cli`, except `serve` and those on the data directory, use the generated client.
//! `tests/architecture.rs` has the whole order and checks it.

pub mod api;
pub mod apps;
pub mod atomic_file;
pub mod audit;
mod backoff;
pub mod builder;
mod child;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connections;
pub mod engine;
pub mod executor;
pub mod fair_limiter;
pub mod fleet;
pub mod gateway;
pub mod gc;
pub mod identity;
pub mod logs;
pub mod metrics;
pub mod model;
pub mod parse_pool;
pub mod quota;
pub mod relay;
pub mod resolver;
pub mod server;
pub mod store;
pub mod test_runs;
pub mod tls;
pub mod trace;
pub mod tree_size;
pub mod vitals;
