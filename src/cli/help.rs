//! What `--help` shows beyond the names of options: examples, and what `serve` does by default.
//!
//! Global options are listed once, by `ignite --help`: they are the same for every command.

use clap::{Arg, Command, builder::StyledStr};

use crate::config::Config;

/// The command whose options are settings of the server.
const SERVE: &str = "serve";
/// What stands below the options of every command but the first.
const GLOBAL: &str = "Options for every command, such as -o json and --api-endpoint: ignite --help";

/// Examples of each command, by its words; a command that has none fails a test.
const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "serve",
        &[
            "ignite serve",
            "ignite serve --http-addr 127.0.0.1:9000 --data-dir ./data",
            "ignite serve --dump-config",
        ],
    ),
    ("token create", &["ignite token create --org acme --ttl 8h"]),
    ("token keys", &["ignite token keys"]),
    ("token rotate-key", &["ignite token rotate-key"]),
    ("token revoke-key", &["ignite token revoke-key 2f6a90c1"]),
    (
        "service-account create",
        &["ignite service-account create ci --org acme --role ignite.app-developer"],
    ),
    (
        "service-account list",
        &["ignite service-account list --org acme"],
    ),
    (
        "service-account rotate",
        &["ignite service-account rotate ci --org acme --keep 1h"],
    ),
    (
        "service-account delete",
        &["ignite service-account delete ci --org acme"],
    ),
    (
        "service-account grant-role",
        &["ignite service-account grant-role ci ignite.app-viewer --org acme"],
    ),
    (
        "service-account revoke-role",
        &["ignite service-account revoke-role ci ignite.app-viewer --org acme"],
    ),
    (
        "audit",
        &["ignite audit --since 1h", "ignite audit -f -o json"],
    ),
    ("ca trust", &["ignite ca trust"]),
    ("ca print", &["ignite ca print > ca.pem"]),
    (
        "ca path",
        &["curl --cacert \"$(ignite ca path)\" https://127.0.0.1:8443/healthz"],
    ),
    ("ready", &["ignite ready --wait 30s"]),
    ("prune", &["ignite prune"]),
    ("doctor", &["ignite doctor"]),
    ("df", &["ignite df"]),
    ("docs", &["ignite docs", "ignite docs settings"]),
    ("store check", &["ignite store check"]),
    ("store compact", &["ignite store compact"]),
    ("store repair", &["ignite store repair"]),
    ("store export", &["ignite store export > apps.jsonl"]),
    ("config set", &["ignite config set org_id acme"]),
    ("config view", &["ignite config view"]),
    ("context list", &["ignite context list"]),
    ("context use", &["ignite context use production"]),
    (
        "context add",
        &["ignite context add production --api-endpoint ignite.example.com:443 --token -"],
    ),
    ("context remove", &["ignite context remove production"]),
    (
        "completion",
        &["ignite completion bash > ~/.local/share/bash-completion/completions/ignite"],
    ),
    ("man", &["ignite man ~/.local/share/man/man1"]),
    (
        "login",
        &[
            "ignite login --token - < token.txt",
            "ignite login cli-ci -",
        ],
    ),
    ("status", &["ignite status", "ignite status -o json"]),
    ("top", &["ignite top", "ignite top hello --once"]),
    ("whoami", &["ignite whoami"]),
    (
        "open",
        &["ignite open hello", "ignite open hello /docs --print"],
    ),
    (
        "curl",
        &[
            "ignite curl hello",
            "ignite curl hello /items -d '{\"a\": 1}' -H 'content-type: application/json'",
        ],
    ),
    (
        "apply",
        &[
            "ignite apply -f apps.toml --dry-run",
            "ignite apply -f apps.toml --prune",
        ],
    ),
    ("app create", &["ignite app create hello --tier small"]),
    (
        "app get",
        &["ignite app get hello", "ignite app get acme:hello -o json"],
    ),
    ("app list", &["ignite app list"]),
    (
        "app update",
        &["ignite app update hello --env LOG_LEVEL=debug --max-replicas 3"],
    ),
    ("app delete", &["ignite app delete hello"]),
    ("app state", &["ignite app state hello"]),
    (
        "app logs",
        &[
            "ignite app logs hello -f",
            "ignite app logs hello --since 10m",
        ],
    ),
    ("app replicas", &["ignite app replicas hello"]),
    ("app events", &["ignite app events hello -f"]),
    ("app scale", &["ignite app scale hello 2"]),
    ("app idle", &["ignite app idle hello"]),
    (
        "app wait",
        &["ignite app wait hello --replicas 1 --within 30s"],
    ),
    (
        "app exec",
        &[
            "ignite app exec hello -- env",
            "ignite exec hello -it -- /bin/sh",
        ],
    ),
    (
        "app host add",
        &["ignite app host add hello shop.example.com"],
    ),
    ("app host list", &["ignite app host list hello"]),
    (
        "app host remove",
        &["ignite app host remove hello shop.example.com"],
    ),
    (
        "app deploy",
        &[
            "ignite app deploy hello --code ./hello",
            "ignite app deploy web --image-ref nginx:1.27 --port 80 --allow-unauthenticated",
        ],
    ),
    (
        "init",
        &[
            "ignite init",
            "ignite init ./hello --show",
            "ignite init ./hello --write",
        ],
    ),
    ("dev", &["ignite dev", "ignite dev ./hello --app hello"]),
    ("draft save", &["ignite draft save hello --code ./hello"]),
    ("draft info", &["ignite draft info hello"]),
    ("draft compile", &["ignite draft compile hello --follow"]),
    ("draft compile-logs", &["ignite draft compile-logs hello"]),
    ("draft cancel", &["ignite draft cancel hello"]),
    ("draft test", &["ignite draft test hello -p '{}'"]),
    ("draft publish", &["ignite draft publish hello"]),
    ("version list", &["ignite version list hello"]),
    ("version get", &["ignite version get hello 2"]),
    ("version rollback", &["ignite version rollback hello 1"]),
    (
        "version test",
        &["ignite version test hello 2 --path /healthz --method get"],
    ),
    ("version prune", &["ignite version prune hello --keep 5"]),
    (
        "version code",
        &["ignite version code hello 2 --to hello.tar.gz"],
    ),
    (
        "invoke",
        &[
            "ignite invoke hello -p '{\"name\": \"x\"}'",
            "ignite invoke hello --async --wait",
        ],
    ),
    (
        "execution get",
        &["ignite execution get exec_01J9ZQ4Z6WQX8V5T2R7K3M1N0P --result"],
    ),
    (
        "execution list",
        &["ignite execution list hello --status failed --since 1h"],
    ),
    (
        "execution watch",
        &["ignite execution watch exec_01J9ZQ4Z6WQX8V5T2R7K3M1N0P"],
    ),
    (
        "execution stream",
        &["ignite execution stream exec_01J9ZQ4Z6WQX8V5T2R7K3M1N0P"],
    ),
    (
        "execution logs",
        &["ignite execution logs exec_01J9ZQ4Z6WQX8V5T2R7K3M1N0P"],
    ),
    (
        "execution cancel",
        &["ignite execution cancel exec_01J9ZQ4Z6WQX8V5T2R7K3M1N0P"],
    ),
    (
        "execution stats",
        &["ignite execution stats hello --bucket 1h --since 24h"],
    ),
    (
        "secret create",
        &[
            "ignite secret create registry --username me --server registry.example.com --password-stdin",
        ],
    ),
    ("secret get", &["ignite secret get registry"]),
    ("secret list", &["ignite secret list"]),
    ("secret delete", &["ignite secret delete registry"]),
];

