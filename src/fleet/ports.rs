//! Detects an app that listens on another port than the one that is probed: the commonest reason of
//! a start that never ends.
//!
//! Listening elsewhere is a strong hint and no proof, since ports for metrics or debugging open
//! first in many images. So the finding is shown early, and ends a start early only when a publish
//! waits for the verdict, when the start before showed the same, or when the open port is the only
//! one that the image exposes.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use super::Config;
use crate::engine::{ContainerId, Engine, Listening};

/// Delay of the first check of an app that is not ready, and the interval of further ones.
const FIRST_CHECK: Duration = Duration::from_secs(2);
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Most ports that a message names.
const NAMED: usize = 8;
/// How long a development server on 127.0.0.1 is watched before a start ends for it, where that is
/// shorter than the setting.
const DEV_SERVER_TIMEOUT: Duration = Duration::from_secs(5);
/// The ports of the development servers of frameworks: of Node's, Flask, Vite, Django and uvicorn.
const DEV_PORTS: [u16; 6] = [3000, 4200, 5000, 5173, 8000, 8080];

/// The ports on which an app listens instead of the one that is probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WrongPort {
    wanted: u16,
    listening: Listening,
}

impl WrongPort {
    /// The finding, if the app listens on something but not on the wanted port.
    pub(super) fn of(wanted: u16, listening: Listening) -> Option<Self> {
        let none = listening.open.is_empty() && listening.loopback.is_empty();
        let right = listening.open.contains(&wanted);
        (!none && !right).then_some(Self { wanted, listening })
    }

    /// Whether the only reachable port is the only one that the image exposes.
    fn is_what_is_exposed(&self, exposed: &[u16]) -> bool {
        matches!(exposed, [only] if self.listening.open.iter().eq([only]))
    }

    /// Whether a framework's development server is all that listens: on 127.0.0.1, where its default
    /// port or the wanted one is for nobody else.
    fn is_dev_server(&self) -> bool {
        let Self { wanted, listening } = self;
        let known = |port: &u16| port == wanted || DEV_PORTS.contains(port);
        listening.open.is_empty() && listening.loopback.iter().any(known)
    }

    /// How long it has to last before a start ends for it.
    fn timeout(&self, config: Duration) -> Duration {
        if self.is_dev_server() {
            config.min(DEV_SERVER_TIMEOUT)
        } else {
            config
        }
    }

    /// The remedy to suggest.
    pub(super) fn remedy(&self) -> String {
        let wanted = self.wanted;
        if self.listening.open.is_empty() {
            return format!(
                "make the app listen on all addresses, 0.0.0.0, at $PORT ({wanted}): for Flask `flask run --host 0.0.0.0 --port $PORT`, for uvicorn and others options of the same names"
            );
        }
        match self.listening.open.first() {
            Some(open) if self.listening.open.len() == 1 => format!(
                "make the app listen on 0.0.0.0:$PORT ({wanted}), or set `ports` (`--port`) to {open}"
            ),
            _ => format!(
                "make the app listen on 0.0.0.0:$PORT ({wanted}), or set `ports` (`--port`) to where it does"
            ),
        }
    }
}

impl fmt::Display for WrongPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, listening } = self;
        let list = |ports: &std::collections::BTreeSet<u16>| {
            let named: Vec<_> = ports.iter().take(NAMED).map(u16::to_string).collect();
            let more = if ports.len() > NAMED {
                " and others"
            } else {
                ""
            };
            format!("{}{more}", named.join(", "))
        };
        if listening.loopback.contains(wanted) {
            return write!(
                f,
                "the app listens on 127.0.0.1:{wanted} rather than on 0.0.0.0:{wanted}, and nobody outside its container reaches that"
            );
        }
        if listening.open.is_empty() {
            let ports = list(&listening.loopback);
            return write!(
                f,
                "the app listens on 127.0.0.1:{ports} rather than on 0.0.0.0:$PORT ({wanted}), and nobody outside its container reaches that"
            );
        }
        let ports = list(&listening.open);
        write!(f, "the app listens on {ports}, and not on port {wanted}")
    }
}

/// Why a start may end early for a wrong port.
#[derive(Debug, Clone, Default)]
pub(super) struct Suspicion {
    /// A publish waits for the verdict, and whoever publishes can fix the app.
    pub(super) checked: bool,
    /// The finding of the start before, which failed.
    pub(super) before: Option<WrongPort>,
}

