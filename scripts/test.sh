#!/usr/bin/env bash
# The checks that CI runs first: format, lints with warnings denied, unit and integration tests
# against a real container engine. Prints how long each step took.
#
# TEST_LIMIT_SECS (1500) bounds the test run, so that a hanging test fails.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"

step() {
    local name=$1 began=$SECONDS code=0
    shift
    printf '==> %s\n' "$name"
    "$@" || code=$?
    if [ "$code" -eq 124 ]; then
        printf '==> %s: stopped at its time limit\n' "$name" >&2
    fi
    if [ "$code" -ne 0 ]; then
        printf '==> %s: FAILED after %ss\n' "$name" $((SECONDS - began)) >&2
        exit "$code"
    fi
    printf '==> %s: ok, %ss\n' "$name" $((SECONDS - began))
}

step setup ./scripts/setup.sh
step format cargo fmt --all --check
step lints cargo clippy --workspace --all-targets --locked -- -D warnings
step build cargo test --workspace --locked --no-run
# Slow tests are left to test-more.sh.
mapfile -t slow < <(sed 's/^/--skip=/' scripts/slow-tests)
step tests timeout --kill-after=30 "${TEST_LIMIT_SECS:-1500}" cargo test --workspace --locked -- "${slow[@]}"
# A dockerd of its own, restarted under the platform, a disk that fills up, and rules in the kernel
# that keep apps from the host: all of these need root.
if [ "$(id -u)" -eq 0 ] && command -v dockerd >/dev/null; then
    step 'tests for root' timeout --kill-after=30 600 cargo test --workspace --locked --test it -- --ignored
else
    printf '==> tests for root: LEFT OUT, they need root and dockerd\n' >&2
fi
printf '==> all: ok, %ss\n' "$SECONDS"
