#!/usr/bin/env bash
# Everything slow that test.sh leaves out: the tests of the modules that scripts/slow-tests
# names, most of them attacks against a real container engine, the JSON API against its own
# description, the tests that depend most on the engine once more on another one, the demo, and the
# check of the crates.
# CI runs it after test.sh.
#
# TEST_LIMIT_SECS (2400) bounds the first of these, so that a hanging test fails.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"

./scripts/setup.sh
./scripts/deny.sh
mapfile -t slow <scripts/slow-tests
timeout --kill-after=30 "${TEST_LIMIT_SECS:-2400}" \
    cargo test --workspace --locked -- --nocapture --test-threads=2 "${slow[@]}"
./scripts/openapi.sh
# On Debian's Docker 26.1, with version 2 of cgroups: a machine that cannot run it says so.
TEST_LIMIT_SECS=600 ./scripts/engines.sh try docker-26.1 \
    smoke:: cold_start:: standby:: signals:: storage:: logs:: lifecycle:: scale_to_zero:: doctor:: \
    --skip a_cold_request_takes_less
# The README's first steps, for real and measured.
./scripts/demo.sh
printf '==> more: ok, %ss\n' "$SECONDS"
