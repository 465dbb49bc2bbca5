//! `ignite curl`: curl for an app, with the caller's token.
//!
//! The token reaches curl through a pipe, as a configuration file (`-K`), so that it stands in no
//! list of processes, and stdin stays free for `-d @-`. Curl then takes the place of this process:
//! its exit code and its signals are the command's.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::process::CommandExt as _,
    },
    process::Command,
};

use anyhow::anyhow;
use http::Uri;
use rustix::io::{FdFlags, fcntl_setfd};

use super::{Context, Error, context, id::AppArg, open::public_url, urls};

/// Which app, and what curl gets.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The app, as org:app or app.
    id: AppArg,
    /// A path of the app, if it begins with a slash, and curl's own arguments; global options of
    /// ignite stand before the app.
    #[arg(
        value_name = "PATH|ARG",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    rest: Vec<OsString>,
}

/// Runs curl in place of this process.
pub(super) async fn run(context: &Context, args: Args) -> Result<(), Error> {
    let app = context.app(args.id)?;
    let session = context.connect(&app.org).await?;
    let meta = session.app(&app).await?.app.unwrap_or_default();
    let public = public_url(&app, &meta.public_urls)?;
    let (token, _) = context.token(&app.org).await?;

    let mut rest = args.rest.into_iter().peekable();
    let is_path = |word: &OsString| word.to_string_lossy().starts_with('/');
    let path = rest.next_if(is_path).unwrap_or_else(|| "/".into());
    let rest: Vec<OsString> = rest.collect();

    let mut command = Command::new("curl");
    let mut url = OsString::from(public);
    if urls::address(public).is_none() {
        match resolve(context, public) {
            // The app sees its own host, as it does from everywhere else.
            Some(entry) => drop(command.args(["--resolve", &entry])),
            None => {
                let by_path = urls::by_path(context, &app, public).unwrap_or_default();
                url = by_path.trim_end_matches('/').into();
            }
        }
    }
    url.push(path);
    if let [authority] = context.authorities() {
        command.arg("--cacert").arg(authority);
    }
    // Curl opens it by its number; it is not inherited unless it is said to be.
    let _open = match token.filter(|_| !has_authorization(&rest)) {
        Some(token) => {
            let secret = pipe_with(&header(&token)?)?;
            fcntl_setfd(secret.as_fd(), FdFlags::empty()).map_err(io::Error::from)?;
            command
                .arg("-K")
                .arg(format!("/dev/fd/{}", secret.as_raw_fd()));
            Some(secret)
        }
        None => None,
    };
    command.args(rest).arg(url);
    let error = command.exec();
    if error.kind() == io::ErrorKind::NotFound {
        return Err(Error::Usage(
            "curl is not installed; install it, or use `ignite invoke`".to_owned(),
        ));
    }
    Err(Error::Other(anyhow!("curl cannot be started: {error}")))
}

/// An entry for `--resolve`: the app's host at the server's address.
fn resolve(context: &Context, public: &str) -> Option<String> {
    let public: Uri = public.parse().ok()?;
    let server = match context.near() {
        Some((_, serving)) => serving.http,
        None => context.endpoint().to_string(),
    };
    let at = urls::address(&server)?;
    if context.near().is_some() && at.port() != urls::port(&public) {
        // A proxy in front has the public port; the server does not answer there.
        return None;
    }
    let ip = match at.ip() {
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    Some(format!("{}:{}:{ip}", public.host()?, urls::port(&public)))
}

/// Whether the user sends an `Authorization` of their own.
fn has_authorization(args: &[OsString]) -> bool {
    args.iter().any(|arg| {
        let arg = arg.to_string_lossy().to_ascii_lowercase();
        let arg = arg.strip_prefix("-h").unwrap_or(&arg);
        let arg = arg.strip_prefix("--header=").unwrap_or(arg);
        arg.trim_start().starts_with("authorization:")
    })
}

/// The line of curl's configuration that sends a token.
fn header(token: &str) -> Result<String, Error> {
    context::check_token(token)?;
    Ok(format!("header = \"Authorization: Bearer {token}\"\n"))
}

/// A pipe with a text in it, to its end. A token fits into any pipe.
fn pipe_with(text: &str) -> Result<io::PipeReader, Error> {
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(text.as_bytes())?;
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_ones_own_is_seen_and_a_forged_line_refused() {
        let has = |args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            has_authorization(&args)
        };
        assert!(has(&["-H", "Authorization: Basic x"]));
        assert!(has(&["-HAUTHORIZATION: x"]) && has(&["--header=authorization:x"]));
        assert!(!has(&["-H", "x-authorization: y", "-d", "a"]));
        assert_eq!(
            header("a.b.c").unwrap_or_else(|e| panic!("{e:?}")),
            "header = \"Authorization: Bearer a.b.c\"\n"
        );
        for forged in ["a\"\nurl = \"http://evil", "a b", "", "a\\"] {
            assert!(header(forged).is_err(), "{forged:?}");
        }
    }
}
