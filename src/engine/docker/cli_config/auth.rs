//! The user's credentials for registries: `credHelpers`, `credsStore`, `auths`.
//!
//! Helpers are programs (`docker-credential-NAME`). Each runs as a child process with a limit on
//! its time and output, and never on a thread that serves requests.

use std::{collections::HashMap, process::Stdio};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bollard::auth::DockerCredentials;
use futures_util::future::join_all;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use super::{CliConfig, ConfigFile};
use crate::child::ProcessGroup;

/// Docker Hub's name in credentials.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// Most bytes that a helper may print; tokens of clouds have some kilobytes.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024;
/// Most registries whose credentials are sent with a build, which may begin from any of them.
const MAX_REGISTRIES: usize = 32;
/// Most helpers that run at once.
const AT_ONCE: usize = 4;
/// The user name that a helper prints when its secret is a token.
const TOKEN_USER: &str = "<token>";
/// The message by which every helper says that it has none.
const NOT_FOUND: &str = "credentials not found";

/// One registry's credentials in `config.json`.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "lowercase", default)]
pub(super) struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl CliConfig {
    /// The credentials for an image; `None` when the docker command has none for its registry.
    pub(in super::super) async fn credentials_for(
        &self,
        reference: &str,
    ) -> Option<DockerCredentials> {
        let file = self.read_aside().await;
        self.find_credentials(&file, registry_of(reference)).await
    }

    /// The credentials of every registry that the docker command knows, by the registry's name.
    pub(in super::super) async fn all_credentials(&self) -> HashMap<String, DockerCredentials> {
        let file = self.read_aside().await;
        let known = file.auths.iter().flat_map(|all| all.keys());
        let mut registries: Vec<&str> = known
            .chain(file.cred_helpers.iter().flat_map(|all| all.keys()))
            .map(|key| host_of(key))
            .collect();
        registries.sort_unstable();
        registries.dedup();
        if registries.len() > MAX_REGISTRIES {
            tracing::warn!(
                known = registries.len(),
                "Builds get the credentials of the first {MAX_REGISTRIES} registries in the docker command's configuration"
            );
            registries.truncate(MAX_REGISTRIES);
        }
        let mut all = HashMap::new();
        for some in registries.chunks(AT_ONCE) {
            let mut asked = Vec::with_capacity(some.len());
            for registry in some {
                asked.push(self.find_credentials(&file, registry));
            }
            for found in join_all(asked).await.into_iter().flatten() {
                all.extend(found.serveraddress.clone().map(|server| (server, found)));
            }
        }
        all
    }

    async fn find_credentials(
        &self,
        file: &ConfigFile,
        registry: &str,
    ) -> Option<DockerCredentials> {
        let server = match registry {
            "docker.io" => DOCKER_HUB,
            host => host,
        };
        let of_registry = file.cred_helpers.iter().flatten();
        let helper = of_registry
            .filter(|(key, _)| host_of(key) == registry)
            .map(|(_, helper)| helper)
            .chain(&file.creds_store)
            .find(|helper| !helper.is_empty());
        if let Some(helper) = helper {
            match self.ask(helper, server).await {
                Ok(Some(found)) => return Some(found),
                Ok(None) => {}
                Err(why) => {
                    tracing::warn!(helper, registry, "A credential helper failed: {why}");
                }
            }
        }
        let mut entries = file.auths.iter().flatten();
        entries.find_map(|(key, entry)| {
            let here = host_of(key) == registry;
            here.then(|| entry.clone().credentials(server)).flatten()
        })
    }

    /// Asks a helper; `None` when it has no credentials for the server.
    async fn ask(&self, helper: &str, server: &str) -> Result<Option<DockerCredentials>, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !helper.chars().all(legal) {
            return Err("its name has more than letters, digits, '-', '_' and '.'".to_owned());
        }
        let limit = self.helper_timeout;
        let program = format!("docker-credential-{helper}");
        let talk = self.talk(&program, server);
        tokio::time::timeout(limit, talk)
            .await
            .map_err(|_| {
                let limit = humantime::format_duration(limit);
                format!("it did not answer within {limit} (credential_helper_timeout)")
            })?
            .and_then(|(succeeded, printed)| understand(succeeded, &printed, server))
    }

    /// Whether the helper succeeded, and its output. Dropping the future kills the helper and its
    /// children.
    async fn talk(&self, program: &str, server: &str) -> Result<(bool, Vec<u8>), String> {
        let mut command = Command::new(program);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = ProcessGroup::spawn(&mut command)
            .map_err(|e| format!("{program} cannot be run: {e}"))?;
        let lost = |e: std::io::Error| format!("{program}: {e}");
        if let Some(mut input) = child.0.stdin.take() {
            // A helper that knows its answer need not read the question.
            let _ = input.write_all(format!("{server}\n").as_bytes()).await;
        }
        let mut printed = Vec::new();
        if let Some(output) = child.0.stdout.take() {
            let mut output = output.take(MAX_OUTPUT_BYTES + 1);
            output.read_to_end(&mut printed).await.map_err(lost)?;
        }
        if printed.len() as u64 > MAX_OUTPUT_BYTES {
            return Err(format!("it printed more than {MAX_OUTPUT_BYTES} bytes"));
        }
        let status = child.0.wait().await.map_err(lost)?;
        Ok((status.success(), printed))
    }
}

