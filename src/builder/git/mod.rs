//! Source from a git repository, by the `git` program.
//!
//! Git runs without this machine's configuration, never prompts, uses no transport but https and
//! file, runs no hooks and follows no submodules. It gets a token through its environment and a
//! helper that gives it only to the host that it is for: never on a command line, never in the log.
//!
//! What a server sends is bounded as it arrives: by time, by the disk that it takes, and by the
//! memory that git may use for it. A commit's tree is counted before it is checked out, since a few
//! objects can stand for any number of files.

mod bounds;

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{process::Command, time::MissedTickBehavior};

use self::bounds::{Tree, folder_bytes, next, pipe};
use super::{
    Limits, Source,
    build::{Build, BuildEnv, SecretUse},
    failure::failed,
    source::clean,
    source_policy::split_port,
};
use crate::{
    child::ProcessGroup,
    model::{Failure, Reason, code::FromGit, secret},
};

/// Answers git's prompts, each only for the host that the secret is for.
const ASKPASS: &str = r#"#!/bin/sh
case "$1" in
"Username for 'https://$IGNITE_GIT_HOST': ") printf '%s\n' "$IGNITE_GIT_USERNAME" ;;
"Password for 'https://"*"@$IGNITE_GIT_HOST': ") printf '%s\n' "$IGNITE_GIT_TOKEN" ;;
*) exit 1 ;;
esac
"#;
/// The user name beside a token when the secret has none; servers that accept tokens ignore it.
const ANYBODY: &str = "git";
/// Variables of this process that git needs to reach other networks.
const PASSED_ON: [&str; 10] = [
    "PATH",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
];
/// Settings of every command, which override those of a repository.
const SETTINGS: [&str; 10] = [
    "protocol.allow=never",
    "protocol.https.allow=always",
    "protocol.file.allow=always",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "submodule.recurse=false",
    "gc.auto=0",
    // Larger files are streamed to the disk and not unpacked in memory.
    "core.bigFileThreshold=32m",
    "core.deltaBaseCacheLimit=32m",
    "pack.threads=1",
];
/// Longest line read of git's output, which passes on what a server sends.
const MAX_LINE: usize = 4096;
/// Interval between two measurements of the folder.
const SIZE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Fetches a repository and returns the tree to build.
///
/// # Errors
/// BUILD_FAILED with git's message, BUILD_TIMEOUT, and FAILED_PRECONDITION when git is not
/// installed here or the secret cannot be used.
pub(super) async fn fetch(
    env: &BuildEnv,
    build: &Build,
    from: &FromGit,
    folder: TempDir,
) -> Result<Source, Failure> {
    if env.config.strict && from.url.starts_with("file:") {
        return Err(failed(
            "file:// URLs are refused because --strict is on: the platform has no such repository; give an https:// URL",
        ));
    }
    if !env.config.git_files && from.url.starts_with("file:") {
        return Err(failed(
            "file:// URLs are off, since they read this machine's own disk; give an https:// URL, or ask the operator for git_file_urls (IGNITE_GIT_FILE_URLS)",
        ));
    }
    let mut git = Git {
        build,
        folder: folder.path().to_owned(),
        env: Vec::new(),
        settings: Vec::new(),
        limits: env.config.limits,
    };
    if let Some(host) = host_of(&from.url) {
        let admission = env.images.admission();
        let addresses = admission.check_host("git host", host).await;
        let addresses = addresses.map_err(failed)?;
        if admission.isolates_host() {
            git.go_only_to(host, &addresses);
        }
    }
    if !from.secret_ref.is_empty() {
        let find = &env.vault;
        let org = build.app.org.clone();
        let host = host_of(&from.url).unwrap_or_default().to_owned();
        let use_of = SecretUse::Git { host };
        let secret = find(org, from.secret_ref.clone(), use_of).await?;
        git.answer_with(&from.url, secret)?;
    }
    let limit = env.config.git_timeout;
    match tokio::time::timeout(limit, git.check_out(from)).await {
        Ok(done) => done?,
        Err(_) => {
            return Err(Failure::new(
                Reason::BuildTimeout,
                format!(
                    "the repository was not fetched within {}; check that its host answers, and raise IGNITE_GIT_TIMEOUT_SECS if it is that large",
                    humantime::format_duration(limit)
                ),
            ));
        }
    }
    let (limits, sub_path) = (env.config.limits, from.sub_path.clone());
    env.parse(build, move |cancelled| {
        let below = sub_tree(folder.path(), &sub_path).map_err(failed)?;
        Source::scan(folder, &below, limits, cancelled)
            .map_err(|why| failed(format!("the repository is refused: {why}")))
    })
    .await
}

/// A repository while it is fetched.
struct Git<'a> {
    build: &'a Build,
    folder: PathBuf,
    env: Vec<(&'static str, String)>,
    /// Settings beyond [`SETTINGS`].
    settings: Vec<String>,
    limits: Limits,
}

