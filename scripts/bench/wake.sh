# A request to an app at zero, first byte out to last byte in, RUNS (20) times from each depth, by
# turns with the engine alone: unpause then request; start in a kept network, first 200; create,
# start, first 200.
runs=${RUNS:-20}

measure() { # FREEZER DEPTH
    "$kit" wake --http "$http" --token "$token" --app bench/probe --data-dir "$IGNITE_DATA_DIR" \
        --depth "$2" -n "$runs"
}

: >"$work/table"
for freezer in engine cgroup; do
    start_server IGNITE_FREEZER=$freezer IGNITE_STANDBY=pause
    deploy probe ',"scaling":{"maxReplicas":1}'
    # The engine's part copies the settings of a running replica.
    curl -fsS -o /dev/null -H "Authorization: Bearer $token" "http://$http/_app/bench/probe/"
    # Prepared comes last: a replica from there is in another container's network.
    if [ "$freezer" = engine ]; then depths='paused absent prepared'; else depths=frozen; fi
    for depth in $depths; do
        note "From $depth, frozen by the $freezer"
        measure "$freezer" "$depth" | tee -a "$work/table" >&2
    done
    stop_server
done

note "Milliseconds, medians of $runs"
row 'ms, from' ignite 'engine alone' 'ignite / alone' 'slowest of ignite' 'slowest alone'
row --- --- --- --- --- ---
while read -r line; do
    value() { printf '%s' "$line" | field "$1"; }
    awk -v d="$(value depth)" -v a="$(value ignite)" -v b="$(value raw)" -v c="$(value ignite_slowest)" -v e="$(value raw_slowest)" \
        'BEGIN { printf "| %s | %.1f | %.1f | %.2f | %.1f | %.1f |\n", d, a, b, a / b, c, e }'
done <"$work/table"
