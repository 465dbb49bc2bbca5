#!/usr/bin/env bash
# Makes the image that tests of the Python runtime build on: Python and pip from this machine's own
# Debian or Ubuntu packages, unpacked without installing them. It needs no image registry and not
# to be root. Prints the image's reference; quick when the image is there.
#
# The tag is a digest of this file, so a changed recipe makes another image.
set -euo pipefail

say() { printf 'python-base: %s\n' "$*" >&2; }

here=$(cd "$(dirname "$0")" && pwd)
reference="ignite-python-base:$(sha256sum "$here/$(basename "$0")" | cut -c1-16)"
exists() { docker image inspect "$reference" >/dev/null 2>&1; }

if exists; then
    printf '%s\n' "$reference"
    exit 0
fi
for tool in apt-get dpkg-deb docker; do
    command -v "$tool" >/dev/null || { say "needs $tool, of Debian or Ubuntu; scripts/setup.sh installs what can be had"; exit 1; }
done

work=$(mktemp -d)
# One at a time: tests are many processes, and who comes second finds the image made.
exec 9>"${TMPDIR:-/tmp}/ignite-python-base.lock"
flock 9
trap 'rm -rf "$work"' EXIT
if exists; then
    printf '%s\n' "$reference"
    exit 0
fi

root=$work/root
mkdir -p "$work/archives/partial" "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib" "$root/usr/lib64" "$root/tmp" "$root/etc"
# Packages of both layouts land under /usr.
for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$root/$dir"; done
chmod 1777 "$root/tmp"

# An empty list of what is installed makes apt resolve everything from the C library upwards.
download() {
    apt-get -y -qq install --download-only --no-install-recommends \
        -o Dir::State::status=/dev/null -o Dir::Cache::archives="$work/archives" \
        -o Debug::NoLocking=1 -o APT::Sandbox::User= dash python3 python3-pip >"$work/apt.log" 2>&1
}
say "making $reference"
if ! download; then
    # Package lists may be missing or name versions that the mirror no longer has.
    [ "$(id -u)" -ne 0 ] || apt-get update -qq >&2 || true
    download || { cat "$work/apt.log" >&2; say "apt-get cannot fetch the packages"; exit 1; }
fi
for package in "$work"/archives/*.deb; do
    case "$package" in
        # Needed to install packages, and not to run Python.
        */dpkg_* | */tar_* | */debconf_* | */openssl_* | */gcc-*-base_*) ;;
        *) dpkg-deb --extract "$package" "$root" ;;
    esac
done
ln -sf dash "$root/usr/bin/sh"
rm -rf "$root/usr/share/doc" "$root/usr/share/man" "$root/usr/share/locale"
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\n' >"$root/etc/group"
# What the certificates' own set-up would make of them.
mkdir -p "$root/etc/ssl/certs"
find "$root/usr/share/ca-certificates" -name '*.crt' -exec cat {} + >"$root/etc/ssl/certs/ca-certificates.crt"

tar -C "$root" --owner=0 --group=0 --numeric-owner -cf - . | docker import - "$reference-raw" >/dev/null
# Unpacked packages come without bytecode, which would cost every start of a container.
docker build -q -t "$reference" - >/dev/null 2>"$work/build.log" <<DOCKERFILE || { cat "$work/build.log" >&2; exit 1; }
FROM $reference-raw
ENV PATH=/usr/sbin:/usr/bin LANG=C.UTF-8
RUN python3 -m compileall -q -j0 -x "lib2to3|/test|idlelib" /usr/lib/python3 /usr/lib/python3.*
DOCKERFILE
docker rmi "$reference-raw" >/dev/null 2>&1 || true
printf '%s\n' "$reference"