/// Adds it to a command line, the cloud's or ours.
pub(super) fn complete(command: Command) -> Command {
    let globals: Vec<Arg> = command
        .get_arguments()
        .filter(|arg| arg.is_global_set())
        .map(|arg| arg.clone().hide(true))
        .collect();
    command.mut_subcommands(|sub| below(sub, "", &globals))
}

fn below(mut command: Command, path: &str, globals: &[Arg]) -> Command {
    let name = command.get_name();
    // The cloud's line has all of ours below `ignite`.
    let path = match (path, name) {
        (_, "ignite") => String::new(),
        ("", name) => name.to_owned(),
        (path, name) => format!("{path} {name}"),
    };
    // What has the same id is not added by clap, so it stays hidden.
    let own: Vec<_> = command
        .get_arguments()
        .map(|arg| arg.get_id().clone())
        .collect();
    let missing = globals
        .iter()
        .filter(|global| !own.contains(global.get_id()));
    command = command.args(missing.cloned().collect::<Vec<_>>());
    command = command.mut_args(|arg| match arg.get_id().as_str() {
        "token" | "token_file" => arg.hide(true),
        _ => arg,
    });
    if path == SERVE {
        command = command.mut_args(with_setting);
    }
    if !command.has_subcommands() {
        command = command.after_help(after(&path));
    }
    command.mut_subcommands(|sub| below(sub, &path, globals))
}

