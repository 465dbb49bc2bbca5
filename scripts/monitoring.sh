#!/usr/bin/env bash
# Proves the metrics with Debian's Prometheus: promtool accepts the exposition and the alert rules,
# and a real Prometheus scrapes a server under load and answers every query of the dashboard.
#
# IGNITE_BIN names another binary than the debug build. Prometheus is unpacked into a temporary
# folder, not installed.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"

for name in $(compgen -e IGNITE_ || true) $(compgen -e DODIL_ || true); do
    [ "$name" = IGNITE_BIN ] || unset "$name"
done
ignite=$(realpath "${IGNITE_BIN:-target/debug/ignite}")
kit=${KIT_BIN:-target/debug/ignite-kit}
here=$PWD/scripts/package/monitoring
work=$(mktemp -d) pids=()
export IGNITE_DATA_DIR="$work/data"
mkdir "$IGNITE_DATA_DIR"

finish() {
    local code=$?
    trap - EXIT
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null && wait "$pid" || true; done
    if [ "$code" -ne 0 ]; then tail -n 20 "$work"/*.log >&2 || true; fi
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
die() { printf 'monitoring: %s\n' "$*" >&2; exit 1; }
# Waits for a command to succeed.
until_ok() {
    local tries=600
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || die "never came true: $*"
        sleep 0.1
    done
}

if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
    prometheus=prometheus promtool=promtool
else
    command -v apt-get >/dev/null || die "install Prometheus (prometheus and promtool), or run this on Debian or Ubuntu"
    (cd "$work" && apt-get download prometheus >apt.log 2>&1) ||
        { apt-get update >/dev/null && (cd "$work" && apt-get download prometheus >apt.log 2>&1); } ||
        die "apt-get cannot download prometheus; see above"
    dpkg -x "$work"/prometheus_*.deb "$work/prometheus"
    prometheus=$work/prometheus/usr/bin/prometheus promtool=$work/prometheus/usr/bin/promtool
fi

"$ignite" serve --set http_addr=127.0.0.1:0 --set grpc_addr=127.0.0.1:0 --set metrics_addr=127.0.0.1:0 --ephemeral \
    >"$work/ready" 2>"$work/ignite.log" &
pids+=($!)
until_ok grep -q '"ready"' "$work/ready"
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$work/ready"; }
http=$(field http) metrics=$(field metrics)
image=$("$kit" image)
token=$("$ignite" token create --org acme)
"$ignite" --org acme app deploy web --image-ref "$image" >/dev/null
"$ignite" --org acme app deploy worker --image-ref "$image" >/dev/null

# Load of every kind until Prometheus has seen it twice: warm and refused requests, executions, a build.
mkdir "$work/code"
printf 'FROM %s\n' "$image" >"$work/code/Dockerfile"
"$ignite" --org acme app deploy built --code "$work/code" >/dev/null
(
    while :; do
        curl -s -o /dev/null -H "Authorization: Bearer $token" "http://$http/_app/acme/web/"
        curl -s -o /dev/null -H "Authorization: Bearer $token" "http://$http/_app/acme/web/status/404"
        curl -s -o /dev/null "http://$http/_app/acme/web/"
        "$ignite" --org acme invoke worker --async >/dev/null
    done
) &
pids+=($!)
(
    # Requests that wait for a start.
    while :; do
        "$ignite" --org acme app idle built --depth absent >/dev/null
        curl -s -o /dev/null -H "Authorization: Bearer $token" "http://$http/_app/acme/built/"
    done
) &
pids+=($!)

curl -sf "http://$metrics/metrics" >"$work/exposition"
"$promtool" check metrics <"$work/exposition"
"$promtool" check rules "$here/alerts.yml"

sed -e "s/127.0.0.1:9464/$metrics/" -e 's/: 15s/: 1s/' "$here/prometheus.yml" >"$work/prometheus.yml"
cp "$here/alerts.yml" "$work/"
"$promtool" check config "$work/prometheus.yml" >/dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$prometheus" --config.file "$work/prometheus.yml" --storage.tsdb.path "$work/tsdb" --web.listen-address "127.0.0.1:$port" \
    >"$work/prometheus.log" 2>&1 &
pids+=($!)
until_ok curl -sf "http://127.0.0.1:$port/-/ready"
python3 scripts/monitoring_queries.py "$here/dashboard.json" "http://127.0.0.1:$port"
printf '==> monitoring: ok, %s series, %ss\n' "$(grep -vc '^#' "$work/exposition")" "$SECONDS"
