# A soak: all three ways in, streams, uploads, upgrades, clients that leave or stall, publishes and
# killed replicas, for SOAK_SECS (600). It fails when
# - memory or descriptors keep growing: after the first fifth, the line through the samples may not
#   rise by more than SLACK_MB (15; an allocator's high-water mark moves with chance) or 20
#   descriptors (connections that come and go) until the end;
# - more has failed than the kills explain: each can break the requests in flight, one per client;
# - an accepted execution has not ended, or anything is left behind.

secs=${SOAK_SECS:-600} slack_mb=${SLACK_MB:-15}
need wrk:wrk

# So few executions are kept that the store reaches its full size within the first fifth.
start_server IGNITE_EXECUTION_MAX_PER_APP=2000 IGNITE_RETENTION_INTERVAL=10s
deploy app ',"scaling":{"reservedCapacity":2,"maxReplicas":3}'
host=app-bench.ignite.localhost
url=http://$http
auth="Authorization: Bearer $token"
mine="label=io.dodil.ignite.data-dir=$(realpath "$IGNITE_DATA_DIR")"

# Counts all answers by outcome: ok, the platform's reason, or the app's status.
cat >"$work/outcomes.lua" <<'LUA'
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() outcomes = "" ; ok = 0 ; bad = {} end
function response(status, headers)
    if status == 200 and not headers["x-ignite-error"] then ok = ok + 1 ; return end
    local what = headers["x-ignite-error"] or ("status " .. status)
    bad[what] = (bad[what] or 0) + 1
    outcomes = ""
    for name, n in pairs(bad) do outcomes = outcomes .. n .. " " .. name .. "\n" end
end
function done(summary)
    for _, thread in ipairs(threads) do
        io.stderr:write(thread:get("ok") .. " ok\n" .. thread:get("outcomes"))
    end
    local e = summary.errors
    local lost = e.connect + e.read + e.write + e.timeout
    if lost > 0 then io.stderr:write(lost .. " connections lost\n") end
end
LUA
cat >"$work/invoke.lua" <<LUA
dofile("$work/outcomes.lua")
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"http":{"method":"HTTP_METHOD_GET","path":"/status/200"}}'
LUA
cat >"$work/async.lua" <<LUA
dofile("$work/invoke.lua")
function delay() return 20 end
LUA
load() { # NAME SCRIPT CONNECTIONS PATH [HEADER]
    wrk -t1 -c"$3" -d"${secs}s" --timeout 30s -s "$work/$2.lua" -H "$auth" ${5:+-H "$5"} "$url$4" \
        >/dev/null 2>"$work/of/$1" &
    loads+=("$!")
    clients=$((clients + $3))
}
# Repeats a command until the end and records the outcomes, one per line.
again() { # PAUSE NAME
    while sleep "$1"; do "$2" >>"$work/each/$2" || true; done &
    background+=("$!")
    clients=$((clients + 1))
}
# One request by curl: EXPECTED (status and curl's exit code) ARGUMENTS …. Prints ok, or the
# outcome.
ask() {
    local expected=$1 came
    shift
    came=$(curl -sS -o /dev/null -w '%{http_code} %{exitcode} %header{x-ignite-error}' \
        -H "$auth" -H "Host: $host" "$@" 2>/dev/null) || true
    case "$came" in "$expected "*) echo ok ;; *) echo "${came% } instead of $expected" ;; esac
}
# 28: curl left in the middle, as instructed.
leaves() { ask '200 28' --max-time 0.3 "$url/stream/100/50"; }
stalls() { ask '200 28' --max-time 0.5 --limit-rate 1k "$url/bytes/5000000"; }
uploads() { head -c 8000000 /dev/zero | ask '200 0' -T - "$url/upload"; }
streams() { ask '200 0' "$url/sse/20/20"; }
upgrades() { ask '101 28' --max-time 0.5 -H 'Connection: upgrade' -H 'Upgrade: probe' "$url/upgrade"; }
publishes() {
    local code="{\"code\":{\"image\":{\"prebuilt\":{\"imageRef\":\"$image\"}}}}"
    api POST /v1/ignite/app/bench/app/draft "$code" >/dev/null 2>&1 \
        && api POST /v1/ignite/app/bench/app/draft/publish '{}' >/dev/null 2>&1 \
        && echo ok || echo 'a publish failed'
}
kills() {
    local victim
    victim=$(docker ps -q --filter "$mine" | shuf -n1)
    [ -n "$victim" ] && docker kill "$victim" >/dev/null 2>&1 && echo ok || echo 'nothing was killed'
}

