# Small requests through an app's URL (found by host, its token checked), beside nginx and haproxy
# before the same container and beside the container alone; all get the same request with the same
# headers. Alternately, in several rounds. The processes share this machine's cores with the load.
#
# ROUNDS (5), SECS (3) per measurement, CASES ("32 1 512 apps": so many connections, or many
# registered apps beside one), APPS (10000), WORKERS (one a core: threads of nginx and haproxy).
#
# Figures are medians; a ratio is the median of the rounds' ratios, so that a machine that gets
# faster or slower meanwhile changes none.

rounds=${ROUNDS:-5} secs=${SECS:-3} cases=${CASES:-32 1 512 apps} apps=${APPS:-10000}
need nginx:nginx-light haproxy:haproxy wrk:wrk
. "$root/scripts/bench/lib/peers.sh"

# The exact figures of wrk, on one line.
cat >"$work/done.lua" <<'LUA'
function done(summary, latency)
    local e = summary.errors
    io.stderr:write(string.format("%d %.1f %.1f %.1f %d\n", summary.requests,
        summary.requests * 1e6 / summary.duration, latency:percentile(50), latency:percentile(99),
        e.connect + e.read + e.write + e.status + e.timeout))
end
LUA

# The largest tier: with a smaller one the engine would stop the container when its share of a
# tenth of a second is used up, and that is what the p99 of all would show.
scaling=',"resourceTier":"RESOURCE_TIER_XLARGE","scaling":{"reservedCapacity":1,"maxReplicas":1}'
start_server
deploy app "$scaling"
host=app-bench.ignite.localhost
replica=$(replica_of app)
start_nginx "$replica"
start_haproxy "$replica"

# One measurement of one server: LABEL CLIENTS ADDRESS [PID]. Adds a line to $work/of/LABEL: requests
# per second, p50 and p99 in microseconds, errors, microseconds of CPU per request.
one() {
    local before=0 after=0 requests rate p50 p99 errors
    [ -z "${4:-}" ] || before=$(cpu_of "$4")
    wrk -t1 -c"$2" -d"${secs}s" --latency -s "$work/done.lua" -H "Host: $host" \
        -H "Authorization: Bearer ${as:-$token}" "http://$3/status/200" >"$work/wrk" 2>"$work/wrk.err"
    [ -z "${4:-}" ] || after=$(cpu_of "$4")
    read -r requests rate p50 p99 errors <"$work/wrk.err" || die "wrk failed: $(cat "$work/wrk.err")"
    [ "$requests" -gt 0 ] || die "$1 answered nothing: $(cat "$work/wrk")"
    awk -v r="$rate" -v p="$p50" -v q="$p99" -v e="$errors" -v c=$((after - before)) -v n="$requests" \
        'BEGIN { print r, p, q, e, c / n }' >>"$work/of/$1"
}
# The median of one column of a label's lines: LABEL COLUMN.
column() { awk -v c="$2" '{ print $c }' "$work/of/$1" | median; }
errors() { awk '{ n += $4 } END { print n }' "$work/of/$1"; }
# The median of the rounds' ratios of two labels in one column: LABEL LABEL COLUMN.
ratio() { paste -d' ' "$work/of/$1" "$work/of/$2" | awk -v c="$3" '{ print $c / $(c + 5) }' | median; }

show() { # LABEL TITLE
    row "$2" "$(column "$1" 1 | awk '{ printf "%.0f", $1 }')" "$(column "$1" 2)" "$(column "$1" 3)" \
        "$(column "$1" 5 | awk '{ printf "%.1f", $1 }')" "$(errors "$1")"
}
# The better peer in a column: `max` or `min` of the medians.
better() {
    local n h
    n=$(column nginx "$1") h=$(column haproxy "$1")
    awk -v n="$n" -v h="$h" -v how="$2" 'BEGIN { print ((how == "max") == (n >= h)) ? "nginx" : "haproxy" }'
}