impl Git<'_> {
    /// Restricts git to the addresses that were checked for a host, whatever its name resolves to
    /// at the time of the fetch, and to that host, even if it redirects.
    fn go_only_to(&mut self, host: &str, addresses: &[IpAddr]) {
        let (name, port) = split_port(host);
        let text = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let addresses: Vec<_> = addresses.iter().map(text).collect();
        let addresses = addresses.join(",");
        self.settings = vec![
            "http.followRedirects=false".to_owned(),
            format!("http.curloptResolve={name}:{port}:{addresses}"),
        ];
    }

    /// Lets git log in with the secret, only at the host of `url`.
    fn answer_with(&mut self, url: &str, secret: secret::Value) -> Result<(), Failure> {
        let path = self.folder.join("askpass");
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o700)
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, ASKPASS.as_bytes()));
        written.map_err(|e| failed(format!("git cannot be prepared on this machine: {e}")))?;
        let host = host_of(url).unwrap_or_default().to_owned();
        let user = if secret.username.is_empty() {
            ANYBODY.to_owned()
        } else {
            secret.username
        };
        self.env = vec![
            ("GIT_ASKPASS", path.to_string_lossy().into_owned()),
            ("IGNITE_GIT_HOST", host),
            ("IGNITE_GIT_USERNAME", user),
            ("IGNITE_GIT_TOKEN", secret.password),
        ];
        Ok(())
    }

    async fn check_out(&self, from: &FromGit) -> Result<(), Failure> {
        let FromGit { url, reference, .. } = from;
        let wanted = match reference.as_str() {
            "" => "HEAD",
            reference => reference,
        };
        self.build.log.line(format!("Fetching {url} at {wanted}"));
        self.run(&["init", "--quiet", "--template=", "repo"])
            .await?;
        let fetch = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules"];
        let newest = [&fetch[..], &["--depth=1", "--", url, wanted]].concat();
        let commit = match self.run(&newest).await {
            Ok(_) => "FETCH_HEAD".to_owned(),
            // A commit by its id: not every server serves those, and none serves a short id.
            Err(_) if is_commit(wanted) => {
                self.build.log.line("Fetching all of it to find the commit");
                let all = ["--", url, "+refs/heads/*:refs/o/*", "+refs/tags/*:refs/t/*"];
                self.run(&[&fetch[..], &all].concat()).await?;
                format!("{wanted}^{{commit}}")
            }
            Err(failure) => return Err(failure),
        };
        let mut tree = Tree::new(self.limits);
        self.run_for(&["ls-tree", "-r", "-t", "-z", &commit], 0, &mut |entry| {
            tree.entry(entry)
        })
        .await?;
        self.run(&["checkout", "--quiet", "--detach", &commit, "--"])
            .await?;
        let head = self.run(&["rev-parse", "HEAD"]).await?;
        self.build.log.line(format!("At commit {}", head.trim()));
        Ok(())
    }

    /// Runs one command; its messages go to the log. Returns the first line of its output, since
    /// only ids are queried.
    async fn run(&self, args: &[&str]) -> Result<String, Failure> {
        let mut first = None;
        self.run_for(args, b'\n', &mut |line| {
            first.get_or_insert_with(|| String::from_utf8_lossy(line).into_owned());
            Ok(())
        })
        .await?;
        Ok(first.unwrap_or_default())
    }

    /// Runs one command for its output, read piece by piece up to `end`, until a piece is refused.
    async fn run_for(
        &self,
        args: &[&str],
        end: u8,
        each: &mut (dyn FnMut(&[u8]) -> Result<(), String> + Send),
    ) -> Result<(), Failure> {
        let verb = args.first().copied().unwrap_or_default();
        let mut child = ProcessGroup::spawn(&mut self.command(args)).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Failure::new(
                Reason::FailedPrecondition,
                "the git program is not on the server's machine, so code.image.from_git cannot be built; install it (`apt-get install git`), or send an archive as code.image.from_code",
            ),
            _ => failed(format!("git cannot be run on the server's machine: {e}")),
        })?;
        bounds::limit(&child.0, self.most_bytes());
        let (mut stdout, mut stderr) = (pipe(child.0.stdout.take()), pipe(child.0.stderr.take()));
        let printed = async {
            while let Some(piece) = next(&mut stdout, end, self.limits.path_bytes + MAX_LINE).await
            {
                each(&piece)?;
            }
            Ok::<_, String>(())
        };
        let said = async {
            let mut last = Vec::new();
            while let Some(line) = next(&mut stderr, b'\n', MAX_LINE).await {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                self.build.log.line(format!("git: {line}"));
                last.push(line);
                if last.len() > 5 {
                    last.remove(0);
                }
            }
            last.join("; ")
        };
        let ended = async {
            // A refused piece ends the command, whatever output would follow.
            let read = async { Ok::<_, String>(said.await) };
            let ((), said) = tokio::try_join!(printed, read)?;
            Ok::<_, String>((said, child.0.wait().await))
        };
        let refused = |why: String| failed(format!("the repository is refused: {why}"));
        let (said, status) = tokio::select! {
            ended = ended => ended.map_err(refused)?,
            why = self.overflow() => return Err(refused(why)),
        };
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(failed(format!("git {verb} failed: {said}{}", hint(&said)))),
            Err(e) => Err(failed(format!("git {verb} was lost: {e}"))),
        }
    }

    /// Most bytes of the objects and of the files checked out from them.
    fn most_bytes(&self) -> u64 {
        self.limits.bytes.saturating_mul(bounds::WHOLE)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.env_clear();
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let repo = self.folder.join("repo");
        let more = self.settings.iter().map(String::as_str);
        for setting in SETTINGS.into_iter().chain(more) {
            command.args(["-c", setting]);
        }
        command
            .args(args)
            .current_dir(if repo.is_dir() { &repo } else { &self.folder })
            .env("HOME", &self.folder)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", "https:file")
            // Large files stay pointers: fetching them takes another program.
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Returns once the folder is larger than a source tree may be.
    async fn overflow(&self) -> String {
        let mut tick = tokio::time::interval(SIZE_CHECK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let most = self.most_bytes();
        loop {
            tick.tick().await;
            let folder = self.folder.clone();
            let size = tokio::task::spawn_blocking(move || folder_bytes(&folder, most)).await;
            if size.is_ok_and(|size| size > most) {
                return format!(
                    "it has more than {most} bytes with its objects, {} times what IGNITE_CODE_MAX_UNPACKED_BYTES allows for the files",
                    bounds::WHOLE
                );
            }
        }
    }
}

/// The host of a URL, with its port if it has one; `None` for a path of this machine.
fn host_of(url: &str) -> Option<&str> {
    url.strip_prefix("https://")?.split('/').next()
}

/// A remedy for git's most common messages.
fn hint(said: &str) -> &'static str {
    if said.contains("could not read Username") || said.contains("Authentication failed") {
        ". If the repository is private, name a git secret in secret_ref (`ignite secret create NAME --type git`)"
    } else if said.contains("couldn't find remote ref") {
        ". Check the name of the branch, tag or commit"
    } else if said.contains("Out of memory") || said.contains("unable to create thread") {
        ". Its files or its history need more memory than git gets here; send an archive instead"
    } else {
        ""
    }
}

