//! `ignite context`: several servers in the client's configuration, one of them in use.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_yaml_ng::{Mapping, Value};

use super::{
    Error,
    configure::{self, Key, no_home},
    context::{Global, check_endpoint},
    failure::note,
    output::{self, or_dash, table},
    settings::{self, CURRENT, DEFAULT_CONTEXT, Names, OWN},
};
use crate::config::Source;

/// Longest name of a context.
const MAX_NAME: usize = 64;

/// What to do with contexts.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the contexts; the one in use is marked.
    #[command(visible_alias = "ls")]
    List,
    /// Use a context from now on; `default` for the settings outside of contexts.
    Use {
        /// Its name.
        name: String,
    },
    /// Add a context, or replace the one of that name: where its server is (--api-endpoint or
    /// --data-dir) and, as far as given, --org, --token, --token-file, --ca-cert and --debug.
    Add {
        /// Its name.
        name: String,
        /// The data directory of a server on this machine, which says where it listens and has the
        /// key for tokens.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Use it from now on.
        #[arg(long = "use")]
        in_use: bool,
    },
    /// Remove a context and the token in it.
    #[command(visible_alias = "rm")]
    Remove {
        /// Its name.
        name: String,
    },
}

/// Runs one of the commands; needs no server.
pub(super) fn run(command: Command, global: &Global, vars: &impl Source) -> Result<(), Error> {
    let path = settings::path(global.config.as_deref(), vars).ok_or_else(no_home)?;
    let file = configure::read(&path)?;
    match command {
        Command::List => list(&file, global, vars),
        Command::Use { name } => use_it(&path, file, &name),
        Command::Add {
            name,
            data_dir,
            in_use,
        } => {
            add(&path, file, &name, values(global, data_dir.as_deref())?)?;
            if in_use {
                use_it(&path, configure::read(&path)?, &name)?;
            }
            Ok(())
        }
        Command::Remove { name } => remove(&path, file, &name),
    }
}

/// What the command line says of a server.
fn values(global: &Global, data_dir: Option<&Path>) -> Result<Vec<(Names, Option<Value>)>, Error> {
    let mut values: Vec<(Names, Value)> = Vec::new();
    if let Some(endpoint) = &global.api_endpoint {
        check_endpoint(endpoint)?;
        values.push((settings::API_ENDPOINT, endpoint.as_str().into()));
    }
    if let Some(dir) = data_dir {
        let dir = std::path::absolute(dir)
            .map_err(|e| Error::Usage(format!("--data-dir {}: {e}", dir.display())))?;
        values.push((settings::DATA_DIR, dir.to_string_lossy().as_ref().into()));
    }
    if values.is_empty() {
        return Err(Error::Usage(
            "nothing says where the server is; give --api-endpoint, or --data-dir for one on this machine".to_owned(),
        ));
    }
    if let Some(org) = global.org_name.as_ref().or(global.org.as_ref()) {
        values.push((settings::ORG, Key::OrgId.check(org)?));
    }
    if let Some(file) = &global.ca_cert {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
        values.push((
            settings::CA_CERT,
            Key::CaCert.check(&file.to_string_lossy())?,
        ));
    }
    if global.debug {
        values.push((settings::DEBUG, true.into()));
    }
    if let Some(token) = global.given_token()? {
        values.push((settings::TOKEN, Key::Token.check(&token)?));
        if global.token.as_deref().is_some_and(|given| given != "-") {
            configure::note_seen("token");
        }
    }
    let some = |(names, value)| (names, Some(value));
    Ok(values.into_iter().map(some).collect())
}

fn add(
    path: &Path,
    mut file: Mapping,
    name: &str,
    values: Vec<(Names, Option<Value>)>,
) -> Result<(), Error> {
    check_name(name)?;
    let replaced = settings::contexts(&file).contains_key(name);
    if replaced {
        configure::edit_contexts(&mut file, path, |all| {
            all.shift_remove(name);
            Ok(())
        })?;
        configure::write(path, &file)?;
    }
    configure::store(path, Some(name), values)?;
    let done = if replaced { "is replaced" } else { "is added" };
    note(&format!("the context {name} {done} in {}", path.display()));
    Ok(())
}

