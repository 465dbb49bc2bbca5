//! `ignite invoke`: sends one request to an app and streams the answer to stdout, or fetches it
//! later (`later.rs`).

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::PathBuf,
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::ValueEnum;
use serde::Serialize;
use tonic::metadata::{Ascii, MetadataValue};

use super::{
    Context, Error,
    context::Session,
    failure::{note, unreadable},
    id::AppArg,
    output::{self, Format},
};
use crate::{
    api::proto::v1::{self, invoke_response::Frame},
    model::AppId,
};

mod later;
mod waiting;

/// What to send, and what to show of the answer.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The app, as org:app or app.
    id: AppArg,
    #[command(flatten)]
    sent: Sent,
    /// Print the status and the headers before the body.
    #[arg(long, short)]
    include: bool,
    /// Run the request in the background: print only its execution id, once the request is on disk.
    #[arg(long = "async")]
    detached: bool,
    /// Wait for the end of the execution and print its result.
    // `--include` needs `--wait`: without the result there are no headers to print.
    #[arg(
        long,
        requires = "detached",
        required_if_eq_all = [("detached", "true"), ("include", "true")]
    )]
    wait: bool,
    /// Return the first execution's id when --async is repeated with this key within a day.
    #[arg(long, value_name = "KEY", requires = "detached", value_parser = later::key)]
    idempotency_key: Option<MetadataValue<Ascii>>,
}

/// The request to an app.
#[derive(Debug, clap::Args)]
pub(super) struct Sent {
    /// The body, which must be JSON.
    #[arg(short, long, value_name = "JSON", conflicts_with = "payload_file")]
    payload: Option<String>,
    /// A file with the body, in any format; - for stdin.
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// The method.
    #[arg(
        long,
        short = 'X',
        value_enum,
        ignore_case = true,
        default_value = "post"
    )]
    method: Method,
    /// The path, with an optional query.
    #[arg(long, default_value = "/")]
    path: String,
    /// A header; repeatable.
    #[arg(long, short = 'H', value_name = "NAME:VALUE", value_parser = header)]
    header: Vec<(String, String)>,
}

/// The methods that the contract defines.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Method {
    Get,
    Post,
    Put,
    Delete,
    Patch,
    Head,
    Options,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        }
        _ => Err("write NAME:VALUE, such as content-type:text/plain".to_owned()),
    }
}

impl Sent {
    fn body(&self) -> Result<Vec<u8>, Error> {
        if let Some(payload) = &self.payload {
            serde_json::from_str::<serde::de::IgnoredAny>(payload).map_err(|e| {
                Error::Usage(format!(
                    "--payload is not JSON ({e}); for any other body use --payload-file"
                ))
            })?;
            return Ok(payload.clone().into_bytes());
        }
        let Some(path) = &self.payload_file else {
            return Ok(Vec::new());
        };
        let mut body = Vec::new();
        if path.as_os_str() == "-" {
            io::stdin()
                .lock()
                .read_to_end(&mut body)
                .context("cannot read the body from stdin")?;
        } else {
            body = std::fs::read(path).map_err(|e| unreadable("--payload-file", path, &e))?;
        }
        Ok(body)
    }

    /// The envelope that carries the request to `app`.
    pub(super) fn request(&self, app: &AppId) -> Result<v1::InvokeRequest, Error> {
        let method = match self.method {
            Method::Get => v1::HttpMethod::Get,
            Method::Post => v1::HttpMethod::Post,
            Method::Put => v1::HttpMethod::Put,
            Method::Delete => v1::HttpMethod::Delete,
            Method::Patch => v1::HttpMethod::Patch,
            Method::Head => v1::HttpMethod::Head,
            Method::Options => v1::HttpMethod::Options,
        };
        let (path, query) = self.path.split_once('?').unwrap_or((&self.path, ""));
        if !path.starts_with('/') {
            return Err(Error::Usage(format!("--path {path:?} must start with /")));
        }
        let body = self.body()?;
        let mut headers = joined(&self.header);
        if !body.is_empty() && !headers.contains_key("content-type") {
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
            let kind = if is_json {
                "application/json"
            } else {
                "application/octet-stream"
            };
            headers.insert("content-type".to_owned(), kind.to_owned());
        }
        Ok(v1::InvokeRequest {
            organization_name: app.org.to_string(),
            app_name: app.name.to_string(),
            http: Some(v1::HttpContext {
                method: method.into(),
                path: path.to_owned(),
                query: query.to_owned(),
                headers,
                raw_headers: Vec::new(),
            }),
            body: body.into(),
        })
    }
}

