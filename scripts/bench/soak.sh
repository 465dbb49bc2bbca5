# A soak: all three ways in, streams, uploads, upgrades, clients that leave in the middle, publishes
# and killed replicas, for SOAK_SECS (600). Samples the server's memory and descriptors; they must
# not grow after the first fifth, and every request that failed must have a reason that the kills
# explain.
#
# Growth is the median of the last fifth of the samples over that of the second fifth. Memory may be
# SLACK_MB (15) more, as an allocator's high-water mark moves a little with chance; descriptors 20.

secs=${SOAK_SECS:-600} slack_mb=${SLACK_MB:-15}
need wrk:wrk

start_server
deploy app ',"scaling":{"reservedCapacity":2,"maxReplicas":3}'
host=app-bench.ignite.localhost
url=http://$http
auth="Authorization: Bearer $token"

# Counts answers that the platform made by their reason; the app's own have none.
cat >"$work/reasons.lua" <<'LUA'
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() reasons = "" ; seen = {} end
function response(status, headers)
    local reason = headers["x-ignite-error"]
    if status == 200 and not reason then return end
    reason = reason or ("status " .. status)
    seen[reason] = (seen[reason] or 0) + 1
    reasons = ""
    for name, n in pairs(seen) do reasons = reasons .. name .. " " .. n .. "\n" end
end
function done(summary)
    for _, thread in ipairs(threads) do io.stderr:write(thread:get("reasons")) end
    io.stderr:write("requests " .. summary.requests .. "\n")
    local e = summary.errors
    io.stderr:write("socket " .. (e.connect + e.read + e.write + e.timeout) .. "\n")
end
LUA
cat >"$work/invoke.lua" <<LUA
dofile("$work/reasons.lua")
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"http":{"method":"HTTP_METHOD_GET","path":"/status/200"}}'
LUA
cat >"$work/async.lua" <<LUA
dofile("$work/invoke.lua")
function delay() return 20 end
LUA

load() { # NAME SCRIPT CONNECTIONS PATH
    wrk -t1 -c"$3" -d"${secs}s" --timeout 30s -s "$work/$2.lua" -H "$auth" ${5:+-H "$5"} "$url$4" \
        >"$work/$1.out" 2>"$work/$1.reasons" &
    loads+=("$!")
}
# Repeats a command until the end; whether it succeeds is not the question here.
repeat() { # PAUSE COMMAND …
    local pause=$1
    shift
    while sleep "$pause"; do "$@" >/dev/null 2>&1 || true; done &
    background+=("$!")
}
ask() { curl -sS -o /dev/null -H "$auth" -H "Host: $host" "$@"; }
leaves() { ask --max-time 0.3 "$url/stream/100/50"; }
stalls() { ask --max-time 0.5 --limit-rate 1k "$url/bytes/5000000"; }
uploads() { head -c 8000000 /dev/zero | ask -T - "$url/upload"; }
streams() { ask "$url/sse/20/20"; }
upgrades() { ask --max-time 0.5 -H 'Connection: upgrade' -H 'Upgrade: probe' "$url/upgrade"; }
publishes() {
    api POST /v1/ignite/app/bench/app/draft "{\"code\":{\"image\":{\"prebuilt\":{\"imageRef\":\"$image\"}}}}"
    api POST /v1/ignite/app/bench/app/draft/publish '{}'
}
kills() {
    local all
    all=$(docker ps -q --filter "label=io.dodil.ignite.data-dir=$(realpath "$IGNITE_DATA_DIR")")
    docker kill "$(shuf -n1 <<<"$all")" && echo kill >>"$work/kills"
}

: >"$work/kills"
loads=()
note "Soaking for $secs s"
load url reasons 8 /status/200 "Host: $host"
load invoke invoke 4 /v1/ignite/app/bench/app/invoke
load async async 2 /v1/ignite/app/bench/app/invoke-async
for one in leaves stalls uploads streams upgrades; do repeat 0.2 "$one"; done
repeat 9 publishes
repeat 13 kills

began=$SECONDS
while [ $((SECONDS - began)) -lt "$secs" ]; do
    sleep 2
    kill -0 "$server" 2>/dev/null || die "the server ended"
    printf '%s %s %s\n' $((SECONDS - began)) \
        "$(awk '/^VmRSS/ { print $2 }' "/proc/$server/status")" \
        "$(find "/proc/$server/fd" -mindepth 1 2>/dev/null | wc -l)" >>"$work/samples"
done
wait "${loads[@]}"

# The median of a column in a share of the samples: COLUMN FROM TO (fifths).
window() {
    local n
    n=$(wc -l <"$work/samples")
    sed -n "$((n * $2 / 5 + 1)),$((n * $3 / 5))p" "$work/samples" | awk -v c="$1" '{ print $c }' | median
}
printf '| | second fifth | last fifth |\n| --- | --- | --- |\n'
printf '| memory, MB | %s | %s |\n' $(($(window 2 1 2) / 1024)) $(($(window 2 4 5) / 1024))
printf '| descriptors | %s | %s |\n' "$(window 3 1 2)" "$(window 3 4 5)"
printf '\n| by | outcome | times |\n| --- | --- | --- |\n'
for name in url invoke async; do sed "s/^\(.*\) \([0-9]*\)$/| $name | \1 | \2 |/" "$work/$name.reasons"; done
printf '| | replicas killed | %s |\n' "$(wc -l <"$work/kills")"

# A request in a replica that is killed is broken or refused; all others are answered.
unexplained=$(cat "$work"/{url,invoke,async}.reasons | grep -vE '^(requests|REPLICA_BROKE|REPLICA_REFUSED) ' | grep -v '^socket 0$' || true)
[ -z "$unexplained" ] || die "not explained by a killed replica: $unexplained"
[ "$(window 2 4 5)" -le $(($(window 2 1 2) + slack_mb * 1024)) ] || die "memory grows"
[ "$(window 3 4 5)" -le $(($(window 3 1 2) + 20)) ] || die "descriptors leak"
stop_server
left=$(docker ps -aq --filter "label=io.dodil.ignite.data-dir=$(realpath -m "$IGNITE_DATA_DIR")")
[ -z "$left" ] || die "containers are left behind: $left"
