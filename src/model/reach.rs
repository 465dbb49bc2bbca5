//! Which HTTP version an app is called with, and from which web pages.

/// The HTTP version that is used to call an app's containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1, except HTTP/2 for gRPC calls.
    #[default]
    Auto,
    /// HTTP/1.1 always.
    Http1,
    /// HTTP/2 without TLS, except HTTP/1.1 for upgrades such as WebSocket.
    H2c,
}

/// The entry of `cors_origins` for every origin.
pub const CORS_ANY: &str = "*";
/// The entry of `cors_origins` that must stand alone and leaves CORS to the app.
pub const CORS_NONE: &str = "none";
/// The most entries of `cors_origins`.
pub const MAX_CORS_ORIGINS: usize = 64;

/// What the platform tells browsers about an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cors {
    /// Nothing; the app may answer itself.
    Silent,
    /// Pages of any origin may call the app.
    Any,
    /// Pages of this origin may call the app.
    This,
    /// Pages of some other origins may call the app, but not of this one.
    Other,
}

/// The meaning of `cors_origins` for one origin. Without entries, pages of every origin may call an
/// app that requires no token, and none may call any other app.
pub fn cors(origins: &[String], open: bool, origin: &[u8]) -> Cors {
    match origins {
        [] if open => Cors::Any,
        [] => Cors::Silent,
        [only] if only == CORS_NONE => Cors::Silent,
        all if all.iter().any(|o| o == CORS_ANY) => Cors::Any,
        all if all
            .iter()
            .any(|o| o.as_bytes().eq_ignore_ascii_case(origin)) =>
        {
            Cors::This
        }
        _ => Cors::Other,
    }
}

/// Checks one entry of `cors_origins`.
///
/// # Errors
/// What is wrong with it.
pub fn check_origin(origin: &str) -> Result<(), String> {
    if origin == CORS_ANY || origin == CORS_NONE {
        return Ok(());
    }
    let example = "write it as browsers send it, such as https://app.example.com, or * or none";
    let Some((scheme, host)) = origin.split_once("://") else {
        return Err(format!("{origin:?} is no origin; {example}"));
    };
    let plain = |s: &str, more: &str| {
        !s.is_empty()
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || more.as_bytes().contains(&b))
    };
    if plain(scheme, "+-.") && plain(host, "-._:[]") {
        Ok(())
    } else {
        Err(format!(
            "{origin:?} is no origin, which is a scheme, a host and perhaps a port; {example}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_open_apps_and_named_origins_are_for_web_pages() {
        let list = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let of = |all: &[&str], open| cors(&list(all), open, b"https://a.example");
        assert_eq!(of(&[], true), Cors::Any);
        assert_eq!(of(&[], false), Cors::Silent);
        assert_eq!(of(&["none"], true), Cors::Silent);
        assert_eq!(of(&["https://b.example"], true), Cors::Other);
        assert_eq!(
            of(&["https://b.example", "HTTPS://A.example"], false),
            Cors::This
        );
        assert_eq!(of(&["*"], false), Cors::Any);
    }

    #[test]
    fn an_origin_has_a_scheme_and_a_host_and_nothing_after_it() {
        for good in [
            "*",
            "none",
            "https://a.example:8443",
            "http://[::1]:3000",
            "app+x://y",
        ] {
            check_origin(good).expect(good);
        }
        for bad in [
            "",
            "a.example",
            "https://",
            "https://a/",
            "https://a b",
            "null",
        ] {
            check_origin(bad).expect_err(bad);
        }
    }
}
