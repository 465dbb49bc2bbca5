#!/usr/bin/env bash
# Runs container engines beside this machine's own, from Debian's packages and without a registry,
# and the integration tests against them. Needs root, debootstrap and a few GB of disk.
#
#     scripts/engines.sh list                  the engines, and which of them are up
#     scripts/engines.sh up NAME               starts one and prints its DOCKER_HOST
#     scripts/engines.sh run NAME CMD...       runs a command where that engine's containers are reachable
#     scripts/engines.sh test NAME [FILTER...] runs the integration tests, or those that match, against it
#     scripts/engines.sh try NAME [FILTER...]  the same for CI: brings it up, tests, and takes it down with
#                                              its data; where this machine cannot run it, says why and succeeds
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
# TEST_LIMIT_SECS (1800) bounds one `test`; TEST_THREADS (2) run side by side. UP_LIMIT_SECS (600)
# bounds what `try` does before the tests.
# ENGINES_MIRROR (http://deb.debian.org/debian) has Debian's packages.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"

home=${IGNITE_ENGINES:-/var/lib/ignite-engines}
mirror=${ENGINES_MIRROR:-http://deb.debian.org/debian}
# The ordinary user of rootless engines, in the roots alone.
user=engine uid=4242
names=(docker-20.10-v2 docker-26.1 docker-26.1-containerd docker-26.1-no-proxy docker-26.1-rootless
    podman-4.3 podman-5.4 podman-5.4-rootless)

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
    [ -e "$root/.complete-$kind" ] && return
    if ! command -v debootstrap >/dev/null; then
        say "installing debootstrap"
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >&2
    fi
    say "installing Debian $suite with $kind into $root; takes some minutes"
    if [ ! -e "$root/.base" ]; then
        rm -rf "$root"
        mkdir -p "$root"
        debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" "$mirror" >&2
        # Services must not start in the root: no init runs there.
        printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
        chmod 755 "$root/usr/sbin/policy-rc.d"
        touch "$root/.base"
    fi
    local packages=(iptables nftables iproute2 procps uidmap slirp4netns fuse-overlayfs)
    case $kind in
        docker) packages+=(docker.io rootlesskit) ;;
        podman) packages+=(podman netavark aardvark-dns catatonit golang-github-containers-common) ;;
    esac
    case $suite-$kind in
        bookworm-podman) packages+=(runc) ;;
        trixie-docker) packages+=(docker-cli containerd runc) ;;
        trixie-podman) packages+=(crun passt) ;;
    esac
    chroot "$root" sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"' \
        sh "${packages[@]}" >&2
    chroot "$root" sh -c "id $user >/dev/null 2>&1 || useradd -u $uid -m $user"
    for file in subuid subgid; do echo "$user:200000:65536" >"$root/etc/$file"; done
    touch "$root/.complete-$kind"
}

# Says why this machine cannot run engines beside its own, if so.
why_not() {
    [ "$(id -u)" -eq 0 ] || { echo "this is not root"; return; }
    local tool said probe
    for tool in findmnt ip nsenter setsid unshare; do
        command -v "$tool" >/dev/null || { echo "$tool is not installed"; return; }
    done
    command -v debootstrap >/dev/null || command -v apt-get >/dev/null \
        || { echo "there is neither debootstrap nor apt-get to install it with"; return; }
    said=$(cgroup2 2>&1) || { echo "${said#engines: }"; return; }
    probe=$said/ignite-engines-probe
    said=$(mkdir -p "$probe" 2>&1 && rmdir "$probe") || { echo "it may not make cgroups: $said"; return; }
    said=$(unshare --mount --cgroup --net sh -c 'mount -t tmpfs probe /mnt && mount -t sysfs probe /mnt' 2>&1) \
        || echo "it may not make namespaces and mount in them: $said"
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
    mkdir -p "run/user/$uid" ".$dir"
    chown "$uid:$uid" "run/user/$uid"
    mount --bind "$dir" ".$dir"
    for part in var/lib/docker var/lib/containers etc/containers/networks; do
        mkdir -p "$dir/data/$part" "$part"
        mount --bind "$dir/data/$part" "$part"
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
        # Published ports are the kernel's alone.
        *-no-proxy) echo '{"userland-proxy": false}' >"$config" ;;
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
    printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n[network]\nnetwork_backend = "netavark"\n[containers]\nlog_driver = "k8s-file"\n' >"$config"
    # Podman limits processes by default, and starts nothing where there is no controller for that.
    grep -qw pids /sys/fs/cgroup/cgroup.controllers || echo 'pids_limit = 0' >>"$config"
    # Builds raise the limit of open files to a default that this machine may not allow.
    [ "$(ulimit -Hn)" -ge 1048576 ] || printf 'default_ulimits = ["nofile=%s:%s", "nproc=%s:%s"]\n' \
        "$(ulimit -Hn)" "$(ulimit -Hn)" "$(ulimit -Hu)" "$(ulimit -Hu)" >>"$config"
    if [ "$name" = podman-4.3 ]; then
        lower_limits >"$dir/runc"
        chmod 755 "$dir/runc"
        sed -i '1a runtime = "runc"' "$config"
        printf '[engine.runtimes]\nrunc = ["%s"]\n' "$dir/runc" >>"$config"
    fi
    export CONTAINERS_CONF=$config
    if [ "$rootless" = no ]; then
        exec podman system service --time=0 "unix://$socket"
    fi
    as_user podman system service --time=0 "unix://$socket"
}

