#!/usr/bin/env bash
# Builds a statically linked release binary for this machine's architecture, proves that it is one,
# and prints its path on stdout (everything else on stderr).
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

triple=$(rustc -vV | sed -n 's/^host: //p')
binary="target/$triple/release/ignite"
# With --target the flags reach the binary and not the build scripts, which must stay dynamic.
RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --release --locked --package ignite --bin ignite --target "$triple" >&2

if command -v file >/dev/null 2>&1; then
    file "$binary" >&2
fi
# ldd fails for what is not dynamic at all; static-pie it calls "statically linked".
linked=$(ldd "$binary" 2>&1 || true)
printf 'ldd: %s\n' "$linked" >&2
case "$linked" in
    *"statically linked"* | *"not a dynamic executable"*) ;;
    *)
        echo "build-static: $binary is linked dynamically" >&2
        exit 1
        ;;
esac
printf '%s\n' "$binary"
