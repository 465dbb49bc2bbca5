//! Wrong inputs: each message names what is wrong and what to write instead, with the exit code of its
//! kind. None of them gets as far as a server.

use super::{ignite, run};

/// A command line, its exit code, and words for the cause and the remedy.
type Row = (&'static str, i32, &'static [&'static str]);

const WRONG: &[Row] = &[
    ("app get", 2, &["required", "<ID>"]),
    ("app get A", 2, &["'A'", "lower-case", "org:app"]),
    ("app get a:b:c", 2, &["':'", "org:app"]),
    ("app get a b", 2, &["'b'", "Usage"]),
    ("app gett a", 2, &["gett", "'get'"]),
    ("app create a --memory x", 2, &["--memory", "whole number"]),
    ("app create a --memory -1", 2, &["'-1'", "0 or more"]),
    (
        "app create a --memory 99999999999",
        2,
        &["--memory", "0 to 4294967295"],
    ),
    (
        "app create a --memory 1.5",
        2,
        &["--memory", "whole number"],
    ),
    ("app create a --cpu half", 2, &["--cpu", "whole number"]),
    ("app create a --tier huge", 2, &["huge", "small, medium"]),
    (
        "app create a --timeout-secs 5s",
        2,
        &["--timeout-secs", "whole number"],
    ),
    (
        "app create a --max-replicas many",
        2,
        &["--max-replicas", "whole number"],
    ),
    ("app create a --reserved -1", 2, &["'-1'", "0 or more"]),
    (
        "app create a --scale-metric cpu",
        2,
        &["cpu", "request-rate"],
    ),
    (
        "app create a --scale-threshold x",
        2,
        &["--scale-threshold", "whole number"],
    ),
    (
        "app create a --scaledown-period-secs 1m",
        2,
        &["--scaledown-period-secs", "whole number"],
    ),
    (
        "app create a --max-concurrency all",
        2,
        &["--max-concurrency", "whole number"],
    ),
    ("app create a --port 70000", 2, &["--port", "0 to 65535"]),
    ("app create a --port http", 2, &["--port", "whole number"]),
    ("app create a --port -1", 2, &["'-1'", "0 or more"]),
    ("app create a --env A", 2, &["--env", "KEY=VALUE"]),
    ("app create a --env =b", 2, &["--env", "KEY=VALUE"]),
    (
        "app create a --env-file /nowhere",
        2,
        &["--env-file /nowhere", "check the path"],
    ),
    (
        "app create a --env-file /",
        2,
        &["--env-file /", "a folder"],
    ),
    (
        "app create a --unset-env A=b",
        2,
        &["--unset-env", "only the name"],
    ),
    (
        "app create a --env A=b --unset-env A",
        2,
        &["A is given", "leave one"],
    ),
    (
        "app create a --allow-unauthenticated=yes",
        2,
        &["--allow-unauthenticated", "true, false"],
    ),
    (
        "app create a --mcp-enabled=1",
        2,
        &["--mcp-enabled", "true, false"],
    ),
    (
        "app create a --storage-mode forever",
        2,
        &["forever", "persistent"],
    ),
    (
        "app create a --storage-mode persistent --ttl 5",
        2,
        &["--ttl", "--storage-mode ttl"],
    ),
    ("app create a --ttl 1d", 2, &["--ttl", "whole number"]),
    (
        "app create a --input-schema /nowhere",
        2,
        &["--input-schema", "no JSON object"],
    ),
    ("app create a --init=maybe", 2, &["maybe", "auto, on, off"]),
    ("app create a --protocol http3", 2, &["http3", "h2c"]),
    ("app create a --other", 2, &["--other", "Usage"]),
    ("app list --limit x", 2, &["--limit", "whole number"]),
    ("app list --limit -1", 2, &["'-1'", "0 or more"]),
    ("app list -o xml", 2, &["xml", "table, json, yaml, wide"]),
    ("app list --timeout 5", 2, &["no unit", "5s"]),
    ("app list --timeout 5parsecs", 2, &["5parsecs", "250ms"]),
    ("app list --timeout 500d", 2, &["500d", "365 days"]),
    (
        "app list --api-endpoint ftp://h",
        2,
        &["ftp://h", "host:port"],
    ),
    (
        "app list --api-endpoint h:1/path",
        2,
        &["h:1/path", "host:port"],
    ),
    (
        "app list --api-endpoint 127.0.0.1:99999",
        2,
        &["127.0.0.1:99999", "host:port"],
    ),
    (
        "app list --token t --token-file f",
        2,
        &["--token-file", "one of them"],
    ),
    (
        "app list --token-file /nowhere",
        2,
        &["--token-file /nowhere", "check the path"],
    ),
    ("app list --token a\"b", 2, &["token", "letters, digits"]),
    ("app list --org A", 2, &["'A'", "--org"]),
    (
        "app list --ca-cert /nowhere --api-endpoint https://127.0.0.1:1",
        2,
        &["/nowhere", "check the path"],
    ),
    (
        "app list --config /nowhere.yaml",
        2,
        &["/nowhere.yaml", "check the path"],
    ),
    (
        "app list --context nowhere",
        2,
        &["nowhere", "ignite context add"],
    ),
    ("app update a", 2, &["nothing to change", "--help"]),
    (
        "app update a --env-file /nowhere",
        2,
        &["--env-file /nowhere", "check the path"],
    ),
    ("app deploy a", 2, &["--code", "--image-ref"]),
    (
        "app deploy a --code /nowhere",
        2,
        &["/nowhere", "cannot be read"],
    ),
    (
        "app deploy a --code d --image-ref r",
        2,
        &["--code", "--image-ref"],
    ),
    (
        "app deploy a --image-ref r --runtime python",
        2,
        &["--image-ref", "--runtime"],
    ),
    (
        "app deploy a --code . --runtime cobol",
        2,
        &["cobol", "python"],
    ),
    (
        "app deploy a --code . --toolchain 1.9",
        2,
        &["required", "--runtime"],
    ),
    (
        "app deploy a --code . --runtime rust --toolchain 1.90;",
        2,
        &["\"1.90;\"", "1.90.0"],
    ),
    (
        "app deploy a --code . --runtime rust --rust-target wasm",
        2,
        &["wasm", "--rust-target native"],
    ),
    (
        "app deploy a --code . --runtime go --rust-target native",
        2,
        &["--rust-target", "--runtime rust"],
    ),
    (
        "app deploy a --git-url u --build-arg A=b",
        2,
        &["--git-url", "--build-arg"],
    ),
    (
        "app deploy a --code . --build-arg A",
        2,
        &["--build-arg", "NAME=VALUE"],
    ),
    ("app deploy a --git-ref r", 2, &["required", "--git-url"]),
    ("app logs a --limit 0", 2, &["--limit", "1 to"]),
    ("app logs a --since 10", 2, &["no unit", "10s"]),
    ("app logs a --since yesterday", 2, &["yesterday", "10s"]),
    ("app events a --limit x", 2, &["--limit", "whole number"]),
    ("app events a --limit 70000", 2, &["--limit", "0 to 65535"]),
    ("app scale a", 2, &["required", "<REPLICAS>"]),
    ("app scale a x", 2, &["<REPLICAS>", "whole number"]),
    ("app scale a -1", 2, &["'-1'", "0 or more"]),
    (
        "app idle a --depth deep",
        2,
        &["deep", "paused, prepared, absent"],
    ),
    (
        "app wait a --replicas x",
        2,
        &["--replicas", "whole number"],
    ),
    ("app wait a --within 5", 2, &["no unit", "5s"]),
    (
        "app wait a --replicas 1 --depth paused",
        2,
        &["--replicas", "--depth"],
    ),
    ("app host add a", 2, &["required", "<HOST>"]),
    ("app exec a", 2, &["required", "<COMMAND>"]),
    ("exec a --", 2, &["required", "<COMMAND>"]),
    ("exec get 7", 2, &["\"7\"", "ULID"]),
    ("exec list --status odd", 2, &["odd", "pending, running"]),
    ("exec list --since 1", 2, &["no unit", "1s"]),
    ("exec list --limit 0", 2, &["--limit", "1 to"]),
    ("exec stats a --bucket 5ms", 2, &["5ms", "second"]),
    ("version get a", 2, &["required", "<VERSION>"]),
    ("version get a x", 2, &["<VERSION>", "whole number"]),
    ("version rollback a -1", 2, &["'-1'", "0 or more"]),
    ("version prune a", 2, &["required", "--keep"]),
    ("version prune a --keep 0", 2, &["--keep", "1 to"]),
    ("version prune a --keep x", 2, &["--keep", "whole number"]),
    (
        "version code a 1 --version 2",
        2,
        &["--version", "cannot be used"],
    ),
    ("invoke a -p {", 2, &["not JSON", "--payload-file"]),
    (
        "invoke a -p 1 --payload-file f",
        2,
        &["--payload", "--payload-file"],
    ),
    (
        "invoke a --payload-file /nowhere",
        2,
        &["/nowhere", "check the path"],
    ),
    ("invoke a --method fetch", 2, &["fetch", "get, post"]),
    ("invoke a --path x", 2, &["\"x\"", "start with /"]),
    ("invoke a --header x", 2, &["--header", "NAME:VALUE"]),
    ("invoke a --wait", 2, &["required", "--async"]),
    ("invoke a --idempotency-key k", 2, &["required", "--async"]),
    ("invoke a --async --include", 2, &["required", "--wait"]),
    ("secret create s", 2, &["--password", "--password-stdin"]),
    (
        "secret create a.b --password p",
        2,
        &["'.'", "letters, digits"],
    ),
    (
        "secret create s --password p --password-stdin",
        2,
        &["--password", "cannot be used"],
    ),
    (
        "secret create s --type registry --token t",
        2,
        &["--token", "--password"],
    ),
    (
        "secret create s --type kerberos --password p",
        2,
        &["kerberos", "registry, git"],
    ),
    ("token create", 2, &["organization", "--org"]),
    ("token create --org A", 2, &["'A'", "lower-case"]),
    ("token create --org o --ttl 5", 2, &["no unit", "5s"]),
    ("token create --org o --ttl 0s", 2, &["--ttl", "1s"]),
    (
        "token create --org o --scope Fly",
        2,
        &["Fly", "ignite.app-viewer"],
    ),
    ("token revoke-key", 2, &["required", "<KID>"]),
    (
        "service-account create Ci --org o",
        2,
        &["Ci", "lower-case"],
    ),
    ("service-account create ci", 2, &["organization", "--org"]),
    (
        "service-account create ci --org o --role ignite.king",
        2,
        &["ignite.king", "ignite.app-viewer"],
    ),
    (
        "service-account create ci --app a --org o",
        2,
        &["required", "--role"],
    ),
    (
        "service-account rotate ci --org o --keep 5",
        2,
        &["no unit", "5s"],
    ),
    ("audit --since 5", 2, &["no unit", "5s"]),
    ("audit --limit x", 2, &["--limit", "whole number"]),
    ("config set nothing x", 2, &["nothing", "api_endpoint"]),
    (
        "config set api_endpoint ftp://h",
        2,
        &["ftp://h", "host:port"],
    ),
    ("config set token t", 2, &["token", "ignite token create"]),
    ("config set org_id A", 2, &["org_id", "lower-case"]),
    ("config set output xml", 2, &["xml", "table, json"]),
    ("config set timeout 5", 2, &["no unit", "5s"]),
    ("config set debug yes", 2, &["debug", "true nor false"]),
    (
        "config set ca_cert /nowhere",
        2,
        &["/nowhere", "check the path"],
    ),
    ("login", 2, &["ignite login ID SECRET", "--token"]),
    ("login id", 2, &["secret of id", "stdin"]),
    ("login --token t", 2, &["token", "ignite token create"]),
    ("context use nowhere", 2, &["nowhere", "ignite context add"]),
    ("context remove nowhere", 2, &["nowhere", "default"]),
    (
        "context add default --api-endpoint h:1",
        2,
        &["default", "another name"],
    ),
    (
        "context add a/b --api-endpoint h:1",
        2,
        &["a/b", "letters, digits"],
    ),
    ("context add a", 2, &["--api-endpoint", "--data-dir"]),
    (
        "context add a --api-endpoint h:1 --token t",
        2,
        &["token", "three parts"],
    ),
    ("top --interval 1", 2, &["no unit", "1s"]),
    ("top --interval 1ms", 2, &["1ms", "200ms"]),
    ("open a x", 2, &["slash", "/x"]),
    ("curl", 2, &["required", "<ID>"]),
    ("status x", 2, &["'x'", "Usage"]),
    ("completion csh", 2, &["csh", "zsh"]),
    ("man", 2, &["required", "<DIR>"]),
    ("man /dev/null/x", 1, &["/dev/null/x", "Not a directory"]),
    ("apply", 2, &["required", "--file"]),
    ("apply -f /nowhere", 2, &["/nowhere", "check the path"]),
    ("ready --wait 5", 2, &["no unit", "5s"]),
    ("doctor --set x", 2, &["--set", "NAME=VALUE"]),
    ("doctor --set nothing=1", 64, &["nothing", "--dump-config"]),
    ("prune --after 5", 64, &["--after", "5s"]),
    (
        "store check --data-dir /nowhere",
        1,
        &["/nowhere", "--data-dir"],
    ),
    (
        "ca print --data-dir /nowhere",
        2,
        &["/nowhere", "ignite serve"],
    ),
    (
        "serve --http-addr x",
        64,
        &["--http-addr", "127.0.0.1:8080"],
    ),
    (
        "serve --http-addr 127.0.0.1:x",
        64,
        &["--http-addr", "127.0.0.1:8080"],
    ),
    ("serve --trust everybody", 64, &["everybody", "tenants"]),
    ("serve --set x", 2, &["--set", "NAME=VALUE"]),
    ("serve --set nothing=1", 64, &["nothing", "--dump-config"]),
    (
        "serve --set pids_limit=-1",
        64,
        &["pids_limit", "whole number"],
    ),
    (
        "serve --cold-start-budget-secs 5s",
        64,
        &["5s", "without a unit"],
    ),
    (
        "serve --max-replicas-cap x",
        64,
        &["--max-replicas-cap", "whole number"],
    ),
    ("serve --standby frozen", 64, &["frozen", "pause, prepared"]),
    ("serve --freezer ice", 64, &["ice", "cgroup"]),
    ("serve --log-format xml", 64, &["xml", "plain or json"]),
    ("serve --log-level loud", 64, &["loud", "debug or trace"]),
    ("serve --tls on", 64, &["--tls", "local"]),
    ("serve --tls-cert f", 64, &["tls_cert", "--tls-key"]),
    ("serve --reach far", 64, &["far", "published"]),
    ("serve --docker-host ssh://x", 64, &["ssh", "unix://"]),
    (
        "serve --config /nowhere.toml",
        64,
        &["/nowhere.toml", "cannot be read"],
    ),
    (
        "serve --public-url x",
        64,
        &["--public-url", "https://:443"],
    ),
    (
        "serve --base-domain a_b",
        64,
        &["base_domain", "ignite.localhost"],
    ),
    ("dev /nowhere", 2, &["/nowhere", "cannot be read"]),
    ("dev --app A", 2, &["--app", "org:app"]),
    ("models list", 2, &["no models", "MODEL_API_BASE"]),
    ("draft save a", 2, &["required", "--image-ref"]),
    ("draft test a -p {", 2, &["not JSON", "--payload-file"]),
    ("nonsense", 2, &["nonsense", "--help"]),
    ("--nonsense", 2, &["--nonsense", "--help"]),
];

/// What only a programmer of the parser understands.
const TERSE: [&str; 4] = [
    "invalid digit",
    "expected number at",
    "invalid variant",
    "use '-- -",
];

#[test]
fn every_wrong_input_names_its_cause_and_its_remedy() {
    let home = tempfile::tempdir().expect("a directory");
    let mut faults = Vec::new();
    for (line, code, words) in WRONG {
        let args: Vec<&str> = line.split(' ').collect();
        let mut command = ignite(home.path(), &args);
        command.current_dir(home.path());
        if args[0] != "serve" && !line.contains("--api-endpoint") {
            command.env("IGNITE_API_ENDPOINT", "127.0.0.1:1");
        }
        let ran = run(command);
        let missing = words.iter().filter(|word| !ran.err.contains(*word));
        let terse = TERSE.iter().filter(|word| ran.err.contains(*word));
        let found: Vec<_> = missing.chain(terse).collect();
        if ran.code != Some(*code) || !found.is_empty() || !ran.out.is_empty() {
            faults.push(format!(
                "{line}: {:?} instead of {code}, {found:?} in {}{}",
                ran.code, ran.out, ran.err
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
