#!/usr/bin/env bash
# Sends what /openapi.json allows, and what it does not, to a real server with an app in it, and fails
# on every 500, every status or content type that an operation does not declare, and every answer
# that is not of its schema.
#
# OPENAPI_EXAMPLES (15) bounds the generated calls of each operation, and OPENAPI_SECS (900) each of the two
# runs, so that a hanging one fails. IGNITE_BIN names a folder with built binaries.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
die() { printf 'openapi: %s\n' "$*" >&2; exit 1; }

SCHEMATHESIS=4.32.5
examples=${OPENAPI_EXAMPLES:-15} seconds=${OPENAPI_SECS:-900}

bin=${IGNITE_BIN:-}
if [ -z "$bin" ]; then
    ./scripts/setup.sh
    cargo build --workspace --locked --bin ignite --bin ignite-kit
    bin=target/debug
fi
venv=$PWD/target/python-schemathesis
# Named in a file that is written last, so that an environment that was cut off is made anew.
if [ "$(cat "$venv/made" 2>/dev/null)" != "$SCHEMATHESIS" ]; then
    python3 -m venv --clear "$venv" || die "python3 with venv is missing: apt-get install python3-venv"
    "$venv/bin/pip" install -q --disable-pip-version-check --only-binary=:all: "schemathesis==$SCHEMATHESIS"
    echo "$SCHEMATHESIS" >"$venv/made"
fi

ignite=$bin/ignite
work=$(mktemp -d) server=
for name in $(compgen -e IGNITE_ || true) $(compgen -e DODIL_ || true); do unset "$name"; done
export IGNITE_DATA_DIR=$work/data
finish() {
    local code=$?
    trap - EXIT
    if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
        kill -TERM "$server" && wait "$server" || true
    fi
    if [ "$code" -ne 0 ] && [ -s "$work/log" ]; then
        printf '\nthe end of the server log:\n' >&2
        tail -n 30 "$work/log" >&2
    fi
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Short limits, since generated calls publish, build and wait, too.
"$ignite" serve --ephemeral --http-addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0 --set build_timeout_secs=20 \
    --set cold_start_budget_secs=20 --set app_timeout_secs=5 --set min_scaledown_secs=1 >"$work/ready" 2>"$work/log" &
server=$!
"$ignite" ready --wait 60s
http=$(sed -n 's/.*"http":"\([^"]*\)".*/\1/p' "$work/ready")
image=$("$bin/ignite-kit" image)
"$ignite" app deploy fuzz:hello --image-ref "$image" --description 'Answers.' >&2
execution=$("$ignite" invoke fuzz:hello --async)
token=$("$ignite" token create --org fuzz)

cat >"$work/schemathesis.toml" <<END
request-timeout = 60
headers = { Authorization = "Bearer $token" }
[checks]
# What has a reason of its own, and no bug: something is not here, not ready, or took too long.
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 501, 502, 503, 504]
[parameters]
"path.organization_name" = "fuzz"
END
checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method,ignored_auth

# Runs what is generated: NAME CONFIGURATION OPTIONS…
run() {
    local config=$2
    printf '==> openapi: %s\n' "$1"
    shift 2
    # It keeps what it learns in the folder it runs in.
    timeout --kill-after=30 "$seconds" env -C "$work" "$venv/bin/schemathesis" --config-file "$config" \
        run "http://$http/openapi.json" --checks "$checks" --max-examples "$examples" --continue-on-failure "$@"
}

# Names that exist: what is sent reaches the code behind them. What follows or waits for something, and
# what would end the app, is left to the other run.
{
    cat "$work/schemathesis.toml"
    cat <<END
"path.app_name" = "hello"
"path.execution_id" = "$execution"
"path.version" = "1"
END
} >"$work/names.toml"
run 'names that exist' "$work/names.toml" --exclude-operation-id DeleteApp --exclude-path-regex '/(stream|watch|wait)$'
{
    cat "$work/schemathesis.toml"
    echo '"path.app_name" = "missing"'
} >"$work/missing.toml"
run 'an app that does not exist' "$work/missing.toml"
kill -0 "$server" || die "the server has ended"
printf '==> openapi: ok, %ss\n' "$SECONDS"