fn after(path: &str) -> String {
    let examples = EXAMPLES.iter().find(|(of, _)| *of == path);
    let examples = examples.map_or(&[][..], |(_, examples)| *examples);
    let mut text = String::new();
    if !examples.is_empty() {
        text.push_str(if examples.len() == 1 {
            "Example:\n"
        } else {
            "Examples:\n"
        });
        for example in examples {
            text.push_str(&format!("  {example}\n"));
        }
        text.push('\n');
    }
    text.push_str(GLOBAL);
    text
}

/// An option of the server with the default and the variable of its setting.
fn with_setting(arg: Arg) -> Arg {
    let name = arg.get_id().as_str().to_owned();
    let Some(variable) = Config::variable_of(&name) else {
        return arg;
    };
    let defaults = Config::defaults("~/.local/share/ignite".into()).to_toml();
    let default = defaults.lines().find_map(|line| {
        let value = line.strip_prefix(&name)?.strip_prefix(" = ")?;
        Some(value.trim_matches('"').to_owned())
    });
    let default = default.filter(|value| !value.is_empty() && value != "false");
    let default = default
        .map(|value| format!("[default: {value}] "))
        .unwrap_or_default();
    let help = arg.get_help().map(StyledStr::to_string).unwrap_or_default();
    arg.help(format!("{help} {default}[env: {variable}]"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, parse};

    fn leaves(command: &Command, path: &str, all: &mut Vec<String>) {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let path = format!("{path} {}", sub.get_name()).trim().to_owned();
            if sub.has_subcommands() {
                leaves(sub, &path, all);
            } else {
                all.push(path);
            }
        }
    }

    #[test]
    fn each_command_has_an_example_and_each_example_is_one_of_its_command() {
        let mut all = Vec::new();
        leaves(&parse::spread::<Cli>(), "", &mut all);
        let missing: Vec<_> = all
            .iter()
            .filter(|path| !EXAMPLES.iter().any(|(of, _)| of == path))
            .collect();
        assert!(missing.is_empty(), "write examples for {missing:?}");
        for (path, examples) in EXAMPLES {
            assert!(all.iter().any(|leaf| leaf == path), "there is no {path}");
            for example in *examples {
                let words = words(example);
                if let Err(error) = parse::parse::<Cli>(words.into_iter().map(Into::into)) {
                    panic!("{example}: {error}");
                }
            }
        }
    }

    /// The words of the part of an example that is ours, as a shell splits them.
    fn words(example: &str) -> Vec<String> {
        let begin = example.find("ignite").unwrap_or_default();
        let ours = example[begin..]
            .split([')', '>', '<'])
            .next()
            .unwrap_or_default();
        let (mut all, mut word, mut quoted) = (Vec::new(), String::new(), false);
        for c in ours.trim().chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => all.push(std::mem::take(&mut word)),
                c => word.push(c),
            }
        }
        all.push(word);
        all
    }

    #[test]
    fn the_server_says_its_defaults_and_variables_and_no_other_command_global_options() {
        let mut command = parse::spread::<Cli>();
        command.build();
        let serve = command.find_subcommand_mut("serve").expect("there is one");
        let text = serve.render_long_help().to_string();
        for part in [
            "[default: 127.0.0.1:8080]",
            "[env: IGNITE_HTTP_ADDR]",
            "ignite --help",
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        assert!(!text.contains("--api-endpoint <URL>"), "{text}");
        let all = command.render_long_help().to_string();
        assert!(
            all.contains("--api-endpoint <URL>") && all.contains("--token <TOKEN>"),
            "{all}"
        );
    }
}
