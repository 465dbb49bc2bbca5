//! `ignite open`: an app's URL, in a browser if there is one.

use std::{
    io::{self, IsTerminal as _},
    process::{Command, Stdio},
};

use super::{Context, Error, failure::note, id::AppArg, output, urls};

/// Which app, and whether only to print.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The app, as org:app or app.
    id: AppArg,
    /// A path of the app, with an optional query.
    #[arg(value_name = "PATH", default_value = "/", value_parser = path)]
    path: String,
    /// Only print the URL.
    #[arg(long)]
    print: bool,
}

/// A path with its slash.
pub(super) fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err(format!("a path begins with a slash; write /{text}"))
    }
}

/// Prints the URL that works here, and opens it in a browser where a person is at the terminal.
pub(super) async fn run(context: &Context, args: Args) -> Result<(), Error> {
    let app = context.app(args.id)?;
    let session = context.connect(&app.org).await?;
    let meta = session.app(&app).await?.app.unwrap_or_default();
    let public = public_url(&app, &meta.public_urls)?;
    let works = urls::instead(context, &app, public).unwrap_or_else(|| format!("{public}/"));
    let url = format!("{}{}", works.trim_end_matches('/'), args.path);
    if context.format.is_structured() {
        let answer = serde_json::json!({
            "url": url,
            "allowUnauthenticated": meta.allow_unauthenticated,
        });
        return context.format.print_value(&answer);
    }
    output::line(&url)?;
    if !meta.allow_unauthenticated {
        note(&format!(
            "it asks for a token, which a browser does not send: `ignite curl {}:{}` sends one; `ignite app update {}:{} --allow-unauthenticated` opens it to everybody",
            app.org, app.name, app.org, app.name
        ));
    }
    if !args.print && io::stdout().is_terminal() {
        open(&url);
    }
    Ok(())
}

/// The first URL of an app.
///
/// # Errors
/// [`Error::Usage`] when it has none, as before its first publish.
pub(super) fn public_url<'a>(
    app: &crate::model::AppId,
    urls: &'a [String],
) -> Result<&'a str, Error> {
    urls.first().map(String::as_str).ok_or_else(|| {
        Error::Usage(format!(
            "{app} is not published yet and has no URL; `ignite app deploy {}:{} --code DIR` publishes code",
            app.org, app.name
        ))
    })
}

/// Starts the user's browser, or the desktop's.
fn open(url: &str) {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let is_desktop = || var("DISPLAY").is_some() || var("WAYLAND_DISPLAY").is_some();
    let program = match var("BROWSER") {
        Some(browser) => browser,
        None if is_desktop() => "xdg-open".into(),
        None => return,
    };
    let started = Command::new(&program)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    if let Err(error) = started {
        note(&format!(
            "no browser could be started ({}: {error})",
            program.display()
        ));
    }
}
