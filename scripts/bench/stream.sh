# A large body up and down through an app's URL, beside nginx before the same container and beside
# the container alone, alternately; then idle WebSockets, each alive at the end.
#
# ROUNDS (5), MIB (1024) of each body, SOCKETS (2000).
#
# Figures are medians; a ratio is the median of the rounds' ratios. Growth is the peak of resident
# memory during a transfer over what it was before the first.

rounds=${ROUNDS:-5} mib=${MIB:-1024} sockets=${SOCKETS:-2000}
need nginx:nginx-light
. "$root/scripts/bench/lib/peers.sh"
build ignite-load
load=$bin/ignite-load
bytes=$((mib << 20))

# A server, and nginx before the same replica: one part's memory does not count for the next.
fresh() {
    start_server
    # The largest tier, because the container's limits are not what is measured.
    deploy app ',"resourceTier":"RESOURCE_TIER_XLARGE","scaling":{"reservedCapacity":1,"maxReplicas":1}'
    replica=$(replica_of app)
    start_nginx "$replica"
}
# Bodies are streamed, in pieces of 64 KiB instead of nginx's usual 4 and 8.
: "${NGINX_LOCATION:=proxy_request_buffering off; proxy_buffering off;
    client_body_buffer_size 64k; proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 64k;
    proxy_read_timeout 1h;}"
fresh
truncate -s "$bytes" "$work/body"
mkdir "$work/of"

# Kilobytes of a process and its children in memory.
memory_of() {
    local pid
    for pid in "$1" $(cat "/proc/$1/task/"*/children); do
        awk '/^VmRSS/ { print $2 }' "/proc/$pid/status"
    done | awk '{ n += $1 } END { print n }'
}
mb() { awk -v kb="$1" 'BEGIN { printf "%.1f", kb / 1024 }'; }

# One transfer: LABEL ADDRESS DIRECTION. Adds its MB/s to $work/of/DIRECTION.LABEL.
transfer() {
    local what
    case $3 in
        up) what=(-T "$work/body" -H Expect: "http://$2/sink") ;;
        down) what=("http://$2/bytes/$bytes") ;;
    esac
    curl -fsS -H "Host: app-bench.ignite.localhost" -H "Authorization: Bearer $token" -o "$work/answer.$3" \
        -w '%{size_upload} %{size_download} %{time_total}\n' "${what[@]}" >"$work/moved"
    if [ "$3" = up ]; then grep -q "\"bytes\":$bytes" "$work/answer.up" || die "not all went up: $(cat "$work/answer.up")"; fi
    awk -v way="$3" -v want="$bytes" '{ n = way == "up" ? $1 : $2; if (n != want) exit 1; print n / $3 / 1e6 }' \
        "$work/moved" >>"$work/of/$3.$1" || die "not all went $3"
}
# The same through ignite, and how far its memory rises meanwhile.
watched_transfer() { # DIRECTION
    # From here on the kernel counts the peak anew.
    echo 5 >"/proc/$server/clear_refs"
    transfer ignite "$http" "$1"
    awk -v before="$before" '/^VmHWM/ { print $2 - before }' "/proc/$server/status" >>"$work/of/$1.growth"
}

ln -sf /dev/null "$work/answer.down"
before=$(memory_of "$server")
note "$mib MiB up and down: $rounds rounds"
for round in $(seq "$rounds"); do
    printf '  round %s\n' "$round" >&2
    for way in up down; do
        transfer nginx "$nginx_at" $way
        watched_transfer $way
        transfer direct "$replica" $way
    done
done

of() { median <"$work/of/$1"; }
row '' 'MB/s' 'of nginx' 'growth, MB'
row --- --- --- ---
for way in up down; do
    ratio=$(paste -d' ' "$work/of/$way.ignite" "$work/of/$way.nginx" | awk '{ print $1 / $2 }' | median)
    growth=$(sort -n "$work/of/$way.growth" | tail -n1)
    row "$mib MiB $way, ignite" "$(printf '%.0f' "$(of $way.ignite)")" "$(printf '%.2f' "$ratio")" "$(mb "$growth")"
    row "$mib MiB $way, nginx" "$(printf '%.0f' "$(of $way.nginx)")" 1 ''
    row "$mib MiB $way, the container alone" "$(printf '%.0f' "$(of $way.direct)")" '' ''
    target "$mib MiB $way: MB/s of nginx's" "$ratio" 'at least' 0.9
    target "$mib MiB $way: growth, MB" "$(mb "$growth")" 'at most' 20
done

# Opens the WebSockets, leaves them alone for a while, and has each echo: LABEL ADDRESS PID. Sets
# total and growth, in kilobytes, of the process that has them.
idle_sockets() {
    local client before
    mkfifo "$work/go.$1"
    before=$(memory_of "$3")
    "$load" sockets --http "$2" --token "$token" --app bench/app --path /websocket --clients "$sockets" \
        <"$work/go.$1" >"$work/sockets.$1" &
    client=$!
    exec 5>"$work/go.$1"
    until grep -q '"open"' "$work/sockets.$1"; do
        kill -0 "$client" 2>/dev/null || die "not all WebSockets could be opened through $1"
        sleep 0.2
    done
    sleep 5
    total=$(memory_of "$3") growth=$(($(memory_of "$3") - before))
    exec 5>&-
    wait "$client" || die "not all WebSockets stayed open through $1"
    grep -q "\"alive\":$sockets" "$work/sockets.$1" || die "not all WebSockets are alive through $1"
}
stop_server
note "$sockets idle WebSockets"
fresh
printf '\n'
row '' 'memory, MB' 'growth, MB' 'KB each'
row --- --- --- ---
each() { awk -v kb="$growth" -v n="$sockets" 'BEGIN { printf "%.1f", kb / n }'; }
idle_sockets nginx "$nginx_at" "$nginx"
row "$sockets idle WebSockets, nginx" "$(mb "$total")" "$(mb "$growth")" "$(each)"
idle_sockets ignite "$http" "$server"
row "$sockets idle WebSockets, ignite" "$(mb "$total")" "$(mb "$growth")" "$(each)"
target "$sockets idle WebSockets: memory, MB" "$(mb "$total")" 'at most' 60
show_targets
stop_server
