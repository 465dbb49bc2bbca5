//! Proxies for builds, and for containers where the operator enables it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::CliConfig;

/// The variables in upper case; each is set in lower case too, since programs read one or the
/// other.
const VARIABLES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// The proxies for one engine, or for all.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Entry {
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    ftp_proxy: Option<String>,
    no_proxy: Option<String>,
    all_proxy: Option<String>,
}

/// What a container's own loopback address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Reaches {
    /// The engine's host: it has the host's network.
    Host,
    /// Only the container itself.
    Itself,
}

/// The proxies of this process; the lower-case name takes precedence, as in most programs.
pub(super) fn of_process(set: impl Fn(&str) -> Option<String>) -> BTreeMap<&'static str, String> {
    let value = |name: &str| set(&name.to_lowercase()).or_else(|| set(name));
    VARIABLES
        .iter()
        .filter_map(|name| Some((*name, value(name)?)))
        .collect()
}

impl CliConfig {
    /// Variables for a container that an engine at this address runs: those of `config.json`, else
    /// those of this process, as far as the container can reach them.
    pub(in super::super) async fn proxies(
        &self,
        engine: &str,
        reaches: Reaches,
    ) -> BTreeMap<String, String> {
        let mut configured = self.read_aside().await.proxies.unwrap_or_default();
        let found = configured
            .remove(engine)
            .or_else(|| configured.remove("default"));
        match found {
            Some(entry) => both_cases([
                ("HTTP_PROXY", entry.http_proxy),
                ("HTTPS_PROXY", entry.https_proxy),
                ("FTP_PROXY", entry.ftp_proxy),
                ("NO_PROXY", entry.no_proxy),
                ("ALL_PROXY", entry.all_proxy),
            ]),
            None => both_cases(self.own_proxies.iter().map(|(name, value)| {
                let is_reached = reaches == Reaches::Host || !is_loopback(value);
                (*name, is_reached.then(|| value.clone()))
            })),
        }
    }
}

fn both_cases(
    all: impl IntoIterator<Item = (&'static str, Option<String>)>,
) -> BTreeMap<String, String> {
    let set = all
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|v| !v.is_empty())?)));
    set.flat_map(|(name, value)| {
        [
            (name.to_owned(), value.clone()),
            (name.to_lowercase(), value),
        ]
    })
    .collect()
}

/// Whether a proxy listens on the loopback address of this machine.
fn is_loopback(proxy: &str) -> bool {
    let rest = proxy.split_once("://").map_or(proxy, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::tests::config, *};

    #[tokio::test]
    async fn an_engines_own_proxies_come_first_then_the_default_then_those_of_the_process() {
        let (_folder, mut config) = config(&json!({ "proxies": {
            "default": { "httpProxy": "http://d:1", "noProxy": "*.test", "ftpProxy": "" },
            "tcp://lab:2375": { "httpsProxy": "http://l:1" },
        }}));
        config.own_proxies = of_process(|name| (name == "http_proxy").then(|| "http://p:1".into()));
        let found = config.proxies("unix:///x", Reaches::Itself).await;
        let expected = [
            ("HTTP_PROXY", "http://d:1"),
            ("NO_PROXY", "*.test"),
            ("http_proxy", "http://d:1"),
            ("no_proxy", "*.test"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, BTreeMap::from(expected));
        let found = config.proxies("tcp://lab:2375", Reaches::Itself).await;
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            ["HTTPS_PROXY", "https_proxy"]
        );
        config.folder = None;
        let found = config.proxies("unix:///x", Reaches::Itself).await;
        assert_eq!(found["HTTP_PROXY"], "http://p:1");
    }

    #[tokio::test]
    async fn a_proxy_on_this_machine_alone_is_for_containers_in_its_network() {
        let config = CliConfig {
            own_proxies: [
                ("HTTP_PROXY", "http://127.0.0.1:3128".to_owned()),
                ("HTTPS_PROXY", "http://u:p@[::1]:3128/".to_owned()),
                ("ALL_PROXY", "localhost:1080".to_owned()),
                ("NO_PROXY", "a.test".to_owned()),
            ]
            .into(),
            ..CliConfig::default()
        };
        let found = config.proxies("unix:///x", Reaches::Itself).await;
        assert_eq!(found.keys().collect::<Vec<_>>(), ["NO_PROXY", "no_proxy"]);
        let found = config.proxies("unix:///x", Reaches::Host).await;
        assert_eq!(found.len(), 8);
    }
}