# A runtime for Podman 4, which raises the limits of files and processes of each container to the
# kernel's whatever `containers.conf` says, and whose crun lifts that of locked memory, too: none of it
# may be done where root lacks CAP_SYS_RESOURCE. Limits that are not above this machine's stay.
lower_limits() {
    printf '#!/bin/bash\nfiles=%s processes=%s\n' "$(ulimit -Hn)" "$(ulimit -Hu)"
    cat <<'SH'
for each in "$@"; do
    if [ "${before:-}" = --bundle ] && [ -f "$each/config.json" ]; then
        while IFS=: read -r kind most; do
            said=$(grep -oP "\"type\":\"$kind\",\"hard\":\K[0-9]+" "$each/config.json") || continue
            [ "$most" = unlimited ] || [ "$said" -le "$most" ] || sed -i -E \
                "s/(\"type\":\"$kind\",\"hard\":)[0-9]+(,\"soft\":)[0-9]+/\1$most\2$most/" "$each/config.json"
        done <<<"RLIMIT_NOFILE:$files
RLIMIT_NPROC:$processes"
    fi
    before=$each
done
exec runc "$@"
SH
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

# Fails when a test failed, or none ran to its end.
run_tests() {
    up >/dev/null
    local program began=$SECONDS results=$home/results status=0
    program=$(tests)
    [ -x "$program" ] || die "the tests were not built"
    mkdir -p "$results"
    local log=$results/$name.log
    (cd "$here" && run timeout --kill-after=30 "${TEST_LIMIT_SECS:-1800}" \
        "$program" --test-threads="${TEST_THREADS:-2}" "$@") >"$log" 2>&1 || status=$?
    # Later runs replace the outcomes of the tests that they ran.
    sed -nE 's/^test ([a-z0-9_:]+) \.\.\. (ok|FAILED|ignored).*/\1\t\2/p' "$log" \
        | sed 's/FAILED/failed/' >"$results/$name.new"
    touch "$results/$name.tsv"
    awk -F'\t' -v OFS='\t' '{ of[$1] = $2 } END { for (t in of) print t, of[t] }' \
        "$results/$name.tsv" "$results/$name.new" | sort >"$results/$name.all"
    mv "$results/$name.all" "$results/$name.tsv"
    describe | tee "$results/$name.info" || true
    # Passed of run, by module.
    awk -F'\t' '$2 != "ignored" { split($1, path, "::"); run[path[1]]++; ok[path[1]] += $2 == "ok" }
        END { for (one in run) printf "%-18s %d/%d\n", one, ok[one], run[one] }' "$results/$name.new" | sort
    if [ "$status" -ne 0 ]; then
        sed -n '/^failures:/,$p' "$log" | tail -n 200 >&2
        [ "$status" -ne 124 ] || say "the tests were ended after ${TEST_LIMIT_SECS:-1800} s"
    fi
    printf '%s: %s passed, %s failed in %ss; log: %s\n' "$name" \
        "$(grep -c -P '\tok$' "$results/$name.new")" "$(grep -c -P '\tfailed$' "$results/$name.new")" \
        $((SECONDS - began)) "$log"
    grep -q -P '\tok$' "$results/$name.new" || status=1
    rm "$results/$name.new"
    return "$status"
}

try() {
    local why
    why=$(why_not)
    if [ -n "$why" ]; then
        say "no tests on $name, since this machine cannot run it beside its own engine: $why"
        return
    fi
    trap clean EXIT
    if ! timeout --kill-after=30 "${UP_LIMIT_SECS:-600}" bash "$0" up "$name" >/dev/null; then
        say "no tests on $name, since it does not come up on this machine; the reason is above"
        return
    fi
    say "$name is up after ${SECONDS}s"
    run_tests "$@"
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
    up | down | clean | inside | run | test | try | info)
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
