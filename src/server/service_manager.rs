//! What a service manager such as systemd gives the server, and what it hears from it: sockets that
//! are listened on over restarts, readiness, liveness and the stop.

use std::{env, io, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::net::TcpListener;

use crate::vitals::Vitals;

/// The settings that sockets replace, in the order in which sockets without names are taken.
const SETTINGS: [&str; 3] = ["http_addr", "grpc_addr", "https_addr"];
/// Name of the variable with the sockets' names, as systemd writes it from `FileDescriptorName=`.
const NAMES: &str = "LISTEN_FDNAMES";
/// How much longer than its bound a stop may take, for what is written after the last request.
const STOP_RESERVE: Duration = Duration::from_secs(30);

/// Sockets that the service manager listens on and passes to each start, so that connections wait in
/// them while no server runs.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(&'static str, std::net::TcpListener)>);

impl Inherited {
    /// Takes what `LISTEN_FDS` offers to this process, and clears it for children. To be called
    /// before there are threads.
    ///
    /// # Errors
    /// When there are more sockets than listeners, two have one name, or one is no listening TCP
    /// socket.
    pub fn from_env() -> Result<Self> {
        let names = env::var(NAMES).unwrap_or_default();
        let names: Vec<&str> = names.split(':').collect();
        let mut offered = ListenFd::from_env();
        ensure!(
            offered.len() <= SETTINGS.len(),
            "socket activation: {} sockets were passed, but there are {} listeners at most: http, grpc, https; remove a ListenStream= from the socket unit",
            offered.len(),
            SETTINGS.len()
        );
        let mut taken = Self::default();
        for place in 0..offered.len() {
            let setting = setting(names.get(place).copied(), place);
            ensure!(
                taken.0.iter().all(|(s, _)| *s != setting),
                "socket activation: two sockets are for {setting}; give each a FileDescriptorName= of http, grpc or https, or none of them one"
            );
            let socket = offered.take_tcp_listener(place).with_context(|| {
                format!("socket activation: the socket for {setting} is no listening TCP socket; write ListenStream=ADDRESS:PORT in the socket unit")
            })?;
            if let Some(socket) = socket {
                taken.0.push((setting, socket));
            }
        }
        Ok(taken)
    }

    /// The settings that these sockets replace, with their addresses.
    ///
    /// # Errors
    /// The system's.
    pub fn addresses(&self) -> io::Result<Vec<(&'static str, SocketAddr)>> {
        let all = self.0.iter();
        all.map(|(setting, socket)| Ok((*setting, socket.local_addr()?)))
            .collect()
    }

    /// Takes out the socket for a setting.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn take(&mut self, setting: &str) -> io::Result<Option<TcpListener>> {
        let Some(place) = self.0.iter().position(|(s, _)| *s == setting) else {
            return Ok(None);
        };
        let (_, socket) = self.0.swap_remove(place);
        socket.set_nonblocking(true)?;
        // Programs that the server starts are not to hold it.
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        TcpListener::from_std(socket).map(Some)
    }
}

/// The setting for a socket: by its name if that is a listener's, else by its place.
fn setting(name: Option<&str>, place: usize) -> &'static str {
    let named = SETTINGS
        .iter()
        .find(|s| name.is_some_and(|name| s.strip_suffix("_addr") == Some(name)));
    named.unwrap_or(&SETTINGS[place])
}

/// Tells the service manager, if there is one, that the server is ready.
pub(super) fn ready() {
    notify(&[NotifyState::Ready, NotifyState::Status("Serving")]);
}

/// Tells it that the server stops, and that this may take `drain` and what follows.
pub(super) fn stopping(drain: Duration) {
    let most = u32::try_from((drain + STOP_RESERVE).as_micros()).unwrap_or(u32::MAX);
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("Finishing requests"),
        NotifyState::ExtendTimeoutUsec(most),
    ]);
}

/// Tells it again and again that the server is alive, as long as no part has failed, if it asks for
/// that (`WatchdogSec=`). Never ends.
pub(super) async fn keep_alive(vitals: &Vitals) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    loop {
        if vitals.failed().is_none() {
            notify(&[NotifyState::Watchdog]);
        }
        // Half of it is what sd_watchdog_enabled(3) recommends.
        tokio::time::sleep(limit / 2).await;
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "The service manager was not notified");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_for_the_listener_of_its_name_or_else_of_its_place() {
        assert_eq!(setting(Some("grpc"), 0), "grpc_addr");
        assert_eq!(setting(Some("https"), 1), "https_addr");
        // systemd's name where the unit gives none.
        assert_eq!(setting(Some("ignite.socket"), 0), "http_addr");
        assert_eq!(setting(Some("unknown"), 1), "grpc_addr");
        assert_eq!(setting(None, 2), "https_addr");
    }
}
