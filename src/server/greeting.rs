//! What a server says on stdout once it is ready: one line of JSON for programs that wait for it,
//! or on a terminal, for whoever started it, where it is, what is not protected, and what to do next.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::Path,
};

use crate::{api::compute::PublicUrls, config::Config, model::Trust};

/// What there is to say of a server.
pub(super) struct Greeting<'a> {
    pub(super) http: SocketAddr,
    pub(super) grpc: SocketAddr,
    pub(super) https: Option<SocketAddr>,
    /// Where metrics are shown without a token.
    pub(super) metrics: Option<SocketAddr>,
    pub(super) data_dir: &'a Path,
    /// The container engine's address.
    pub(super) engine: &'a str,
    pub(super) urls: &'a PublicUrls,
    pub(super) config: &'a Config,
}

/// Says it; a closed stdout is no reason not to serve.
pub(super) fn print(greeting: &Greeting<'_>) {
    let mut out = io::stdout().lock();
    let text = if out.is_terminal() {
        for_people(greeting)
    } else {
        for_programs(greeting)
    };
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn for_programs(greeting: &Greeting<'_>) -> String {
    let mut line = serde_json::json!({
        "event": "ready",
        "http": greeting.http.to_string(),
        "grpc": greeting.grpc.to_string(),
        "pid": std::process::id(),
        "data_dir": greeting.data_dir,
    });
    if let Some(https) = greeting.https {
        line["https"] = https.to_string().into();
    }
    if let Some(metrics) = greeting.metrics {
        line["metrics"] = metrics.to_string().into();
    }
    line.to_string()
}

fn for_people(greeting: &Greeting<'_>) -> String {
    let Greeting { urls, config, .. } = greeting;
    let port = urls.port.map(|port| format!(":{port}")).unwrap_or_default();
    let mut text = format!("\nignite {} serves\n\n", env!("CARGO_PKG_VERSION"));
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<14} {value}");
    };
    let scheme = if greeting.https.is_some() {
        "https"
    } else {
        "http"
    };
    let web = greeting.https.unwrap_or(greeting.http);
    row("API, by HTTP", &format!("{scheme}://{web}"));
    row("API, by gRPC", &format!("{scheme}://{}", greeting.grpc));
    row(
        "apps",
        &format!("{}://APP-ORG.{}{port}", urls.scheme, urls.base_domain),
    );
    row("", &format!("{scheme}://{web}/_app/ORG/APP/"));
    if let Some(metrics) = greeting.metrics {
        row(
            "metrics",
            &format!("http://{metrics}/metrics, without a token"),
        );
    }
    row("data", &greeting.data_dir.display().to_string());
    row("engine", greeting.engine);
    for unprotected in unprotected(greeting.config, &[Some(greeting.http), greeting.https]) {
        let _ = write!(text, "\n  Not protected: {unprotected}\n");
    }
    if config.ephemeral {
        text.push_str(
            "\n  Nothing is kept: apps and their files go when this ends (--ephemeral).\n",
        );
    }
    text.push_str(
        "\n  Next, in another terminal: ignite app deploy hello --code DIR\n  Ctrl-C stops the server.\n",
    );
    text
}

/// What whoever starts a server should know that others can do.
fn unprotected(config: &Config, listeners: &[Option<SocketAddr>]) -> Vec<String> {
    let mut all = Vec::new();
    if config.trust == Trust::Sandbox {
        all.push(
            "apps may connect to this machine and its network\n  (trust = sandbox); for the code of others start with --trust team or tenants.".to_owned(),
        );
    }
    let beyond = listeners
        .iter()
        .flatten()
        .any(|addr| !addr.ip().is_loopback());
    if beyond && !config.tls.is_on() {
        all.push(
            "tokens and requests are readable on the network;\n  see --tls, or put a proxy with TLS in front.".to_owned(),
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_where_it_is_and_what_is_open_and_programs_a_line() {
        let config = Config {
            ephemeral: true,
            ..Config::defaults("/data".into())
        };
        let urls = PublicUrls {
            scheme: "http".to_owned(),
            base_domain: "ignite.localhost".to_owned(),
            port: Some(8080),
        };
        let greeting = Greeting {
            http: "0.0.0.0:8080".parse().expect("an address"),
            grpc: "127.0.0.1:50051".parse().expect("an address"),
            https: None,
            metrics: None,
            data_dir: Path::new("/data"),
            engine: "unix:///e.sock",
            urls: &urls,
            config: &config,
        };
        let text = for_people(&greeting);
        for part in [
            "http://0.0.0.0:8080\n",
            "http://127.0.0.1:50051\n",
            "http://APP-ORG.ignite.localhost:8080\n",
            "/_app/ORG/APP/",
            "/data\n",
            "unix:///e.sock\n",
            "trust = sandbox",
            "--tls",
            "--ephemeral",
            "ignite app deploy",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        let line: serde_json::Value = serde_json::from_str(&for_programs(&greeting)).expect("JSON");
        assert_eq!(
            (&line["event"], &line["http"]),
            (&"ready".into(), &"0.0.0.0:8080".into())
        );
    }
}
