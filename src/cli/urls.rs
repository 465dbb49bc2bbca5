//! URLs of apps that work on this machine.
//!
//! An app has its own host. Names below `localhost` resolve in browsers and in curl, but not in
//! programs that ask a C library without a name service for them, and a base domain of one's own
//! needs an entry in the DNS. Where a host does not resolve, the app answers all the same below the
//! path `/_app/ORG/APP/` of the server's own address.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::mpsc,
    thread,
    time::Duration,
};

use http::Uri;

use super::{Context, failure::note};
use crate::{api::proto::v1, gateway::request::BY_PATH, model::AppId};

/// Longest time for a name to resolve.
const LIMIT: Duration = Duration::from_secs(1);

/// Where the host of a URL leads to from here; `None` when it does not resolve.
pub(super) fn address(url: &str) -> Option<SocketAddr> {
    let uri: Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let port = port(&uri);
    let (send, receive) = mpsc::channel();
    // The system's resolver has no limit of its own.
    thread::spawn(move || {
        let found = (host.as_str(), port).to_socket_addrs();
        let _ = send.send(found.ok().and_then(|mut all| all.next()));
    });
    receive.recv_timeout(LIMIT).ok().flatten()
}

/// The port that a URL leads to.
pub(super) fn port(uri: &Uri) -> u16 {
    let of_scheme = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    uri.port_u16().unwrap_or(of_scheme)
}

/// The base of all URLs by path, without a slash at its end: that of a server on this machine, else
/// the API's host with the port of the app's `public` URL.
fn base(context: &Context, public: &str) -> Option<String> {
    if let Some((_, serving)) = context.near() {
        return Some(serving.http);
    }
    let public: Uri = public.parse().ok()?;
    let host = context.endpoint().host()?;
    let port = public
        .port_u16()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    Some(format!("{}://{host}{port}", public.scheme_str()?))
}

/// The URL of an app by path; `public` is one of its own.
pub(super) fn by_path(context: &Context, app: &AppId, public: &str) -> Option<String> {
    let base = base(context, public)?;
    Some(format!("{base}{BY_PATH}{}/{}/", app.org, app.name))
}

/// The URL by path, if the app's own host does not resolve here.
pub(super) fn instead(context: &Context, app: &AppId, public: &str) -> Option<String> {
    match address(public) {
        Some(_) => None,
        None => by_path(context, app, public),
    }
}

/// Says below a list of apps where they answer, if their hosts do not resolve here.
pub(super) fn note_list(context: &Context, apps: &[v1::AppMeta]) {
    let public = apps.iter().find_map(|app| app.public_urls.first());
    if context.format.is_structured() {
        return;
    }
    if let Some(public) = public
        && address(public).is_none()
        && let Some(base) = base(context, public)
    {
        note(&format!(
            "the hosts of apps do not resolve on this machine; here they answer at {base}{BY_PATH}ORG/APP/"
        ));
    }
}

/// Says where an app answers, if its own host does not resolve here.
pub(super) fn note_instead(context: &Context, app: &AppId, public: &str) {
    if context.format.is_structured() {
        return;
    }
    if let Some(url) = instead(context, app, public) {
        note(&format!(
            "its host does not resolve on this machine; here it answers at {url}"
        ));
    }
}