fn understand(
    succeeded: bool,
    printed: &[u8],
    server: &str,
) -> Result<Option<DockerCredentials>, String> {
    if !succeeded {
        let said = String::from_utf8_lossy(printed);
        return if said.contains(NOT_FOUND) {
            Ok(None)
        } else {
            Err(said.trim().chars().take(300).collect())
        };
    }
    // Leaves out the parser's message, which may quote the secret.
    let answer: Answer = serde_json::from_slice(printed)
        .map_err(|_| "its answer is not the JSON of a credential helper".to_owned())?;
    let entry = match answer.username.as_str() {
        TOKEN_USER => Entry {
            identitytoken: Some(answer.secret),
            ..Entry::default()
        },
        _ => Entry {
            username: Some(answer.username),
            password: Some(answer.secret),
            ..Entry::default()
        },
    };
    Ok(entry.credentials(server))
}

impl Entry {
    /// The credentials in the engine's form; `None` for an entry without a secret, which `docker
    /// login` leaves beside a helper.
    fn credentials(mut self, server: &str) -> Option<DockerCredentials> {
        if let Some(both) = self.auth.filter(|auth| !auth.is_empty()) {
            let both = STANDARD.decode(both.trim()).ok()?;
            let both = String::from_utf8(both).ok()?;
            let (username, password) = both.split_once(':')?;
            self.username = Some(username.to_owned());
            self.password = Some(password.trim_end_matches('\0').to_owned());
        }
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let found = DockerCredentials {
            username: some(self.username),
            password: some(self.password),
            identitytoken: some(self.identitytoken),
            registrytoken: some(self.registrytoken),
            serveraddress: Some(server.to_owned()),
            ..DockerCredentials::default()
        };
        let has_secret = found.password.is_some()
            || found.identitytoken.is_some()
            || found.registrytoken.is_some();
        has_secret.then_some(found)
    }
}

/// The registry of a reference, as engines read it.
fn registry_of(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host_of(host),
        _ => "docker.io",
    }
}

