#!/usr/bin/env bash
# Runs container engines beside this machine's own, from Debian's packages and without a registry,
# and the integration tests against them. Needs root, debootstrap and a few GB of disk.
#
#     scripts/engines.sh list                  the engines, and which of them are up
#     scripts/engines.sh up NAME               starts one and prints its DOCKER_HOST
#     scripts/engines.sh run NAME CMD...       runs a command where that engine's containers are reachable
#     scripts/engines.sh test NAME [FILTER...] runs the integration tests, or those that match, against it
#     scripts/engines.sh info NAME             what the engine says of itself, a line
#     scripts/engines.sh table                 the results so far as a Markdown table
#     scripts/engines.sh down NAME             stops it with all its containers; `clean NAME` drops its data, too
#
# Each engine lives in a root of Debian's (debootstrap), with a network namespace, a view of cgroup
# version 2 and a mount namespace of its own, so that this machine's engine, its firewall rules and
# its bridges stay as they are. Process ids are this machine's, and /tmp is shared, as tests keep
# their data directories there.
#
# IGNITE_ENGINES (/var/lib/ignite-engines) has the roots, data, logs and results.
# TEST_LIMIT_SECS (1800) bounds one `test`; TEST_THREADS (2) run side by side.
# ENGINES_MIRROR (http://deb.debian.org/debian) has Debian's packages.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"

home=${IGNITE_ENGINES:-/var/lib/ignite-engines}
mirror=${ENGINES_MIRROR:-http://deb.debian.org/debian}
# The ordinary user of rootless engines, in the roots alone.
user=engine uid=4242
names=(docker-20.10-v2 docker-26.1 docker-26.1-containerd docker-26.1-rootless podman-4.3 podman-5.4
    podman-5.4-rootless)

say() { printf 'engines: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Sets what the other functions need to know of an engine.
choose() {
    name=${1:-}
    case " ${names[*]} " in *" $name "*) ;; *) die "no engine ${name:-is named}; there are ${names[*]}" ;; esac
    suite=trixie kind=${name%%-*} rootless=no
    case $name in docker-20.10-v2 | podman-4.3) suite=bookworm ;; esac
    case $name in *-rootless) rootless=yes ;; esac
    root=$home/roots/$suite dir=$home/$name
    socket=$dir/run/engine.sock
    netns=ignite-$name
    cgroup=$(cgroup2)/ignite-engines/$name
}

# Where cgroup version 2 is mounted; beside version 1 it is not /sys/fs/cgroup itself.
cgroup2() {
    local at
    at=$(findmnt -n -t cgroup2 -o TARGET | head -n1)
    [ -n "$at" ] || die "no cgroup2 is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified"
    printf '%s\n' "$at"
}

