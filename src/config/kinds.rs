//! Settings with a fixed set of values, and URLs.

/// How containers are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Directly where their addresses are routable from here, else through published ports.
    Auto,
    /// At their own addresses.
    Direct,
    /// Through ports published on this host.
    Published,
}

/// What freezes containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freezer {
    /// The cgroup where that is safe, else the engine.
    Auto,
    /// The engine.
    Engine,
    /// The cgroup.
    Cgroup,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Plain,
    /// One JSON object per line.
    Json,
}

/// Scheme and port of public URLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    /// `http` or `https`.
    pub scheme: String,
    /// The port to show; `None` shows none, for the scheme's default.
    pub port: Option<u16>,
}

/// The URL of a package index, over HTTP or HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexUrl(pub(super) String);