impl Suspicion {
    fn is_certain(&self, wrong: &WrongPort, exposed: &[u16]) -> bool {
        self.checked || self.before.as_ref() == Some(wrong) || wrong.is_what_is_exposed(exposed)
    }
}

/// Checks which ports the app listens on while it is not ready, reports each change, and returns
/// once the wrong port is certain to be why it will not become ready. `exposed` are the ports that
/// its image exposes.
pub(super) async fn watch<E: Engine>(
    engine: &E,
    config: &Config,
    container: &ContainerId,
    port: u16,
    exposed: &[u16],
    suspicion: &Suspicion,
    report: impl Fn(Option<WrongPort>),
) -> WrongPort {
    let mut seen: Option<(WrongPort, Instant)> = None;
    tokio::time::sleep(FIRST_CHECK).await;
    loop {
        // An engine that does not answer now says nothing about the app.
        if let Ok(listening) = engine.listening(container).await {
            let now = listening.and_then(|l| WrongPort::of(port, l));
            if now.as_ref() != seen.as_ref().map(|(wrong, _)| wrong) {
                report(now.clone());
                seen = now.map(|wrong| (wrong, Instant::now()));
            }
        }
        if let Some((wrong, since)) = &seen
            && !config.wrong_port_timeout.is_zero()
            && since.elapsed() >= wrong.timeout(config.wrong_port_timeout)
            && suspicion.is_certain(wrong, exposed)
        {
            return wrong.clone();
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(open: &[u16], loopback: &[u16]) -> Listening {
        Listening {
            open: open.iter().copied().collect(),
            loopback: loopback.iter().copied().collect(),
        }
    }

    #[test]
    fn what_listens_elsewhere_is_named_and_what_listens_right_or_nowhere_is_not() {
        let says = |open: &[u16], loopback: &[u16]| {
            WrongPort::of(80, listening(open, loopback)).map(|w| w.to_string())
        };
        assert_eq!(says(&[], &[]), None);
        assert_eq!(says(&[80, 9090], &[5005]), None);
        let other = says(&[8080], &[5005]).expect("wrong");
        assert_eq!(other, "the app listens on 8080, and not on port 80");
        let loopback = says(&[9090], &[80]).expect("wrong");
        assert!(
            loopback.contains("on 127.0.0.1:80 rather than on 0.0.0.0:80"),
            "{loopback}"
        );
        let flask = says(&[], &[5000]).expect("wrong");
        assert!(
            flask.contains("on 127.0.0.1:5000 rather than on 0.0.0.0:$PORT (80)"),
            "{flask}"
        );
        let many: Vec<u16> = (1000..2000).collect();
        assert!(says(&many, &[]).expect("wrong").len() < 120);
    }

    #[test]
    fn a_development_server_is_told_sooner_than_a_port_for_metrics() {
        let all = Duration::from_secs(30);
        let of = |open: &[u16], loopback: &[u16]| {
            let wrong = WrongPort::of(80, listening(open, loopback)).expect("wrong");
            wrong.timeout(all)
        };
        assert_eq!(of(&[], &[5000]), DEV_SERVER_TIMEOUT);
        assert_eq!(of(&[], &[80]), DEV_SERVER_TIMEOUT);
        // A debugger, and one beside a port for metrics.
        assert_eq!(of(&[], &[9229]), all);
        assert_eq!(of(&[9090], &[5000]), all);
    }

    #[test]
    fn a_wrong_port_is_certain_for_a_check_for_a_second_time_and_for_the_only_exposed_one() {
        let wrong = WrongPort::of(80, listening(&[8080], &[])).expect("wrong");
        let other = WrongPort::of(80, listening(&[9090], &[])).expect("wrong");
        let first = Suspicion::default();
        assert!(!first.is_certain(&wrong, &[]) && !first.is_certain(&wrong, &[8080, 9090]));
        assert!(
            !first.is_certain(&wrong, &[9090]),
            "that may be one for metrics"
        );
        assert!(first.is_certain(&wrong, &[8080]));
        let again = Suspicion {
            before: Some(wrong.clone()),
            ..Suspicion::default()
        };
        assert!(again.is_certain(&wrong, &[]) && !again.is_certain(&other, &[]));
        let checked = Suspicion {
            checked: true,
            ..Suspicion::default()
        };
        assert!(checked.is_certain(&wrong, &[]));
    }
}
