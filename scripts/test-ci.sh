#!/usr/bin/env bash
# Runs what is offered for CI and containers as users do: the image of scripts/package, its compose
# file with each docker compose that is installed, and the examples for testcontainers in Python and
# Rust. The steps of the examples for GitHub and GitLab are in tests/it/ci_files.rs.
#
#     APP_IMAGE=name:tag scripts/test-ci.sh BINARY [image|compose|python|rust]...
#
# BINARY is a static one (scripts/build-static.sh), APP_IMAGE any image that ignite can serve
# (scripts/demo.sh prints one). Needs PyPI and crates.io, and no other registry.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

say() { printf 'test-ci: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

[ -x "${1:-}" ] || die "name a static binary; scripts/build-static.sh prints its path"
binary=$1
shift
parts=("$@")
[ $# -gt 0 ] || parts=(image compose python rust)
: "${APP_IMAGE:?an image that ignite can serve}"
export APP_IMAGE IGNITE_IMAGE=ignite:test-$$
# The container that removes what a test leaves is one that no registry gives here; the server does so itself.
export TESTCONTAINERS_RYUK_DISABLED=true

work=$(mktemp -d)
finish() {
    local code=$?
    trap - EXIT
    for file in "$work"/compose-*.yaml; do
        if [ -e "$file" ]; then docker-compose -f "$file" -p "test-ci-$$" down -v >/dev/null 2>&1 || true; fi
    done
    docker rmi -f "$IGNITE_IMAGE" >/dev/null 2>&1 || true
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT

# Every part needs the image.
mkdir "$work/image"
cp "$binary" "$work/image/ignite"
cp /etc/ssl/certs/ca-certificates.crt scripts/package/Dockerfile "$work/image/"
docker build -q -t "$IGNITE_IMAGE" "$work/image" >&2

image() {
    local version
    version=$(docker run --rm "$IGNITE_IMAGE" --version)
    say "the image has $version"
    # In the image there is no shell, no engine and no git: a server without a socket says so.
    if docker run --rm "$IGNITE_IMAGE" doctor >"$work/doctor"; then die "a doctor without an engine is content"; fi
    grep -q '^FAIL  engine' "$work/doctor" || die "the doctor does not miss the engine: $(cat "$work/doctor")"
}

# One docker compose, given as words: up, a token, an answer, down.
composed() {
    local name=$1 file=$work/compose-$1.yaml port
    shift
    # As published, but for the image under test and ports that are free.
    sed -e "s|image: ignite:.*|image: $IGNITE_IMAGE|" -e 's|127.0.0.1:[0-9]*:|127.0.0.1::|' scripts/package/compose.yaml >"$file"
    local compose=("$@" -f "$file" -p "test-ci-$$")
    if "${compose[@]}" up --help 2>&1 | grep -q -- '--wait '; then
        "${compose[@]}" up -d --wait
    else
        "${compose[@]}" up -d
        "${compose[@]}" exec -T ignite /usr/bin/ignite ready --wait 30s
    fi
    port=$("${compose[@]}" port ignite 8080)
    local token
    token=$("${compose[@]}" exec -T ignite /usr/bin/ignite token create --org local)
    curl -fsS "http://$port/v1/ignite/app/local" -H "Authorization: Bearer $token" >/dev/null
    [ "$(docker inspect --format '{{index .HostConfig.LogConfig.Config "max-size"}}' "$("${compose[@]}" ps -q ignite)")" = 10m ] \
        || die "its log has no bound"
    "${compose[@]}" down -v
    rm "$file"
    say "$name: ok"
}

compose() {
    local any=
    if command -v docker-compose >/dev/null; then
        composed "$(docker-compose version --short)" docker-compose && any=yes
    fi
    if docker compose version >/dev/null 2>&1; then
        composed plugin docker compose && any=yes
    fi
    # Another one, such as a plugin that is not installed.
    if [ -n "${COMPOSE:-}" ]; then composed other "$COMPOSE" && any=yes; fi
    [ -n "$any" ] || die "no docker compose is installed"
}

python() {
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" -q install -r fixtures/examples/ci/python/requirements.txt
    "$work/venv/bin/pytest" -q -p no:cacheprovider fixtures/examples/ci/python
}

rust() {
    cp -r fixtures/examples/ci/rust "$work/rust"
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/ci-example} cargo test --manifest-path "$work/rust/Cargo.toml"
}

for part in "${parts[@]}"; do
    case $part in
        image | compose | python | rust) say "$part"; "$part" ;;
        *) die "$part is unknown: image, compose, python or rust" ;;
    esac
done
# The servers under test have removed their apps.
left=$(docker ps -aq --filter "ancestor=$IGNITE_IMAGE")
[ -z "$left" ] || die "containers of the image are left: $left"
say "ok"
