#!/usr/bin/env bash
# Benchmarks against a real engine, each with raw figures of the same run beside it.
#
#   scripts/bench.sh wake     a request to an app at zero, from each depth of standby
#   scripts/bench.sh scale    step loads: time, observed, desired, ready
#   scripts/bench.sh idle     what many apps at zero cost
#   scripts/bench.sh async    durable accepts beside Redis, and executions run to their end
#   scripts/bench.sh proxy    the app URL beside nginx and haproxy on the same container
#   scripts/bench.sh soak     mixed load for SOAK_SECS (600): memory, descriptors, every failure accounted for
#   scripts/bench.sh stream   1 GiB up and down beside nginx, and idle WebSockets: speed and memory
#   scripts/bench.sh cost     CPU and instructions per warm request beside an older binary (BASE_BIN)
#   scripts/bench.sh kept     what 100,000 kept executions cost, and the disk after retention
#   scripts/bench.sh all      all parts that the manual shows, one after another
#
# With --record before the part its tables are not only printed but put into src/docs/performance.md, between
# the marks of the part, with the machine and the date.
#
# A part is a file scripts/bench/<part>.sh; it is sourced with the helpers below and runs in $work.
# BENCH_BIN names a directory with release binaries to use; without it they are built.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

note() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
die() { printf 'bench: %s\n' "$*" >&2; exit 1; }

. scripts/bench/lib/table.sh

record=
if [ "${1:-}" = --record ]; then
    record=$1
    shift
fi
part=${1:-}
if [ "$part" = all ]; then
    for part in $(parts_in_manual); do ./scripts/bench.sh $record "$part"; done
    exit
fi
parts=$(cd scripts/bench && ls -- *.sh | sed 's/\.sh$//' | paste -sd' ')
[ -n "$part" ] && [ -f "scripts/bench/$part.sh" ] || die "give one of: $parts all"
[ -z "$record" ] || parts_in_manual | grep -qx -- "$part" || die "the manual has no place for $part"

./scripts/setup.sh >&2
bin=${BENCH_BIN:-$root/target/release}
# Builds these packages, unless the binaries were given.
build() {
    [ -n "${BENCH_BIN:-}" ] || cargo build --release --locked "${@/#/--package=}" >&2
}
note "Building"
build ignite ignite-kit
ignite=$bin/ignite kit=$bin/ignite-kit
image=$("$kit" image)

work=$(mktemp -d) server=
# Other processes of a part that end with it, such as peers.
background=()
# Empty in a part that restarts a server over the state of the previous one.
ephemeral=--ephemeral
# The server must not inherit the caller's settings.
for name in $(compgen -e IGNITE_ || true) $(compgen -e DODIL_ || true); do unset "$name"; done
export IGNITE_DATA_DIR="$work/data"
mkdir "$IGNITE_DATA_DIR"

stop_server() {
    if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
        # A part may have left it stopped, when it would not see the SIGTERM.
        kill -TERM "$server" && kill -CONT "$server" && wait "$server" || true
    fi
    server=
}
finish() {
    local code=$?
    trap - EXIT
    stop_server
    for pid in "${background[@]}"; do
        # Likewise.
        kill -TERM "$pid" && kill -CONT "$pid" && wait "$pid" || true
    done 2>/dev/null
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

# Installs what is missing: COMMAND:PACKAGE …, the packages by their names in Debian.
need() {
    local missing=() pair
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null \
        || die "install ${missing[*]} first; only root on Debian or Ubuntu gets them installed from here"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# The median of numbers, one per line.
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# A number or a text from one line of JSON, by its key.
field() { sed -n "s/.*\"$1\" *: *\"\{0,1\}\([^\",}]*\).*/\1/p" | head -n1; }

# Starts a server with these variables (NAME=VALUE …); sets http, grpc and token.
start_server() {
    : >"$work/ready"
    env "$@" "$ignite" serve $ephemeral --data-dir "$IGNITE_DATA_DIR" \
        --http-addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0 >"$work/ready" 2>>"$work/log" &
    server=$!
    # Only bounds a hang: under callgrind on a busy machine a start takes a minute.
    for _ in $(seq 3600); do
        if [ -s "$work/ready" ]; then break; fi
        kill -0 "$server" 2>/dev/null || die "the server ended at start"
        sleep 0.05
    done
    http=$(field http <"$work/ready") grpc=$(field grpc <"$work/ready")
    [ -n "$http" ] || die "the server has not printed its ready line"
    token=$("$ignite" token create --org bench --data-dir "$IGNITE_DATA_DIR")
    # Ephemeral servers remove the directory.
    mkdir -p "$IGNITE_DATA_DIR"
}

# One call of the JSON API: METHOD PATH [BODY].
api() {
    curl -fsS -X "$1" "http://$http$2" -H "Authorization: Bearer $token" \
        -H 'Content-Type: application/json' ${3:+-d "$3"}
}

# The body of a publish; a part with many apps skips the check that each can start.
publish='{}'
# Creates and publishes an app of the probe: NAME [SETTINGS as JSON fields with a leading comma].
deploy() {
    api POST /v1/ignite/app/bench "{\"name\":\"$1\"${2:-},\"code\":{\"image\":{\"prebuilt\":{\"imageRef\":\"$image\"}}}}" >/dev/null
    api POST "/v1/ignite/app/bench/$1/draft/publish" "$publish" >/dev/null
}

if [ -z "$record" ]; then
    . "$root/scripts/bench/$part.sh"
else
    . "$root/scripts/bench/$part.sh" >"$work/printed"
    cat "$work/printed"
    into_manual "$part" "$work/printed"
fi
