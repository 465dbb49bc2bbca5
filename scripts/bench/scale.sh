# Step loads on a CONCURRENCY and a REQUEST_RATE app, and a table of each run: seconds, what was
# observed, how many replicas are desired, and how many are ready.
hold=${HOLD:-6}

# Asks for STATE once a second for N seconds and prints a row of each.
watch_app() { # APP SECONDS
    local began
    began=$(date +%s.%N)
    for _ in $(seq "$2"); do
        local state
        state=$(api GET "/v1/ignite/app/bench/$1/state" | tr -d '\n')
        number() { local n; n=$(printf '%s' "$state" | sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p"); printf '%s' "${n:-0}"; }
        awk -v t="$(date +%s.%N)" -v b="$began" -v f="$(number inFlight)" -v h="$(number held)" \
            -v d="$(number desiredReplicas)" -v r="$(number runningReplicas)" -v s="$(number startingReplicas)" \
            'BEGIN { printf "%8.1f %10d %6d %9d %7d %9d\n", t - b, f, h, d, r, s }'
        sleep 1
    done
}
header() { printf '%8s %10s %6s %9s %7s %9s\n' seconds in-flight held desired ready starting; }

# This many clients, each with one request after the other, for some seconds.
load() { # APP CLIENTS SECONDS PATH
    for _ in $(seq "$2"); do
        (
            end=$((SECONDS + $3))
            while [ $SECONDS -lt "$end" ]; do
                curl -fsS -o /dev/null -H "Authorization: Bearer $token" "http://$http/_app/bench/$1$4" || echo failed >>"$work/failed"
            done
        ) &
    done
}

start_server IGNITE_MIN_SCALEDOWN_SECS=1
scaling() { printf ',"scaling":{"scaleMetric":"SCALE_METRIC_%s","scaleThreshold":%s,"maxReplicas":5,"scaledownPeriodSecs":3}' "$1" "$2"; }
deploy load "$(scaling CONCURRENCY 2)"
note "CONCURRENCY, 2 per replica: 3 clients, then 9, then 3, then none"
header
(load load 3 $((3 * hold)) /sleep/200; sleep "$hold"; load load 6 "$hold" /sleep/200; wait) &
watch_app load $((4 * hold))
note "what the autoscaler said"
"$ignite" --org bench app events load --limit 1000 | grep SCALED

deploy rate "$(scaling REQUEST_RATE 1)"
note "REQUEST_RATE, 1 per second and replica, over a minute: some 15 requests/s for $((2 * hold)) s, then none"
header
load rate 3 $((2 * hold)) /sleep/200
watch_app rate $((3 * hold))
note "what the autoscaler said"
"$ignite" --org bench app events rate --limit 1000 | grep SCALED
[ ! -s "$work/failed" ] || die "$(wc -l <"$work/failed") requests failed"
stop_server