/// The host in a key of `config.json`, which may be a URL; Docker Hub has one name here.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, time::Duration};

    use serde_json::json;

    use super::{super::tests::config, *};

    /// A configuration whose helpers are these scripts.
    fn with_helpers(
        json: &serde_json::Value,
        helpers: &[(&str, &str)],
    ) -> (tempfile::TempDir, CliConfig) {
        let (folder, mut config) = config(json);
        for (name, script) in helpers {
            let path = folder.path().join(format!("docker-credential-{name}"));
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("set");
        }
        let path = std::env::var("PATH").unwrap_or_default();
        config.path = Some(format!("{}:{path}", folder.path().display()));
        // Generous: it only keeps a hang from lasting forever.
        (folder, config.with_helper_timeout(Duration::from_secs(60)))
    }

    fn login(user: &str) -> serde_json::Value {
        json!({ "auth": STANDARD.encode(format!("{user}:p:w")) })
    }

    async fn user(config: &CliConfig, reference: &str) -> Option<String> {
        config.credentials_for(reference).await?.username
    }

    #[test]
    fn the_registry_of_a_reference_is_found_as_engines_find_it() {
        for (reference, registry) in [
            ("redis", "docker.io"),
            ("team/app:1", "docker.io"),
            ("docker.io/team/app", "docker.io"),
            ("index.docker.io/team/app", "docker.io"),
            ("localhost/app", "localhost"),
            ("localhost:5000/app", "localhost:5000"),
            ("reg.example/a/b@sha256:0", "reg.example"),
        ] {
            assert_eq!(registry_of(reference), registry, "{reference}");
        }
    }

    #[tokio::test]
    async fn an_entry_is_found_by_host_and_by_url_and_an_empty_one_is_none() {
        let (_folder, config) = config(&json!({ "auths": {
            "https://index.docker.io/v1/": login("hub"),
            "reg.example": login("plain"),
            "https://url.example/v2": { "identitytoken": "t" },
            "empty.example": {},
            "bad.example": { "auth": "%" },
        }}));
        assert_eq!(user(&config, "redis").await.as_deref(), Some("hub"));
        let found = config.credentials_for("reg.example/a").await.expect("some");
        assert_eq!(found.password.as_deref(), Some("p:w"));
        assert_eq!(found.serveraddress.as_deref(), Some("reg.example"));
        let found = config.credentials_for("url.example/a").await.expect("some");
        assert_eq!(found.identitytoken.as_deref(), Some("t"));
        for none in ["empty.example/a", "bad.example/a", "other.example/a"] {
            assert!(config.credentials_for(none).await.is_none(), "{none}");
        }
        let all = config.all_credentials().await;
        let mut servers: Vec<_> = all.keys().map(String::as_str).collect();
        servers.sort_unstable();
        assert_eq!(servers, [DOCKER_HUB, "reg.example", "url.example"]);
    }

    #[tokio::test]
    async fn a_registrys_helper_comes_before_the_store_and_the_store_before_what_is_written_down() {
        let echo = |user: &str| {
            format!(
                r#"read server; echo "{{\"ServerURL\":\"$server\",\"Username\":\"{user}\",\"Secret\":\"s\"}}""#
            )
        };
        let token = echo("<token>");
        let none = "echo 'credentials not found in native keychain'; exit 1";
        let (_folder, config) = with_helpers(
            &json!({
                "credsStore": "store",
                "credHelpers": { "own.example": "own", "cloud.example": "cloud", "none.example": "none" },
                "auths": { "own.example": login("auths"), "none.example": login("auths"), "reg.example": {} },
            }),
            &[
                ("store", &echo("store")),
                ("own", &echo("own")),
                ("cloud", &token),
                ("none", none),
            ],
        );
        assert_eq!(user(&config, "own.example/a").await.as_deref(), Some("own"));
        assert_eq!(
            user(&config, "reg.example/a").await.as_deref(),
            Some("store")
        );
        assert_eq!(user(&config, "redis").await.as_deref(), Some("store"));
        assert_eq!(
            user(&config, "none.example/a").await.as_deref(),
            Some("auths")
        );
        let found = config
            .credentials_for("cloud.example/a")
            .await
            .expect("some");
        assert_eq!(
            (found.username, found.identitytoken.as_deref()),
            (None, Some("s"))
        );
        assert_eq!(config.all_credentials().await.len(), 4);
    }

    #[tokio::test]
    async fn a_helper_that_hangs_floods_fails_or_is_not_there_gives_nothing() {
        let (_folder, mut config) = with_helpers(
            &json!({}),
            &[
                ("hangs", "exec sleep 1000"),
                ("floods", "yes"),
                ("fails", "echo 'the keychain is locked'; exit 1"),
                ("babbles", "echo s3cret"),
            ],
        );
        for (helper, word) in [
            ("floods", "printed more"),
            ("fails", "keychain is locked"),
            ("babbles", "not the JSON"),
            ("missing", "cannot be run"),
            ("../evil", "its name"),
        ] {
            let why = config.ask(helper, "reg.example").await.expect_err(helper);
            assert!(
                why.contains(word) && !why.contains("s3cret"),
                "{helper}: {why}"
            );
        }
        config.helper_timeout = Duration::from_millis(300);
        let why = config.ask("hangs", "r").await.expect_err("it hangs");
        assert!(why.contains("credential_helper_timeout"), "{why}");
    }

    #[tokio::test]
    async fn nothing_that_a_helper_started_goes_on_after_it_was_given_up() {
        let note = r#"cd "$(dirname "$0")"; echo $! > noted; mv noted pid; wait"#;
        let forks = format!("sleep 1000 & {note}");
        let (folder, config) = with_helpers(&json!({}), &[("forks", &forks)]);
        let pid = folder.path().join("pid");
        let noted = async {
            while !pid.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            answer = config.ask("forks", "r") => panic!("{answer:?}"),
            () = noted => {}
        }
        let pid = std::fs::read_to_string(pid).expect("a number");
        // Empty once the process has ended, whether or not it has been reaped.
        let command = format!("/proc/{}/cmdline", pid.trim());
        let ended = async {
            while std::fs::read(&command).is_ok_and(|command| !command.is_empty()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
        ended.expect("it was killed");
    }
}