mkdir "$work/of" "$work/each"
loads=() clients=0
note "Soaking for $secs s"
load url outcomes 8 /status/200 "Host: $host"
load invoke invoke 4 /v1/ignite/app/bench/app/invoke
load async async 2 /v1/ignite/app/bench/app/invoke-async
for one in leaves stalls uploads streams upgrades; do again 0.2 "$one"; done
again 9 publishes
again 13 kills

began=$SECONDS
while [ $((SECONDS - began)) -lt "$secs" ]; do
    sleep 2
    kill -0 "$server" 2>/dev/null || die "the server ended"
    printf '%s %s %s\n' $((SECONDS - began)) \
        "$(awk '/^VmRSS/ { print $2 }' "/proc/$server/status")" \
        "$(find "/proc/$server/fd" -mindepth 1 2>/dev/null | wc -l)" >>"$work/samples"
done
wait "${loads[@]}"
for pid in "${background[@]}"; do kill "$pid" && wait "$pid" || true; done 2>/dev/null
background=()

# The rise of the line through a column of the samples, after the first fifth.
rise() {
    awk -v c="$1" -v from=$((secs / 5)) '$1 > from { n++; x += $1; y += $c; xx += $1 * $1; xy += $1 * $c; last = $1 }
        END { print (n * xy - x * y) / (n * xx - x * x) * (last - from) }' "$work/samples"
}
at() { awk -v c="$1" -v from="$2" '$1 >= from { print $c; exit }' "$work/samples"; }
row '' 'at a fifth' 'at half' 'at the end' rise
row --- --- --- --- ---
mb() { awk -v kb="$1" 'BEGIN { printf "%.0f", kb / 1024 }'; }
row 'memory, MB' "$(mb "$(at 2 $((secs / 5)))")" "$(mb "$(at 2 $((secs / 2)))")" \
    "$(mb "$(tail -n1 "$work/samples" | cut -d' ' -f2)")" "$(mb "$(rise 2)")"
row descriptors "$(at 3 $((secs / 5)))" "$(at 3 $((secs / 2)))" \
    "$(tail -n1 "$work/samples" | cut -d' ' -f3)" "$(printf '%.0f' "$(rise 3)")"
for each in "$work"/each/*; do sort "$each" | uniq -c >"$work/of/${each##*/}"; done
printf '\n'
row by times outcome
row --- --- ---
for name in "$work"/of/*; do sed "s/^ *\([0-9]*\) \(.*\)$/| ${name##*/} | \1 | \2 |/" "$name"; done

for name in url invoke async leaves stalls uploads streams upgrades publishes kills; do
    grep -q ' ok$' "$work/of/$name" || die "$name never went well"
done
killed=$(grep -c '^ok$' "$work/each/kills")
failed=$(cat "$work"/of/* | awk '$2 != "ok" { n += $1 } END { print n + 0 }')
strange=$(cat "$work"/of/{url,invoke,async} | grep -vE '^ *[0-9]+ (ok|REPLICA_BROKE|REPLICA_REFUSED)$' || true)
[ -z "$strange" ] || die "not what a killed replica leads to: $strange"
[ "$failed" -le $((killed * clients)) ] || die "$failed failed; $killed kills and $clients clients explain fewer"
awk -v rise="$(rise 2)" -v slack=$((slack_mb * 1024)) 'BEGIN { exit rise > slack }' || die "memory grows"
awk -v rise="$(rise 3)" 'BEGIN { exit rise > 20 }' || die "descriptors leak"
for _ in $(seq 60); do
    open=$(for status in PENDING RUNNING; do
        api GET "/v1/ignite/local/app/bench/executions?appName=app&limit=1&status=EXECUTION_STATUS_$status"
    done | grep -c '"id"' || true)
    [ "$open" -gt 0 ] || break
    sleep 1
done
[ "$open" -eq 0 ] || die "executions have not ended"
stop_server
left=$(docker ps -aq --filter "$mine"; docker network ls -q --filter "$mine")
[ -z "$left" ] || die "left behind: $left"
