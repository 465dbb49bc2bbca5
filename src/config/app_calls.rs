//! Settings of apps that call apps: the listeners and the name server on the instance's bridge.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

/// Settings of calls between apps. In the file they stand beside all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppCalls {
    /// `app_calls`, `IGNITE_APP_CALLS`: let apps call apps by their URLs, with a name server and
    /// listeners on the instance's bridge. Default `true`.
    pub enabled: bool,
    /// `app_calls_via`, `IGNITE_APP_CALLS_VIA`: who listens on the bridge: `bridge` for `ignite`
    /// itself, `relay` for a container that the engine runs on its host, `auto` for a relay where
    /// `ignite` may not or cannot listen. Default `auto`.
    pub via: Via,
    /// `app_calls_http_port`, `IGNITE_APP_CALLS_HTTP_PORT`: port of app URLs on the bridge. Default
    /// 80.
    pub http_port: u16,
    /// `app_calls_fallback_port`, `IGNITE_APP_CALLS_FALLBACK_PORT`: port of app URLs on the bridge
    /// where `app_calls_http_port` is taken. Default 8480.
    pub fallback_port: u16,
    /// `app_calls_https_port`, `IGNITE_APP_CALLS_HTTPS_PORT`: port of app URLs over TLS on the
    /// bridge, once there are certificates. Default 443.
    pub https_port: u16,
    /// `app_calls_connections`, `IGNITE_APP_CALLS_CONNECTIONS`: most connections of all apps to
    /// each of these ports, a quarter of them from one replica. Default 1024.
    pub connections: usize,
    /// `max_hops`, `IGNITE_MAX_HOPS`: most apps that a request may pass through, one calling the
    /// next; more end with 508. Default 16.
    pub max_hops: u32,
    /// `app_calls_dns_servers`, `IGNITE_APP_CALLS_DNS_SERVERS`: name servers for apps' queries for
    /// all other names, separated by commas, each with an optional port. Default: those of
    /// `/etc/resolv.conf`.
    pub dns_servers: Option<DnsServers>,
    /// `app_calls_dns_queries`, `IGNITE_APP_CALLS_DNS_QUERIES`: most queries that wait for such a
    /// server at a time, a quarter of them from one replica. Default 256.
    pub dns_queries: usize,
    /// `app_calls_dns_connections`, `IGNITE_APP_CALLS_DNS_CONNECTIONS`: most connections to the name
    /// server by TCP, a quarter of them from one replica. Default 64.
    pub dns_connections: usize,
    /// `app_calls_dns_timeout`, `IGNITE_APP_CALLS_DNS_TIMEOUT`: longest wait for one such server.
    /// Default 2 s.
    pub dns_timeout: Duration,
}

/// Who listens on the bridge for calls of apps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// This process; a relay where it may not or cannot.
    Auto,
    /// This process.
    Bridge,
    /// A relay.
    Relay,
}

/// Addresses of name servers; a port that is not given is 53.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsServers(pub Vec<SocketAddr>);

/// The port of name servers.
const DNS: u16 = 53;

impl Default for AppCalls {
    fn default() -> Self {
        Self {
            enabled: true,
            via: Via::Auto,
            http_port: 80,
            fallback_port: 8480,
            https_port: 443,
            // Each app keeps some to each app that it calls.
            connections: 1024,
            // Deeper chains than any design has, and few enough that a loop ends soon.
            max_hops: 16,
            dns_servers: None,
            // Each takes a descriptor for some milliseconds.
            dns_queries: 256,
            // Only long answers come by TCP.
            dns_connections: 64,
            // The resolvers of engines and C libraries give up after four or five seconds.
            dns_timeout: Duration::from_secs(2),
        }
    }
}

impl AppCalls {
    /// What is wrong with these settings alone.
    pub(super) fn problems(&self) -> Vec<&'static str> {
        let ports = [self.http_port, self.fallback_port, self.https_port];
        [
            (
                !ports.contains(&0),
                "app_calls_http_port, app_calls_fallback_port and app_calls_https_port must be from 1 to 65535, since containers have to know the ports",
            ),
            (
                self.https_port != self.http_port && self.https_port != self.fallback_port,
                "app_calls_https_port must differ from app_calls_http_port and app_calls_fallback_port",
            ),
            (
                self.connections > 0 && self.dns_queries > 0 && self.dns_connections > 0,
                "app_calls_connections, app_calls_dns_queries and app_calls_dns_connections must be at least 1",
            ),
            (self.max_hops > 0, "max_hops must be at least 1"),
            (
                !self.dns_timeout.is_zero(),
                "app_calls_dns_timeout must be more than 0",
            ),
        ]
        .into_iter()
        .filter_map(|(holds, otherwise)| (!holds).then_some(otherwise))
        .collect()
    }
}

impl FromStr for DnsServers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let server = |text: &str| {
            let with_port = text.parse().ok();
            with_port.or_else(|| Some(SocketAddr::new(text.parse().ok()?, DNS)))
        };
        let servers: Option<Vec<_>> = text.split(',').map(str::trim).map(server).collect();
        servers.map(Self).ok_or_else(|| {
            "write addresses with commas between, such as 10.0.0.2,10.0.0.3:5353".to_owned()
        })
    }
}

impl fmt::Display for DnsServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_have_a_port_or_get_the_usual_one() {
        let servers: DnsServers = "10.0.0.2, 10.0.0.3:5353,fd00::1".parse().expect("valid");
        assert_eq!(
            servers.to_string(),
            "10.0.0.2:53,10.0.0.3:5353,[fd00::1]:53"
        );
        assert_eq!(servers.to_string().parse(), Ok(servers));
        for wrong in ["", "ns.example.com", "10.0.0.2,,", "10.0.0.2:x"] {
            assert!(wrong.parse::<DnsServers>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_differ_and_no_bound_is_nothing() {
        assert_eq!(AppCalls::default().problems(), [""; 0]);
        let wrong = AppCalls {
            http_port: 0,
            https_port: 8480,
            max_hops: 0,
            dns_queries: 0,
            dns_timeout: Duration::ZERO,
            ..AppCalls::default()
        };
        assert_eq!(wrong.problems().len(), 5);
    }
}