/// Headers by name. The values of a repeated header are joined, as HTTP does on one line.
fn joined(headers: &[(String, String)]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        all.entry(name.clone())
            .and_modify(|before| {
                before.push_str(if name == "cookie" { "; " } else { ", " });
                before.push_str(value);
            })
            .or_insert_with(|| value.clone());
    }
    all
}

/// Sends the request and prints the answer; a status of 400 or above from the app fails the
/// command.
pub(super) async fn run(context: &Context, args: Args) -> Result<(), Error> {
    let app = context.app(args.id.clone())?;
    let request = args.sent.request(&app)?;
    let session = context.connect(&app.org).await?;
    if args.detached {
        return Box::pin(later::run(context, &session, args, request)).await;
    }
    let status = session
        .within(receive(&session, context.format, args.include, request))
        .await?;
    match u16::try_from(status) {
        Ok(status) if status >= 400 => Err(Error::AppFailed(status)),
        _ => Ok(()),
    }
}

/// Prints frame by frame; output printed before a failure stays. Returns the app's status.
async fn receive(
    session: &Session,
    format: Format,
    include: bool,
    request: v1::InvokeRequest,
) -> Result<i32, Error> {
    let mut client = session.client();
    let (org, name) = (request.organization_name.clone(), request.app_name.clone());
    let begun = async {
        let mut frames = client.invoke(request).await?.into_inner();
        // The first frame is the head: until then a replica may be starting.
        let first = frames.message().await?;
        Ok((frames, first))
    };
    let (mut frames, mut next) = tokio::select! {
        biased;
        begun = begun => begun.map_err(|s| session.refused(s))?,
        never = waiting::explain(session, &org, &name) => match never {},
    };
    let structured = format.is_structured();
    let mut whole = Whole::default();
    while let Some(message) = next {
        match message.frame {
            Some(Frame::Head(head)) => {
                if include && !structured {
                    print_head(
                        head.status_code,
                        &head.response_headers,
                        &head.repeated_headers,
                    )?;
                }
                whole.head = Some(head);
            }
            Some(Frame::Chunk(chunk)) if structured => whole.body.extend_from_slice(&chunk),
            Some(Frame::Chunk(chunk)) => output::raw(&chunk)?,
            Some(Frame::Trailer(trailer)) => whole.trailer = Some(trailer),
            None => {}
        }
        next = frames.message().await.map_err(|s| session.refused(s))?;
    }
    let Some(trailer) = &whole.trailer else {
        return Err(Error::Other(anyhow::anyhow!(
            "the answer ended without its trailer; it is not whole"
        )));
    };
    let status = whole.head.as_ref().map_or(0, |head| head.status_code);
    if structured {
        format.print_value(&whole.printed()?)?;
    } else if format == Format::Wide {
        let id = whole
            .head
            .as_ref()
            .map_or("", |head| head.execution_id.as_str());
        note(&format!(
            "{id}: status {status}, {} bytes, {} ms",
            trailer.total_body_bytes, trailer.duration_ms
        ));
    }
    Ok(status)
}

fn print_head(
    status: i32,
    headers: &BTreeMap<String, String>,
    repeated: &[v1::HeaderField],
) -> Result<(), Error> {
    let mut text = format!("HTTP {status}\n");
    let repeated = repeated.iter().map(|field| (&field.name, &field.value));
    for (name, value) in headers.iter().chain(repeated) {
        text.push_str(&format!("{name}: {value}\n"));
    }
    output::line(&text)
}

/// The frames of one answer, collected for structured output.
#[derive(Default)]
struct Whole {
    head: Option<v1::InvokeHead>,
    body: Vec<u8>,
    trailer: Option<v1::InvokeTrailer>,
}

/// The printed form of [`Whole`].
#[derive(Serialize)]
struct Printed {
    head: Option<output::Whole>,
    /// Base64, as the API's JSON encodes bytes.
    body: String,
    trailer: Option<output::Whole>,
}

impl Whole {
    fn printed(&self) -> Result<Printed, Error> {
        let head = self
            .head
            .as_ref()
            .map(|head| output::dynamic("InvokeHead", head));
        let trailer = self
            .trailer
            .as_ref()
            .map(|trailer| output::dynamic("InvokeTrailer", trailer));
        Ok(Printed {
            head: head.transpose()?,
            body: STANDARD.encode(&self.body),
            trailer: trailer.transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_is_given_twice_is_sent_with_both_values() {
        let given = ["a:1", "b: x", "A:2", "cookie:c=1", "cookie:d=2"];
        let given = given.map(|text| header(text).expect("valid"));
        let all = joined(&given);
        let all: Vec<_> = all.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(all, [("a", "1, 2"), ("b", "x"), ("cookie", "c=1; d=2")]);
    }
}