against_peers() { # CLIENTS
    local peer
    note "$1 connections: $rounds rounds of $secs s each"
    for round in $(seq "$rounds"); do
        printf '  round %s\n' "$round" >&2
        one direct "$1" "$replica"
        one nginx "$1" "$nginx_at" "$nginx"
        one ignite "$1" "$http" "$server"
        one haproxy "$1" "$haproxy_at" "$haproxy"
    done
    for name in direct nginx haproxy ignite; do show "$name" "$name, $1 connections"; done
    if [ "$1" -eq 1 ]; then
        peer=$(better 2 min)
        target "1 connection: p50 of $peer's" "$(ratio ignite "$peer" 2)" 'at most' 1.1
        return
    fi
    if [ "$1" -le 64 ]; then
        peer=$(better 1 max)
        target "$1 connections: requests/s of $peer's" "$(ratio ignite "$peer" 1)" 'at least' 1.0
        peer=$(better 3 min)
        target "$1 connections: p99 of $peer's" "$(ratio ignite "$peer" 3)" 'at most' 1.1
        peer=$(better 5 min)
        target "$1 connections: CPU per request of $peer's" "$(ratio ignite "$peer" 5)" 'at most' 1.1
    fi
    target "$1 connections: errors" "$(errors ignite)" 'at most' 0
}

# Publishes this many apps of the local image, a few calls at a time over kept connections.
publish_many() {
    local step n
    for step in create publish; do
        for n in $(seq "$1"); do
            [ "$n" -eq 1 ] || echo next
            if [ "$step" = create ]; then
                printf 'url = "http://%s/v1/ignite/app/bench"\n' "$http"
                printf 'data = "{\\"name\\":\\"many-%s\\",\\"code\\":{\\"image\\":{\\"prebuilt\\":{\\"imageRef\\":\\"%s\\"}}}}"\n' "$n" "$image"
            else
                printf 'url = "http://%s/v1/ignite/app/bench/many-%s/draft/publish"\ndata = "{\\"skipReadyCheck\\":true}"\n' "$http" "$n"
            fi
            printf 'header = "Authorization: Bearer %s"\nheader = "Content-Type: application/json"\noutput = "/dev/null"\nwrite-out = "%%{http_code}\\n"\n' "$token"
        done >"$work/calls"
        curl -sS --no-progress-meter --parallel --parallel-max 16 -K "$work/calls" >"$work/codes" || die "not all apps could be made"
        [ "$(grep -c '^200$' "$work/codes")" -eq "$1" ] || die "not all apps: $(sort "$work/codes" | uniq -c)"
    done
}

# The same server with one app and with many: two processes, of which the other is stopped while
# one is measured.
many_apps() {
    local few=$server few_at=$http few_token=$token began
    background+=("$server")
    IGNITE_DATA_DIR=$work/many
    mkdir "$IGNITE_DATA_DIR"
    start_server
    deploy app "$scaling"
    note "Publishing $((apps - 1)) more apps"
    began=$(date +%s%N)
    publish_many $((apps - 1))
    printf '%s apps created and published in %s s\n' $((apps - 1)) $((($(date +%s%N) - began) / 1000000000)) >&2
    note "32 connections, 1 app and $apps: $rounds rounds of $secs s each"
    for round in $(seq "$rounds"); do
        printf '  round %s\n' "$round" >&2
        kill -STOP "$server"
        as=$few_token one few 32 "$few_at" "$few"
        kill -CONT "$server"
        kill -STOP "$few"
        one many 32 "$http" "$server"
        kill -CONT "$few"
    done
    show few 'ignite, 1 app'
    show many "ignite, $apps apps"
    target "$apps apps: requests/s of 1 app's" "$(ratio many few 1)" 'at least' 0.97
    target "$apps apps: errors" "$(errors many)" 'at most' 0
}

row '' requests/s 'p50 µs' 'p99 µs' 'CPU µs/request' errors
row --- --- --- --- --- ---
for case in $cases; do
    rm -rf "$work/of" && mkdir "$work/of"
    if [ "$case" = apps ]; then many_apps; else against_peers "$case"; fi
done
show_targets
stop_server
