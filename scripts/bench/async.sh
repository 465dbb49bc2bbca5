# Durable accepts per second at 32 clients, through JSON and gRPC, beside Redis with an append-only
# file that is synced at every write, on the same disk in the same run; and executions run to
# their end on a warm app. Interleaved rounds; medians and ratios.
#
# ROUNDS (5), SECS (5) per measurement.

rounds=${ROUNDS:-5} secs=${SECS:-5} clients=32

need redis-server:redis-server redis-benchmark:redis-tools wrk:wrk h2load:nghttp2-client
build ignite-load
load=$bin/ignite-load

# 192 bytes as they travel in JSON; Redis and gRPC get the same text.
body=$(head -c 192 /dev/urandom | base64 -w0)

start_server IGNITE_EXECUTION_QUEUE_MAX=100000000 IGNITE_EXECUTION_MAX_PER_APP=100000000
deploy accept ',"maxConcurrency":1,"scaling":{"maxReplicas":1}'
deploy run ',"scaling":{"reservedCapacity":1,"maxReplicas":1}'
# One that never ends keeps the app busy: accepted executions wait, and only accepting is measured.
api POST /v1/ignite/app/bench/accept/invoke-async '{"http":{"path":"/sleep/3600000"}}' >/dev/null

cat >"$work/post.lua" <<LUA
wrk.method = "POST"
wrk.body = '{"body":"$body"}'
wrk.headers["Authorization"] = "Bearer $token"
wrk.headers["Content-Type"] = "application/json"
LUA

"$load" frame --grpc "$grpc" --token "$token" --app bench/accept --body "$body" >"$work/frame"

json_round() {
    wrk -t1 -c$clients -d"${secs}s" --latency -s "$work/post.lua" \
        "http://$http/v1/ignite/app/bench/accept/invoke-async" >"$work/wrk"
    ! grep -q 'Non-2xx' "$work/wrk" || die "some were refused: $(cat "$work/wrk")"
    awk '/Requests\/sec/ { print $2 }' "$work/wrk" >>"$work/json"
    awk '/50%/ { t = $2; sub(/[a-z]+$/, "", t); print ($2 ~ /us$/) ? t / 1000 : t }' "$work/wrk" >>"$work/json.p50"
}
grpc_round() {
    h2load -t1 -c$clients -m1 -D"$secs" -d "$work/frame" --log-file="$work/h2load.log" \
        -H 'Content-Type: application/grpc' -H 'TE: trailers' -H "Authorization: Bearer $token" \
        "http://$grpc/dodil.ignite.v1.ComputeService/InvokeAsync" >"$work/h2load"
    # A call that was refused has no message, so every one was accepted if all bytes are there: a
    # frame of 5, the field's 2 and an id of 31.
    awk '/^requests:/ { done = $8; failed = $10 + $12 } / data$/ { gsub(/[()]/, ""); bytes = $(NF - 1) }
        END { exit !(done > 0 && failed == 0 && bytes == done * 38) }' "$work/h2load" \
        || die "some were refused: $(cat "$work/h2load")"
    awk '/^finished in/ { print $4 }' "$work/h2load" >>"$work/grpc"
    awk '{ print $3 / 1000 }' "$work/h2load.log" | median >>"$work/grpc.p50"
    rm "$work/h2load.log"
}
redis_round() {
    local dir port=$((20000 + RANDOM % 10000)) count=$((secs * 20000))
    dir=$(mktemp -d -p "$work")
    redis-server --bind 127.0.0.1 --port $port --dir "$dir" --save '' --appendonly yes --appendfsync always >/dev/null &
    local pid=$!
    until redis-cli -p $port ping >/dev/null 2>&1; do sleep 0.05; done
    redis-benchmark -p $port -c $clients -n "$count" --csv XADD s '*' body "$body" | tail -n1 | tr -d '"' >"$work/redis-out"
    kill $pid && wait $pid || true
    rm -rf "$dir"
    cut -d, -f2 "$work/redis-out" >>"$work/redis"
    cut -d, -f5 "$work/redis-out" >>"$work/redis.p50"
}
run_round() {
    "$load" complete --grpc "$grpc" --token "$token" --app bench/run --path /status/200 --clients $clients --secs "$secs" >"$work/out"
    field per_second <"$work/out" >>"$work/run"
}

note "Measuring: $rounds rounds of $secs s each"
for round in $(seq "$rounds"); do
    printf '  round %s\n' "$round" >&2
    json_round
    redis_round
    grpc_round
    run_round
done

peer=$(median <"$work/redis")
against() { awk -v a="$1" -v b="$peer" 'BEGIN { printf "%.2f", a / b }'; }
row 'durable accepts, 32 clients' 'per second' 'p50 ms' 'of Redis'
row --- --- --- ---
for name in json grpc; do
    rate=$(median <"$work/$name")
    row "InvokeAsync over $name" "${rate%.*}" "$(median <"$work/$name.p50")" "$(against "$rate")"
done
row 'Redis, appendfsync always, XADD' "${peer%.*}" "$(median <"$work/redis.p50")" 1
row 'executions run to their end, one warm replica' "$(median <"$work/run")" - -
