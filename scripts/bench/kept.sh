# What kept executions cost: the start, reading one, memory; and the disk after retention.
#
# COUNT (100000) executions with an answer of 600 bytes each.

count=${COUNT:-100000}
build ignite-load
load=$bin/ignite-load

# Kilobytes of the executions on disk.
on_disk() { du -sk "$IGNITE_DATA_DIR/executions" | cut -f1; }
# Kilobytes of the server in memory.
in_memory() { awk '/VmRSS/ { print $2 }' "/proc/$server/status"; }
# Starts a server with these variables; sets started (ms to the ready line).
timed_start() {
    local began
    began=$(date +%s%N)
    start_server "$@"
    started=$((($(date +%s%N) - began) / 1000000))
}

ephemeral=
limits=(IGNITE_EXECUTION_QUEUE_MAX=100000000 IGNITE_EXECUTION_MAX_PER_APP=100000000)
start_server "${limits[@]}"
deploy run ',"scaling":{"reservedCapacity":1,"maxReplicas":1}'
kept=0
while [ "$kept" -lt "$count" ]; do
    "$load" complete --grpc "$grpc" --token "$token" --app bench/run --path /bytes/600 --secs 5 >"$work/out"
    kept=$((kept + $(field count <"$work/out")))
    printf '  %s of %s\n' "$kept" "$count" >&2
done
stop_server

timed_start "${limits[@]}"
"$load" read --grpc "$grpc" --token "$token" --app bench/run >"$work/out"
row "$kept kept executions" ''
row --- ---
row 'start to ready' "$started ms"
row 'GetExecution, p50 of 1000 over all' "$(field p50_ms <"$work/out") ms"
row 'memory' "$(($(in_memory) / 1024)) MB"
row 'disk' "$(($(on_disk) / 1024)) MB, $(($(on_disk) * 1024 / kept)) bytes each"
each=$(($(on_disk) * 1024 / kept))
stop_server

# A tenth may stay: the rest is compacted in the background.
start_server IGNITE_EXECUTION_QUEUE_MAX=100000000 IGNITE_EXECUTION_MAX_PER_APP=$((kept / 10)) IGNITE_RETENTION_INTERVAL=1s
before=$(on_disk)
for _ in $(seq 120); do
    [ "$(on_disk)" -gt $((before / 3)) ] || break
    sleep 1
done
"$load" read --grpc "$grpc" --token "$token" --app bench/run >/dev/null 2>"$work/left"
left=$(cut -d' ' -f1 "$work/left")
row "disk after retention left $left" "$(($(on_disk) / 1024)) MB, $(awk -v d="$(on_disk)" -v l="$left" -v e="$each" 'BEGIN { printf "%.2f", d * 1024 / (l * e) }') of what they took before"