fn check_name(name: &str) -> Result<(), Error> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let wrong = if name == DEFAULT_CONTEXT {
        "it stands for the settings outside of contexts; choose another name"
    } else if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_plain) {
        "a context has a name of 1 to 64 letters, digits, '-', '_' and '.'"
    } else {
        return Ok(());
    };
    Err(Error::Usage(format!("{name:?}: {wrong}")))
}

fn use_it(path: &Path, mut file: Mapping, name: &str) -> Result<(), Error> {
    let is_default = name == DEFAULT_CONTEXT;
    if !is_default && !settings::contexts(&file).contains_key(name) {
        return Err(settings::no_context(name, &file));
    }
    set_current(&mut file, Some(name).filter(|_| !is_default));
    configure::write(path, &file)?;
    note(&format!("the context {name} is in use"));
    Ok(())
}

fn set_current(file: &mut Mapping, name: Option<&str>) {
    match (file.get_mut(OWN), name) {
        (Some(Value::Mapping(own)), Some(name)) => drop(own.insert(CURRENT.into(), name.into())),
        (Some(Value::Mapping(own)), None) => drop(own.shift_remove(CURRENT)),
        // Contexts are in the section, so it is there when one is named.
        _ => {}
    }
}

fn remove(path: &Path, mut file: Mapping, name: &str) -> Result<(), Error> {
    if !settings::contexts(&file).contains_key(name) {
        return Err(settings::no_context(name, &file));
    }
    configure::edit_contexts(&mut file, path, |all| {
        all.shift_remove(name);
        Ok(())
    })?;
    let was_used = settings::current(&file).as_deref() == Some(name);
    if was_used {
        set_current(&mut file, None);
    }
    configure::write(path, &file)?;
    note(&format!("the context {name} is removed"));
    if was_used {
        note(&format!("the context {DEFAULT_CONTEXT} is in use"));
    }
    Ok(())
}

fn list(file: &Mapping, global: &Global, vars: &impl Source) -> Result<(), Error> {
    let named = settings::context_named(global.context.as_deref(), vars);
    let used = named.or_else(|| settings::current(file));
    let used = used.as_deref().unwrap_or(DEFAULT_CONTEXT);
    let all = settings::contexts(file);
    let mut listed =
        vec![serde_json::json!({ "name": DEFAULT_CONTEXT, "inUse": used == DEFAULT_CONTEXT })];
    for (name, keys) in &all {
        let (Some(name), keys) = (name.as_str(), keys.as_mapping()) else {
            continue;
        };
        let text = |names: Names| {
            let found = names.iter().find_map(|key| keys?.get(*key)?.as_str());
            found.map(str::to_owned)
        };
        let known_by = if text(settings::TOKEN).is_some() {
            Some("a token")
        } else if text(settings::ACCOUNT_ID).is_some() {
            Some("a service account")
        } else {
            None
        };
        listed.push(serde_json::json!({
            "name": name,
            "inUse": used == name,
            "apiEndpoint": text(settings::API_ENDPOINT),
            "dataDir": text(settings::DATA_DIR),
            "org": text(settings::ORG),
            "authenticatedBy": known_by,
        }));
    }
    let format = global.output.unwrap_or_default();
    if format.is_structured() {
        return format.print_value(&serde_json::json!({ "contexts": listed }));
    }
    let mut shown = table(&["IN USE", "CONTEXT", "SERVER", "ORG", "AUTHENTICATED BY"]);
    for context in &listed {
        let text = |key: &str| context[key].as_str().unwrap_or_default();
        let server = [text("apiEndpoint"), text("dataDir")];
        let server = server
            .into_iter()
            .find(|s| !s.is_empty())
            .unwrap_or_default();
        let mark = if context["inUse"] == true { "*" } else { "" };
        shown.add_row([
            mark,
            text("name"),
            or_dash(server),
            or_dash(text("org")),
            or_dash(text("authenticatedBy")),
        ]);
    }
    output::columns(shown)
}
