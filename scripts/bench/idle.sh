# What APPS (200) apps at zero cost: CPU time over SECS (20) seconds, and memory.
apps=${APPS:-200} secs=${SECS:-20}

start_server IGNITE_STANDBY=pause
note "Publishing $apps apps"
publish='{"skipReadyCheck":true}'
for n in $(seq "$apps"); do deploy "app-$n"; done
ticks() { awk '{ print $14 + $15 }' "/proc/$server/stat"; }
before=$(ticks)
sleep "$secs"
after=$(ticks)
awk -v n="$apps" -v t=$((after - before)) -v hz="$(getconf CLK_TCK)" -v s="$secs" \
    -v kb="$(sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$server/status")" \
    'BEGIN { printf "%d apps at zero: %.0f ms of CPU in %d s (%.2f %% of a core), %.0f MB resident\n", n, t * 1000 / hz, s, t * 100 / hz / s, kb / 1024 }'
stop_server
