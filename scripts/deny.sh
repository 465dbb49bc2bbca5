#!/usr/bin/env bash
# Checks the crates against scripts/deny.toml: licences, two versions of one crate, where they come
# from, and known vulnerabilities if their database can be fetched. Installs cargo-deny
# when it is missing, which takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

command -v cargo-deny >/dev/null || cargo install --locked --no-default-features cargo-deny@0.20.2
deny=(cargo deny --config scripts/deny.toml)
"${deny[@]}" check bans licenses sources
if timeout 120 "${deny[@]}" fetch db; then
    "${deny[@]}" check advisories
else
    printf '==> advisories: LEFT OUT, the database cannot be fetched\n' >&2
fi
