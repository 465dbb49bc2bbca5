# What a change costs the warm path: small requests through an app's URL (its host looked up, its
# token checked) to two binaries by turns, the one that is not measured stopped meanwhile: first as
# they are, for the time, then under callgrind, which counts instructions.
#
# BASE_BIN (required) names the directory of the release binary to compare with; PAIRS (10), SECS (3)
# per measurement, CLIENTS (32) connections.
#
# A ratio is this binary's figure by the other's in the same pair. The interval is from the second
# smallest to the second largest of the ratios: of ten, it covers their median with 97.9 %.

pairs=${PAIRS:-10} secs=${SECS:-3} clients=${CLIENTS:-32}
[ -x "${BASE_BIN:-}/ignite" ] || die "BASE_BIN has to name the directory of a release binary of ignite to compare with"
need wrk:wrk valgrind:valgrind
. "$root/scripts/bench/lib/peers.sh"

host=app-bench.ignite.localhost
now=$ignite
cat >"$work/done.lua" <<'LUA'
function done(summary)
    local e = summary.errors
    io.stderr:write(string.format("%d %d\n", summary.requests,
        e.connect + e.read + e.write + e.status + e.timeout))
end
LUA

declare -A pid at secret
# Starts both binaries with an app each, under this command, and stops them: [COMMAND ...].
start_both() {
    local which
    for which in base now; do
        [ "$which" = base ] && binary=$BASE_BIN/ignite || binary=$now
        # The client commands of start_server get the plain binary.
        printf '#!/bin/sh\n[ "$1" = serve ] || exec %s "$@"\nexec %s %s "$@"\n' "$binary" "$*" "$binary" >"$work/$which"
        chmod +x "$work/$which"
        ignite=$work/$which
        export IGNITE_DATA_DIR=$work/data-$which
        mkdir -p "$IGNITE_DATA_DIR"
        start_server
        deploy app ',"resourceTier":"RESOURCE_TIER_XLARGE","scaling":{"reservedCapacity":1,"maxReplicas":1}'
        # Answered once a replica is ready, which a publish need not wait for: a start that the stop
        # interrupts would end in the measurement, and hold its requests.
        curl -fsS -o "$work/first" -H "Host: $host" -H "Authorization: Bearer $token" "http://$http/status/200"
        pid[$which]=$server at[$which]=$http secret[$which]=$token
        background+=("$server")
        kill -STOP "$server"
    done
}
# So many seconds of requests: WHICH SECONDS; sets requests.
load() {
    local errors
    wrk -t1 -c"$clients" -d"$2s" -s "$work/done.lua" -H "Host: $host" \
        -H "Authorization: Bearer ${secret[$1]}" "http://${at[$1]}/status/200" >/dev/null 2>"$work/wrk.err"
    read -r requests errors <"$work/wrk.err" || die "wrk failed: $(cat "$work/wrk.err")"
    [ "$requests" -gt 0 ] && [ "$errors" -eq 0 ] || die "$1: $requests requests, $errors errors"
}
# CPU microseconds per request: WHICH.
time_of() {
    local before after
    before=$(cpu_of "${pid[$1]}")
    load "$1" "$secs"
    after=$(cpu_of "${pid[$1]}")
    awk -v c=$((after - before)) -v n="$requests" 'BEGIN { print c / n }'
}
# Instructions per request: WHICH.
instructions_of() {
    callgrind_control --zero "${pid[$1]}" >/dev/null
    load "$1" "$secs"
    rm -f "$work/callgrind."*
    callgrind_control --dump "${pid[$1]}" >/dev/null
    sed -n 's/^totals: //p' "$work/callgrind."* | awk -v n="$requests" '{ i += $1 } END { print i / n }'
}
# Measures by turns: FIGURE TITLE.
compare() {
    local pair which ratios
    rm -f "$work"/*.of
    for pair in $(seq "$pairs"); do
        printf '  %s, pair %s\n' "$2" "$pair" >&2
        # The order changes, so that what drifts with time falls on both.
        for which in $([ $((pair % 2)) -eq 0 ] && echo base now || echo now base); do
            kill -CONT "${pid[$which]}"
            # Under callgrind a server that was stopped needs seconds to catch up.
            load "$which" "$secs"
            "$1" "$which" >>"$work/$which.of"
            kill -STOP "${pid[$which]}"
        done
    done
    ratios=$(paste -d' ' "$work/now.of" "$work/base.of" | awk '{ printf "%.4f\n", $1 / $2 }' | sort -n)
    row "$2" "$(median <"$work/base.of")" "$(median <"$work/now.of")" "$(median <<<"$ratios")" \
        "$(sed -n 2p <<<"$ratios") to $(tail -n2 <<<"$ratios" | head -n1)"
}

row "per request, $clients connections, $pairs pairs" base this ratio interval
row --- --- --- --- ---
start_both
compare time_of 'CPU µs'
for server in "${background[@]}"; do
    kill -TERM "$server"
    kill -CONT "$server"
    wait "$server" || true
done
background=()
start_both valgrind --tool=callgrind --quiet "--callgrind-out-file=$work/callgrind.%p"
compare instructions_of instructions
