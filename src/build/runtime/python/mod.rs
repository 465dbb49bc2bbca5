//! Python: `handler.py` at the root of the code, with `def handler(payload: bytes, ctx: dict)`.
//!
//! What changes seldom comes first in the Dockerfile: packages are installed again only when
//! `requirements.txt` changes, and a change of code alone is one layer. Packages go to a folder of
//! their own, since the Python of a distribution keeps pip out of its own.

use crate::{
    build::{Context, Source},
    model::{Failure, Reason},
};

use super::Bases;

/// The server around the handler.
const SERVER: &str = include_str!("server.py");
const DOCKERFILE: &str = "Dockerfile";
const REQUIREMENTS: &str = "requirements.txt";
const HANDLER: &str = "handler.py";
/// Where the code is in the context.
const CODE: &str = "code";
/// Who runs it: no user of any image, and not root.
const USER: u32 = 65532;

pub(super) fn context(source: Source, bases: &Bases) -> Result<Context, Failure> {
    if !source.has_file(HANDLER) {
        let elsewhere = source
            .entries()
            .keys()
            .find(|path| path.ends_with("/handler.py"));
        let hint = elsewhere.map_or_else(String::new, |path| {
            format!("; there is one at {path:?}: hand in the folder that it is in")
        });
        return Err(Failure::new(
            Reason::BuildFailed,
            format!(
                "there is no handler.py with `def handler(payload: bytes, ctx: dict)` at the root of the code{hint}"
            ),
        ));
    }
    let paths: Vec<String> = source.entries().keys().cloned().collect();
    let has_requirements = source.has_file(REQUIREMENTS);
    let mut context = Context::empty(source, DOCKERFILE);
    context.add(DOCKERFILE, dockerfile(bases, has_requirements), false);
    context.add("server.py", SERVER, false);
    if has_requirements {
        context.place(REQUIREMENTS, REQUIREMENTS);
        if !bases.pip_index_url.is_empty() {
            let index = bases.pip_index_url.clone();
            context.build_args.insert("PIP_INDEX_URL".to_owned(), index);
            if let Some(host) = plain_http_host(&bases.pip_index_url) {
                context
                    .build_args
                    .insert("PIP_TRUSTED_HOST".to_owned(), host);
            }
        }
    }
    for path in paths {
        context.place(&path, &format!("{CODE}/{path}"));
    }
    Ok(context)
}

fn dockerfile(bases: &Bases, has_requirements: bool) -> String {
    let packages = match has_requirements {
        true => {
            "ARG PIP_INDEX_URL\nARG PIP_TRUSTED_HOST\n\
             COPY requirements.txt /ignite/requirements.txt\n\
             RUN [\"python3\", \"-m\", \"pip\", \"install\", \"--no-cache-dir\", \"--disable-pip-version-check\", \
             \"--target\", \"/ignite/packages\", \"--requirement\", \"/ignite/requirements.txt\"]\n"
        }
        false => "",
    };
    format!(
        "FROM {base}\n\
         ENV PYTHONPATH=/ignite/packages PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1\n\
         {packages}\
         COPY server.py /ignite/server.py\n\
         WORKDIR /code\n\
         USER {USER}:{USER}\n\
         ENTRYPOINT []\n\
         CMD [\"python3\", \"/ignite/server.py\", \"/code\"]\n\
         COPY {CODE}/ /code/\n",
        base = bases.python,
    )
}

/// The host of an index without TLS, which pip asks only when it is told that it may.
fn plain_http_host(url: &str) -> Option<String> {
    let url: http::Uri = url.parse().ok()?;
    (url.scheme_str() == Some("http")).then(|| url.host().map(ToOwned::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_come_before_code_and_only_where_they_are_asked_for() {
        let bases = Bases {
            python: "python:x".to_owned(),
            pip_index_url: String::new(),
        };
        let with = dockerfile(&bases, true);
        let at = |text: &str| {
            with.find(text)
                .unwrap_or_else(|| panic!("no {text}: {with}"))
        };
        assert!(at("FROM python:x") < at("pip") && at("pip") < at("COPY code/ /code/"));
        assert!(
            with.ends_with("COPY code/ /code/\n"),
            "code alone is one layer"
        );
        assert!(!dockerfile(&bases, false).contains("pip"));
    }

    #[test]
    fn only_an_index_without_tls_is_named_as_trusted() {
        assert_eq!(
            plain_http_host("http://10.0.0.1:80/simple"),
            Some("10.0.0.1".to_owned())
        );
        assert_eq!(plain_http_host("https://pypi.org/simple"), None);
    }
}