is_up() { [ -s "$dir/pid" ] && kill -0 "$(cat "$dir/pid")" 2>/dev/null; }
answers() { curl -fsS -m 5 --unix-socket "$socket" http://engine/_ping >/dev/null 2>&1; }

# === The roots ===

ensure_root() {
    [ -e "$root/.complete" ] && return
    command -v debootstrap >/dev/null || die "needs debootstrap: apt-get install debootstrap"
    say "installing Debian $suite with its engines into $root; takes some minutes"
    if [ ! -e "$root/usr/bin/apt-get" ]; then
        rm -rf "$root"
        mkdir -p "$root"
        debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" "$mirror" >&2
    fi
    local packages=(docker.io iptables nftables iproute2 procps podman crun netavark aardvark-dns uidmap
        slirp4netns fuse-overlayfs rootlesskit catatonit golang-github-containers-common)
    [ "$suite" = bookworm ] || packages+=(docker-cli containerd runc passt)
    # Services must not start in the root: no init runs there.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    chroot "$root" sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"' \
        sh "${packages[@]}" >&2
    chroot "$root" sh -c "id $user >/dev/null 2>&1 || useradd -u $uid -m $user"
    for file in subuid subgid; do echo "$user:200000:65536" >"$root/etc/$file"; done
    touch "$root/.complete"
}

# === Up and down ===

up() {
    [ "$(id -u)" -eq 0 ] || die "needs root"
    if is_up && answers; then
        say "$name is up"
    else
        down
        ensure_root
        mkdir -p "$dir"/{run,data,home,log}
        chmod 755 "$home" "$dir" "$dir/run"
        [ "$rootless" = no ] || chown -R "$uid:$uid" "$dir/run" "$dir/home"
        make_network
        make_cgroup
        # The cgroup first: what the engine's view begins at is the cgroup of whoever makes that view.
        setsid sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' sh "$cgroup" \
            nsenter --net="/run/netns/$netns" unshare --mount --cgroup --propagation slave \
            bash "$0" inside "$name" >"$dir/log/engine" 2>&1 </dev/null &
        echo $! >"$dir/pid"
        for _ in $(seq 600); do
            answers && break
            is_up || break
            sleep 0.1
        done
        if ! answers; then
            tail -n 20 "$dir/log/engine" >&2
            down
            die "$name does not come up; its log is $dir/log/engine"
        fi
    fi
    printf 'DOCKER_HOST=unix://%s\n' "$socket"
}

# A network with one address besides the loopback's, as a machine has.
make_network() {
    ip netns add "$netns"
    local in="ip -n $netns"
    $in link set lo up
    $in link add up0 type veth peer name up1
    $in addr add 198.51.100.2/24 dev up0
    $in link set up0 up
    $in link set up1 up
    $in route add default via 198.51.100.1
}

make_cgroup() {
    mkdir -p "$cgroup/daemon"
    local all
    all=$(sed 's/[a-z0-9_]\+/+&/g' "$(cgroup2)/cgroup.controllers")
    [ -z "$all" ] || { echo "$all" >"$(cgroup2)/cgroup.subtree_control"; echo "$all" >"${cgroup%/*}/cgroup.subtree_control"; } || true
    [ "$rootless" = no ] || chown -R "$uid:$uid" "$cgroup"
}

down() {
    if is_up; then
        kill -TERM "$(cat "$dir/pid")" 2>/dev/null || true
        for _ in $(seq 150); do is_up || break; sleep 0.1; done
    fi
    rm -f "$dir/pid"
    # All that is left of its containers is in its cgroup.
    if [ -e "$cgroup/cgroup.kill" ]; then
        echo 1 >"$cgroup/cgroup.kill"
        for _ in $(seq 100); do grep -q 'populated 0' "$cgroup/cgroup.events" && break; sleep 0.1; done
        find "$cgroup" -depth -type d -exec rmdir {} + || say "some cgroups stay: $cgroup"
        rmdir "${cgroup%/*}" 2>/dev/null || true
    fi
    [ ! -e "/run/netns/$netns" ] || ip netns delete "$netns"
    rm -f "$socket"
}

clean() {
    down
    rm -rf "$dir"
}

# === Within the engine's namespaces ===

inside() {
    mount --bind "$root" "$root"
    cd "$root"
    mount -t proc proc proc
    mount -t sysfs sys sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount --rbind /dev dev
    # Rootless engines make their network with it.
    mount -t tmpfs -o mode=755 net dev/net
    mknod -m 666 dev/net/tun c 10 200
    mount --rbind /tmp tmp
    mount -t tmpfs -o mode=755 run run
    mkdir -p "run/user/$uid" ".$dir" var/lib/docker var/lib/containers
    chown "$uid:$uid" "run/user/$uid"
    mount --bind "$dir" ".$dir"
    for part in docker containers; do
        mkdir -p "$dir/data/$part"
        mount --bind "$dir/data/$part" "var/lib/$part"
    done
    mount --bind "$dir/home" "home/$user"
    cp -L /etc/resolv.conf etc/resolv.conf 2>/dev/null || true
    mkdir -p .old
    pivot_root . .old
    cd /
    umount -l /.old
    # Engines hand their mounts on to containers.
    mount --make-rshared /
    echo 0 >/sys/fs/cgroup/daemon/cgroup.procs
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
    unset DOCKER_HOST XDG_RUNTIME_DIR
    "daemon_$kind"
}

daemon_docker() {
    local config=$dir/daemon.json
    case $name in
        *-containerd) echo '{"features": {"containerd-snapshotter": true}}' >"$config" ;;
        *) echo '{}' >"$config" ;;
    esac
    if [ "$rootless" = no ]; then
        exec dockerd --config-file "$config" --host "unix://$socket" --exec-opt native.cgroupdriver=cgroupfs
    fi
    as_user rootlesskit --net=slirp4netns --mtu=1500 --slirp4netns-sandbox=false --disable-host-loopback \
        --port-driver=builtin --copy-up=/etc --copy-up=/run --propagation=rslave \
        sh -c 'rm -f /run/docker /run/containerd /run/xtables.lock; exec dockerd "$@"' sh \
        --rootless --config-file "$config" --host "unix://$socket" --exec-opt native.cgroupdriver=cgroupfs
}

daemon_podman() {
    local config=$dir/containers.conf
    printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n[containers]\nlog_driver = "k8s-file"\n' >"$config"
    # Podman limits processes by default, and starts nothing where there is no controller for that.
    grep -qw pids /sys/fs/cgroup/cgroup.controllers || echo 'pids_limit = 0' >>"$config"
    # Nor does Podman 4 where it may not raise the limit of open files to its default.
    [ "$(ulimit -Hn)" -ge 1048576 ] || echo "default_ulimits = [\"nofile=$(ulimit -Hn):$(ulimit -Hn)\", \"nproc=$(ulimit -Hu):$(ulimit -Hu)\"]" >>"$config"
    export CONTAINERS_CONF=$config
    if [ "$rootless" = no ]; then
        exec podman system service --time=0 "unix://$socket"
    fi
    as_user podman system service --time=0 "unix://$socket"
}

