//! The URL of an app that this machine's programs can open.

use http::Uri;
use tokio::net::lookup_host;

use crate::model::AppId;

/// The URL, or where its host does not resolve, as `*.localhost` does not on every system, the one
/// by path.
pub(super) async fn reachable(url: &str, app: &AppId) -> String {
    let Ok(uri) = url.parse::<Uri>() else {
        return url.to_owned();
    };
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return url.to_owned();
    };
    // Other names are the business of whoever chose the server's domain.
    if !host.ends_with(".localhost") || resolves(host).await {
        return url.to_owned();
    }
    let port = uri
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{scheme}://127.0.0.1{port}/_app/{}/{}/", app.org, app.name)
}

async fn resolves(host: &str) -> bool {
    let found = lookup_host((host, 0)).await;
    found.is_ok_and(|mut found| found.any(|addr| addr.ip().is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_that_resolves_nowhere_is_replaced_by_a_path() {
        let app = "acme/a".parse().expect("valid");
        let url = reachable("http://a-acme.localhost:8080", &app).await;
        let by_path = "http://127.0.0.1:8080/_app/acme/a/";
        assert!(
            url == by_path || url == "http://a-acme.localhost:8080",
            "{url}"
        );
        assert_eq!(
            url == by_path,
            !resolves("a-acme.localhost").await,
            "as this machine resolves it"
        );
        let elsewhere = "https://a-acme.apps.example.com";
        assert_eq!(reachable(elsewhere, &app).await, elsewhere);
    }
}