fn is_commit(reference: &str) -> bool {
    (7..=64).contains(&reference.len()) && reference.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The path of the tree to build, below the folder.
fn sub_tree(folder: &Path, sub_path: &str) -> Result<PathBuf, String> {
    let sub = clean(sub_path).map_err(|why| format!("sub_path {sub_path:?} {why}"))?;
    let repo = folder.join("repo");
    let none = || format!("the repository has no folder {sub_path:?}; check sub_path");
    let (top, found) = (repo.canonicalize(), repo.join(&sub).canonicalize());
    let (top, found) = (top.map_err(|_| none())?, found.map_err(|_| none())?);
    // A link may be on the way; its target decides.
    let below = found.strip_prefix(&top);
    let below = below.map_err(|_| format!("sub_path {sub_path:?} leads out of the repository"))?;
    if !found.is_dir() {
        return Err(none());
    }
    Ok(Path::new("repo").join(below))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_token_is_given_to_the_host_that_it_is_for_and_to_no_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("askpass");
        fs::write(&path, ASKPASS).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("set");
        let ask = |question: &str| {
            let output = std::process::Command::new("sh")
                .arg(&path)
                .arg(question)
                .env("IGNITE_GIT_HOST", "git.example:8443")
                .env("IGNITE_GIT_USERNAME", "robot")
                .env("IGNITE_GIT_TOKEN", "t0 k'en")
                .output()
                .expect("runs");
            String::from_utf8(output.stdout).expect("text")
        };
        assert_eq!(ask("Username for 'https://git.example:8443': "), "robot\n");
        assert_eq!(
            ask("Password for 'https://robot@git.example:8443': "),
            "t0 k'en\n"
        );
        for other in [
            "Password for 'https://robot@evil.example': ",
            "Password for 'https://git.example:8443@evil.example': ",
            // The redirecting server chooses the user name of a redirect.
            "Password for 'https://x@git.example:8443'@evil.example': ",
            "Password for 'https://x@git.example:8443': @evil.example': ",
            "Username for 'https://git.example:8443.evil.example': ",
            "Enter passphrase for key '/root/.ssh/id': ",
        ] {
            assert_eq!(ask(other), "", "{other}");
        }
    }

    #[test]
    fn a_sub_path_stays_within_the_repository() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("repo/a/b")).expect("made");
        std::os::unix::fs::symlink("..", dir.path().join("repo/out")).expect("made");
        std::os::unix::fs::symlink("a/b", dir.path().join("repo/in")).expect("made");
        let sub = |path: &str| sub_tree(dir.path(), path);
        assert_eq!(sub(""), Ok("repo/".into()));
        assert_eq!(sub("./a/b/"), Ok("repo/a/b".into()));
        assert_eq!(sub("in"), Ok("repo/a/b".into()));
        for bad in ["out", "../x", "/etc", "none"] {
            assert!(sub(bad).is_err(), "{bad}");
        }
    }
}
