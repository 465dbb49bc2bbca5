#!/usr/bin/env bash
# Installs the Debian package on a Debian that systemd has booted, in namespaces of its own beside
# this machine's engine and network, and tries the units: start, bounds, socket activation, watchdog,
# crash, restart and upgrade under load, reload, reboot, removal.
#
#     APP_IMAGE=name:tag scripts/test-systemd.sh PACKAGE.deb
#
# Needs root, systemd-container and debootstrap, and no systemd on this machine. IGNITE_SYSTEMD
# (/var/lib/ignite-systemd) keeps the root file system.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"

say() { printf 'test-systemd: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
package=${1:-}
[ -s "$package" ] || die "name a package; scripts/release.sh makes one"
: "${APP_IMAGE:?an image that ignite can serve}"
for tool in debootstrap systemd-nspawn nsenter curl; do
    command -v "$tool" >/dev/null || die "needs $tool: apt-get install debootstrap systemd-container"
done
root=${IGNITE_SYSTEMD:-/var/lib/ignite-systemd}
if [ ! -e "$root/.complete" ]; then
    say "installing Debian with systemd into $root; takes some minutes"
    rm -rf "$root"
    debootstrap --variant=minbase \
        --include=systemd,systemd-sysv,dbus,ca-certificates,iproute2,nftables,procps bookworm "$root" \
        "${MIRROR:-http://deb.debian.org/debian}" >&2
    touch "$root/.complete"
fi

work=$(mktemp -d) nspawn=
mkdir "$work"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/work" "$work/root" 2>/dev/null \
    || { rmdir "$work/root"; cp -a --reflink=auto "$root" "$work/root"; }
leader() { pgrep -P "$nspawn" | head -n1; }
# A command in the booted system.
inside() { nsenter --target "$(leader)" --mount --pid --ipc --uts --cgroup -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
finish() {
    local code=$?
    trap - EXIT
    touch "$work/stop"
    if [ -n "$nspawn" ] && kill -0 "$nspawn" 2>/dev/null; then
        [ "$code" -eq 0 ] || inside journalctl -u ignite.service --no-pager -n 60 >&2 || true
        inside dpkg --purge ignite >/dev/null 2>&1 || true
        # nspawn powers the system off.
        kill -TERM "$nspawn"
        wait "$nspawn" || true
    fi
    umount "$work/root" 2>/dev/null || true
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT

# Waits for a condition; nothing here has a time of its own.
eventually() {
    local what=$1
    shift
    for _ in $(seq 600); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.2
    done
    die "$what: not within two minutes"
}
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# What an operator sets, by the documented drop-ins: other addresses, and for this test a watchdog
# that is quick.
http=$(free_port) grpc=$(free_port)
mkdir -p "$work/root/etc/systemd/system"/ignite.{socket,service}.d
printf '[Socket]\nListenStream=\nListenStream=127.0.0.1:%s\nListenStream=127.0.0.1:%s\n' "$http" "$grpc" \
    >"$work/root/etc/systemd/system/ignite.socket.d/ports.conf"
printf '[Service]\nWatchdogSec=4\n' >"$work/root/etc/systemd/system/ignite.service.d/watchdog.conf"
cp "$package" "$work/root/root/ignite.deb"

booted() { inside systemctl is-system-running | grep -Eq 'running|degraded'; }
# With this machine's network, which has the bridges of the engine.
boot() {
    systemd-nspawn --quiet --keep-unit --register=no --directory="$work/root" --machine=ignite-test \
        --capability=CAP_NET_ADMIN --bind=/var/run/docker.sock --boot \
        </dev/null >>"$work/console" 2>&1 &
    nspawn=$!
    eventually "the system boots" booted
}
boot

show() { inside systemctl show --value --property "$1" ignite.service; }
ready() { inside ignite ready --data-dir /var/lib/ignite; }
app() { curl -fsS -m 60 -o /dev/null "http://127.0.0.1:$http/_app/local/hello/" -H "Authorization: Bearer $token"; }

inside dpkg -i /root/ignite.deb >&2
[ "$(show ActiveState)" = active ] || die "the package has not started the service"
[ "$(show Type) $(show NotifyAccess)" = "notify main" ] || die "the service does not notify"
ready || die "started, and not ready"
instance=$(cat "$work/root/var/lib/ignite/instance")
client() { inside env IGNITE_DATA_DIR=/var/lib/ignite ignite "$@"; }
client app deploy hello --image-ref "$APP_IMAGE" >&2
token=$(client token create --org local)
app
say "installed, started, ready, an app answers"

inside systemctl stop ignite.service
[ "$(show ActiveState)" = inactive ] || die "it does not stop"
app || die "a connection does not start the service"
[ "$(show ActiveState)" = active ] || die "an answer, and no service"
say "socket activation: ok"

restarts=$(show NRestarts)
restarted() { [ "$(show NRestarts)" -gt "$restarts" ] && ready; }
inside kill -STOP "$(show MainPID)"
eventually "the watchdog restarts a server that hangs" restarted
inside journalctl -u ignite.service --no-pager | grep -q "Watchdog timeout" || die "it was not the watchdog"
app
say "watchdog: ok"
restarts=$(show NRestarts)
inside kill -KILL "$(show MainPID)"
eventually "it comes back after a crash" restarted
app
say "crash: ok"

# Requests one after the other, each with a connection of its own, from now to calm().
load() {
    rm -f "$work/stop" "$work/codes"
    while [ ! -e "$work/stop" ]; do
        app 2>>"$work/errors" && echo ok >>"$work/codes" || echo failed >>"$work/codes"
    done &
    loading=$!
    eventually "load" test -s "$work/codes"
}
calm() {
    touch "$work/stop"
    wait "$loading"
    ! grep -q failed "$work/codes" || die "$1: $(grep -c failed "$work/codes") of $(wc -l <"$work/codes") requests failed: $(tail -n3 "$work/errors")"
    say "$1: $(wc -l <"$work/codes") requests, none failed"
}
containers() { docker ps -q --filter "label=io.dodil.ignite.instance=$instance" | sort; }
before=$(containers)
load
for _ in 1 2 3; do inside systemctl restart ignite.service; done
calm "three restarts under load"
load
inside dpkg -i /root/ignite.deb >&2
calm "an upgrade under load"
[ "$before" = "$(containers)" ] || die "containers have changed over restarts"

inside sed -i '1i log_level = "debug"' /etc/ignite/config.toml
inside systemctl reload ignite.service
reloaded() { inside journalctl -u ignite.service --no-pager | grep -q "the log level is debug"; }
eventually "a reload reads the configuration" reloaded
say "reload: ok"

inside systemctl reboot || true
code=0
wait "$nspawn" || code=$?
# What nspawn says to a service manager that is to boot again.
[ "$code" -eq 133 ] || die "no reboot, but $code: $(tail -n3 "$work/console")"
boot
eventually "it is there after a reboot" ready
[ "$before" = "$(containers)" ] || die "containers have changed over a reboot of the system"
app
say "reboot: ok"

inside dpkg --purge ignite >&2
[ -z "$(docker ps -aq --filter "label=io.dodil.ignite.instance=$instance")" ] || die "a removed package leaves containers"
say "removal: ok"
say "ok"