as_user() {
    export HOME=/home/$user XDG_RUNTIME_DIR=/run/user/$uid USER=$user LOGNAME=$user
    cd "$HOME"
    exec setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"
}

# === Tests ===

run() {
    is_up || die "$name is not up; scripts/engines.sh up $name"
    exec nsenter --net="/run/netns/$netns" env DOCKER_HOST="unix://$socket" "$@"
}

# The tests' program, or what IGNITE_IT names.
tests() {
    if [ -n "${IGNITE_IT:-}" ]; then
        printf '%s\n' "$IGNITE_IT"
        return
    fi
    (cd "$here" && cargo test --workspace --locked --test it --no-run 2>&1) \
        | tee /dev/stderr | sed -n 's|.*Executable tests/it/main.rs (\(.*\))|\1|p' | sed "s|^[^/]|$here/&|"
}

run_tests() {
    up >/dev/null
    local program began=$SECONDS results=$home/results
    program=$(tests)
    [ -x "$program" ] || die "the tests were not built"
    mkdir -p "$results"
    local log=$results/$name.log
    (cd "$here" && run timeout --kill-after=30 "${TEST_LIMIT_SECS:-1800}" \
        "$program" --test-threads="${TEST_THREADS:-2}" "$@") >"$log" 2>&1 || true
    # Later runs replace the outcomes of the tests that they ran.
    sed -nE 's/^test ([a-z0-9_:]+) \.\.\. (ok|FAILED|ignored).*/\1\t\2/p' "$log" \
        | sed 's/FAILED/failed/' >"$results/$name.new"
    touch "$results/$name.tsv"
    awk -F'\t' -v OFS='\t' '{ of[$1] = $2 } END { for (t in of) print t, of[t] }' \
        "$results/$name.tsv" "$results/$name.new" | sort >"$results/$name.all"
    mv "$results/$name.all" "$results/$name.tsv"
    describe >"$results/$name.info"
    grep -P '\tfailed$' "$results/$name.new" >&2 || true
    printf '%s: %s passed, %s failed in %ss; log: %s\n' "$name" \
        "$(grep -c -P '\tok$' "$results/$name.new")" "$(grep -c -P '\tfailed$' "$results/$name.new")" \
        $((SECONDS - began)) "$log"
    rm "$results/$name.new"
}

describe() {
    local get="curl -fsS -m 10 --unix-socket $socket http://engine"
    python3 - "$($get/version)" "$($get/info)" <<'PY'
import json, sys
version, info = map(json.loads, sys.argv[1:3])
yes = lambda key: "yes" if info.get(key) else "no"
options = ",".join(info.get("SecurityOptions") or [])
print(f"{version['Version']}, API {version.get('MinAPIVersion')}–{version['ApiVersion']}, "
      f"cgroup v{info.get('CgroupVersion')} ({info.get('CgroupDriver')}), "
      f"{'rootless' if 'rootless' in options else 'root'}, {info.get('Driver')}, "
      f"memory {yes('MemoryLimit')}, swap {yes('SwapLimit')}, CPU quota {yes('CpuCfsQuota')}, pids {yes('PidsLimit')}")
PY
}

# Rows are the tests' modules, columns the engines with results.
table() {
    python3 - "$home/results" <<'PY'
import collections, pathlib, sys
found = {}
for file in sorted(pathlib.Path(sys.argv[1]).glob("*.tsv")):
    counts = collections.defaultdict(lambda: [0, 0])
    for line in file.read_text().splitlines():
        test, outcome = line.split("\t")
        if outcome != "ignored":
            counts[test.split("::")[0]][0] += outcome == "ok"
            counts[test.split("::")[0]][1] += 1
    found[file.stem] = counts
modules = sorted({m for counts in found.values() for m in counts})
print("| feature | " + " | ".join(found) + " |")
print("|---|" + "---|" * len(found))
for module in modules:
    cells = [counts.get(module) for counts in found.values()]
    print(f"| `{module}` | " + " | ".join("" if c is None else f"{c[0]}/{c[1]}" for c in cells) + " |")
PY
    for file in "$home"/results/*.info; do
        printf '\n- %s: %s' "$(basename "$file" .info)" "$(cat "$file")"
    done
    echo
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
    list)
        for one in "${names[@]}"; do
            choose "$one"
            printf '%s\t%s\n' "$one" "$(is_up && echo "up, unix://$socket" || echo down)"
        done
        ;;
    table) table ;;
    up | down | clean | inside | run | test | info)
        choose "${1:-}"
        shift
        case $command in
            test) run_tests "$@" ;;
            info) describe ;;
            *) "$command" "$@" ;;
        esac
        ;;
    *) sed -n '2,/^set /p' "$0" | sed -n 's/^# \{0,1\}//p' >&2; exit 2 ;;
esac
