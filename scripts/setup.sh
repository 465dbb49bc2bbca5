#!/usr/bin/env bash
# Makes this machine able to build, test and run: a C linker, curl, Rust, a container engine, and
# Python with venv for a test of a third-party client, and for getting Deno. As root on Debian or
# Ubuntu it installs and starts what is missing; elsewhere it says what to install. Quiet and quick
# if everything is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
# dockerd lives in sbin, which is not on every path.
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"

say() { printf 'setup: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# Whether an engine answers at DOCKER_HOST, or at its usual socket.
engine_answers() {
    local host="${DOCKER_HOST:-unix:///var/run/docker.sock}"
    case "$host" in
        unix://*) curl -fsS -m 5 --unix-socket "${host#unix://}" http://engine/_ping >/dev/null 2>&1 ;;
        *) have docker && timeout 10 docker version >/dev/null 2>&1 ;;
    esac
}

# Rust with its formatter and linter, at least as new as Cargo.toml demands.
rust_wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
rust_is_right() {
    have cargo && have rustc || return 1
    local found
    found=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n%s\n' "$rust_wanted" "$found" | sort -V | head -n1)" = "$rust_wanted" ] \
        && cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1
}

missing=()
have cc || missing+=(gcc)
# A compiler without the C library's files cannot link.
if have cc && ! echo 'int main(void){return 0;}' | cc -x c -o /dev/null - 2>/dev/null; then
    missing+=(libc6-dev)
fi
have curl || missing+=(curl)
# Builds from repositories, and their tests' server.
have git || missing+=(git)
have openssl || missing+=(openssl)
# For the bridge of the tests' private engine.
have ip || missing+=(iproute2)
# Isolates apps from the host under `trust` team and tenants.
have nft || missing+=(nftables)
# Debian's Python comes without the half of venv that installs pip.
python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || missing+=(python3-venv)
[ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ] \
    || [ -e /etc/ssl/cert.pem ] || missing+=(ca-certificates)
engine=yes
have curl && engine_answers || engine=no
if [ "$engine" = no ] && [ -z "${DOCKER_HOST:-}" ] && ! have dockerd; then
    missing+=(docker.io)
fi
# The images that handlers are tested on are made with the client.
have docker || missing+=(docker.io)
rust=yes
rust_is_right || rust=no

if [ ${#missing[@]} -eq 0 ] && [ "$engine" = yes ] && [ "$rust" = yes ]; then
    exit 0
fi

if [ "$engine" = no ] && [ -n "${DOCKER_HOST:-}" ]; then
    say "no container engine answers at DOCKER_HOST=$DOCKER_HOST; start it there, or unset DOCKER_HOST."
    exit 1
fi
if [ "$(id -u)" -ne 0 ] || ! have apt-get; then
    say "this machine lacks something, and only root on Debian or Ubuntu gets it installed from here:"
    [ ${#missing[@]} -eq 0 ] || say "  packages (names of Debian): ${missing[*]}"
    [ "$rust" = yes ] || say "  Rust $rust_wanted or newer with rustfmt and clippy: https://rustup.rs"
    [ "$engine" = yes ] || say "  a running container engine that user $(id -un) may use (group docker): https://docs.docker.com/engine/install/"
    exit 1
fi

if [ ${#missing[@]} -gt 0 ]; then
    # rustc calls `cc`; gcc alone comes without the C library's headers and start files.
    case " ${missing[*]} " in *" gcc "*) missing+=(libc6-dev) ;; esac
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >&2
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
    # The client is a package of its own where docker.io comes without it.
    # Recommended, not required, by docker.io, and no bridge network comes up without it.
    have docker || apt-get install -y -qq --no-install-recommends docker-cli >&2
    have iptables || apt-get install -y -qq --no-install-recommends iptables >&2
fi

if [ "$rust" = no ]; then
    if ! have rustup; then
        say "installing Rust with rustup"
        curl -fsS --proto '=https' --tlsv1.2 https://sh.rustup.rs \
            | sh -s -- -y --quiet --no-modify-path --profile minimal --component rustfmt,clippy >&2
    else
        say "updating Rust to $rust_wanted or newer"
        rustup toolchain install stable --profile minimal --component rustfmt,clippy >&2
        rustup default stable >&2
    fi
    hash -r
    rust_is_right || { say "Rust $rust_wanted is still not what \`rustc\` runs: $(command -v rustc || echo none)"; exit 1; }
fi

if ! engine_answers; then
    # With or without an init system: a container or a chroot often has none.
    say "starting the container engine"
    if [ -d /run/systemd/system ]; then
        systemctl start docker >&2 || true
    elif have service; then
        service docker start >&2 || true
    fi
    for _ in $(seq 50); do engine_answers && break; sleep 0.1; done
    if ! engine_answers && ! pgrep -x dockerd >/dev/null 2>&1; then
        nohup dockerd >/var/log/dockerd.log 2>&1 &
    fi
    for _ in $(seq 300); do engine_answers && break; sleep 0.1; done
    if ! engine_answers; then
        say "the container engine does not come up; the end of its log:"
        tail -n 20 /var/log/dockerd.log /var/log/docker.log >&2 2>/dev/null || true
        exit 1
    fi
fi
say "ready"
