#!/usr/bin/env bash
# Builds a statically linked release binary, proves that it is one, and prints its path on stdout
# (everything else on stderr).
#
# For this machine's architecture, or for TARGET, such as aarch64-unknown-linux-gnu on x86-64, with
# Debian's cross compiler (gcc-aarch64-linux-gnu). PROFILE (release) is the profile to build with.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

say() { printf 'build-static: %s\n' "$*" >&2; }
host=$(rustc -vV | sed -n 's/^host: //p')
triple=${TARGET:-$host} profile=${PROFILE:-release}
binary="target/$triple/$profile/ignite"

# With --target the flags reach the binary and not the build scripts, which must stay dynamic.
flags='-C target-feature=+crt-static'
case $triple in
    # Here a static program is linked at a fixed address in any case. Position-independent code
    # would only fill the table of addresses that glibc's archive can reach, of 32 KiB.
    aarch64-*) flags+=' -C relocation-model=static' ;;
esac
if [ "$triple" != "$host" ]; then
    gcc=${triple/-unknown/}-gcc
    command -v "$gcc" >/dev/null || { say "$gcc is missing; Debian has it in gcc-${triple/-unknown/}"; exit 1; }
    rustup target add "$triple" >&2
    name=${triple//-/_}
    export "CC_$name=$gcc" "AR_$name=${gcc%gcc}ar" "CARGO_TARGET_${name^^}_LINKER=$gcc"
fi
RUSTFLAGS=$flags cargo build --profile "$profile" --locked --package ignite --bin ignite --target "$triple" >&2

# A dynamic program names its interpreter.
if readelf -lW "$binary" | grep -q INTERP; then
    say "$binary is linked dynamically"
    exit 1
fi
printf '%s\n' "$binary"
