#!/usr/bin/env bash
# Shows the main job, measured: publish an image, a cold request beside a raw start on the same
# engine, warm requests, scale to zero, and the wake after it. Every figure is from this run, of a
# build that is quick to make: a release answers faster.
# Leaves nothing behind but build output and the probe's image; with --keep it ends with the server
# running, and says how to call its app and how to stop it.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

ORG=demo APP=probe SCALEDOWN=2 RAW_RUNS=5 WARM_RUNS=20

keep=
case "${1:-}" in
    '') ;;
    --keep) keep=yes ;;
    *) printf 'demo: %s is unknown; the only option is --keep\n' "$1" >&2; exit 2 ;;
esac
began=$SECONDS

note() { printf '\n\033[1m%s\033[0m\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

./scripts/setup.sh
note "Building (the first time takes minutes)"
# Static, since the app's image has nothing but its program; so one build makes everything.
triple=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS='-C target-feature=+crt-static' cargo build --profile quick --locked --target "$triple" \
    --package ignite --package ignite-kit --package ignite-probe
built=target/$triple/quick ignite=$PWD/target/$triple/quick/ignite kit=target/$triple/quick/ignite-kit
image=$(PROBE_BINARY=$built/ignite-probe "$kit" image)
echo "image: $image"

work=$(mktemp -d) server=
# The server must not inherit the caller's settings.
for name in $(compgen -e IGNITE_ || true) $(compgen -e DODIL_ || true); do unset "$name"; done
export IGNITE_DATA_DIR="$work/data"
mkdir "$IGNITE_DATA_DIR"

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

# A number or a text from one line of JSON, by its key.
field() { sed -n "s/.*\"$1\" *: *\"\{0,1\}\([^\",}]*\).*/\1/p" | head -n1; }
# Seconds to milliseconds with one decimal.
ms() { awk -v s="$1" 'BEGIN { printf "%.1f", s * 1000 }'; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }

note "Serving"
IGNITE_MIN_SCALEDOWN_SECS=1 "$ignite" serve --ephemeral --data-dir "$IGNITE_DATA_DIR" \
    --http-addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0 >"$work/ready" 2>"$work/log" &
server=$!
for _ in $(seq 200); do
    if [ -s "$work/ready" ]; then break; fi
    kill -0 "$server" 2>/dev/null || die "the server ended at start"
    sleep 0.05
done
http=$(field http <"$work/ready")
[ -n "$http" ] || die "the server has not printed its ready line"
cat "$work/ready"
token=$("$ignite" token create --org "$ORG" --data-dir "$IGNITE_DATA_DIR")

note "Publishing"
# Scaling is set through the API, together with the app.
curl -fsS -o /dev/null "http://$http/v1/ignite/app/$ORG" -H "Authorization: Bearer $token" \
    -H 'Content-Type: application/json' \
    -d "{\"name\":\"$APP\",\"scaling\":{\"scaledownPeriodSecs\":$SCALEDOWN}}"
"$ignite" --org "$ORG" app deploy "$APP" --image-ref "$image"
# The publish started a replica to check the version: remove it.
for step in idle wait; do "$ignite" app "$step" "$ORG:$APP" --depth absent >/dev/null; done

# One request to the app; sets total (ms to the first byte) and leaves headers in $work/head.
ask() {
    local said
    said=$(curl -sS -o "$work/body" -D "$work/head" -w '%{http_code} %{time_starttransfer}' \
        -H "Authorization: Bearer $token" "http://$http/_app/$ORG/$APP/")
    [ "${said%% *}" = 200 ] || die "the app answered ${said%% *}: $(cat "$work/body")"
    total=$(ms "${said#* }")
}
header() { sed -n "s/^$1: *//Ip" "$work/head" | tr -d '\r' | paste -sd, -; }
# One duration of Server-Timing.
part() { header server-timing | tr ',' '\n' | sed -n "s/^ *$1;.*dur=\([0-9.]*\).*/\1/p" | head -n1; }
must_be_cold() {
    [ "$(header x-ignite-cold-start)" = true ] || die "the request was not cold: $(cat "$work/head")"
}
replicas() {
    local state
    state=$(curl -fsS -H "Authorization: Bearer $token" "http://$http/v1/ignite/app/$ORG/$APP/state" | tr -d '\n')
    # Zero is left out of JSON.
    printf '%s' "$(printf '%s' "$state" | field runningReplicas)"
}
wait_for_zero() {
    local n
    for _ in $(seq 600); do
        n=$(replicas)
        if [ "${n:-0}" = 0 ]; then return; fi
        sleep 0.05
    done
    die "still ${n} replicas after 30 s"
}

wait_for_zero
ask
must_be_cold
cold=$total timing=$(header server-timing)
for name in queue create start ready; do printf -v "ours_$name" '%s' "$(part $name)"; done

# With the running replica's own settings, which must be read while it runs.
"$kit" cold --data-dir "$IGNITE_DATA_DIR" -n "$RAW_RUNS" >"$work/raw"
raw=$(tail -n1 "$work/raw")

echo "the first cold request was answered $((SECONDS - began)) s after the start of this script"
note "A cold request, in milliseconds"
row() { printf '  %-26s %12s %24s\n' "$@"; }
row '' 'through ignite' "engine alone (median of $RAW_RUNS)"
row 'waiting in the queue' "${ours_queue:--}" '-'
for name in create start ready; do
    ours="ours_$name"
    row "$name" "${!ours:--}" "$(printf '%s' "$raw" | field $name)"
done
row 'until the first byte' "$cold" "$(printf '%s' "$raw" | field total)"
echo "  Server-Timing: $timing"
echo "  engine alone, each run: $(sed '$d' "$work/raw" | while read -r line; do printf '%s ' "$(printf '%s' "$line" | field total)"; done)"

note "Warm requests"
# The raw runs took longer than the scale-down period: the first one may have to start a replica.
ask
for _ in $(seq "$WARM_RUNS"); do
    ask
    [ -z "$(header x-ignite-cold-start)" ] || die "a warm request was cold"
    echo "$total"
done | sort -n >"$work/warm"
[ "$(wc -l <"$work/warm")" -eq "$WARM_RUNS" ] || die "a warm request failed"
last=$(now)
awk '{ v[NR] = $1 } END { printf "  %d requests, a connection each: median %s ms, slowest %s ms\n", NR, v[int(NR / 2) + 1], v[NR] }' "$work/warm"

note "Scale to zero"
wait_for_zero
echo "  no replica $(since "$last") s after the last answer (scale-down period: $SCALEDOWN s)"

note "The wake after it, from warm standby"
ask
[ -z "$(header x-ignite-cold-start)" ] || die "the app was started anew instead of thawed"
echo "  until the first byte: $total ms, by the same process: it was frozen"

if [ -n "$keep" ]; then
    trap - EXIT INT TERM
    disown "$server"
    note "Kept running"
    cat <<END
  the app:      curl -H "Authorization: Bearer $token" http://$http/_app/$ORG/$APP/
  the client:   IGNITE_DATA_DIR=$IGNITE_DATA_DIR $ignite --org $ORG app list
  the log:      $work/log
  stop it with: kill $server && rm -r $work
END
    exit
fi
note "Stopping"
began=$(now)
kill -TERM "$server"
wait "$server" || die "the server ended with $?"
server=
echo "  stopped in $(since "$began") s; left in the engine: $("$kit" owned --data-dir "$IGNITE_DATA_DIR")"
