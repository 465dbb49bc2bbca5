#!/usr/bin/env bash
# Makes what a release consists of in target/dist, for this machine's architecture or that of TARGET
# (see build-static.sh): a static binary in an archive, a Debian package with the systemd units, a
# container image as an archive, a bill of materials (CycloneDX), and SHA256SUMS. Prints their paths.
#
# BINARY=path takes a static binary that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

say() { printf 'release: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

version=$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
machine=${TARGET:-$(uname -m)}
machine=${machine%%-*}
case "$machine" in
    x86_64) debian=amd64 elf=X86-64 ;;
    aarch64) debian=arm64 elf=AArch64 ;;
    *) die "no release is made for $machine; build with scripts/build-static.sh instead" ;;
esac
# The same files whenever they are made: the time is that of the commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

binary=${BINARY:-$(./scripts/build-static.sh)}
[ -x "$binary" ] || die "$binary is not there or not executable"
readelf -hW "$binary" | grep -q "Machine:.*$elf" || die "$binary is not for $machine"
dist=target/dist
rm -rf "$dist"
mkdir -p "$dist"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
archive() { tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" "$@"; }

name=ignite-$version-$machine-linux
mkdir "$work/$name"
install -m 755 "$binary" "$work/$name/ignite"
install -m 644 LICENSE README.md scripts/package/{ignite.service,ignite.socket,config.toml,compose.yaml} "$work/$name/"
install -D -m 644 -t "$work/$name/monitoring" scripts/package/monitoring/*
archive -C "$work" -cz -f "$dist/$name.tar.gz" "$name"

# The package: the binary, also as dodil, the units, and a configuration that updates leave alone.
root=$work/deb
install -D -m 755 "$binary" "$root/usr/bin/ignite"
ln -s ignite "$root/usr/bin/dodil"
install -D -m 644 -t "$root/lib/systemd/system" scripts/package/ignite.{service,socket}
install -D -m 644 -t "$root/etc/ignite" scripts/package/config.toml
install -D -m 644 -t "$root/usr/share/doc/ignite/monitoring" scripts/package/monitoring/*
install -D -m 644 LICENSE "$root/usr/share/doc/ignite/copyright"
mkdir "$root/DEBIAN"
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$debian/" \
    -e "s/@SIZE@/$(du -sk "$root" | cut -f1)/" scripts/package/debian/control >"$root/DEBIAN/control"
echo /etc/ignite/config.toml >"$root/DEBIAN/conffiles"
install -m 755 -t "$root/DEBIAN" scripts/package/debian/{postinst,prerm,postrm}
dpkg-deb --root-owner-group --build "$root" "$dist/ignite_${version}_$debian.deb" >&2

# The image: the binary and the roots of certificate authorities, nothing else.
roots=/etc/ssl/certs/ca-certificates.crt
[ -s "$roots" ] || die "$roots is missing: install ca-certificates"
image=ignite:$version
mkdir "$work/image"
cp "$binary" "$work/image/ignite"
cp "$roots" "$work/image/ca-certificates.crt"
cp scripts/package/Dockerfile "$work/image/"
docker build -q --platform "linux/$debian" -t "$image" "$work/image" >&2
docker save "$image" | gzip -n >"$dist/ignite-$version-$machine-image.tar.gz"

command -v cargo-cyclonedx >/dev/null || cargo install --locked cargo-cyclonedx@0.5.9 >&2
cargo cyclonedx --format json --override-filename bom --manifest-path Cargo.toml >&2
# One per package of the workspace; the others are fixtures.
mv bom.json "$dist/ignite-$version.cdx.json"
find fixtures -name bom.json -delete

(cd "$dist" && sha256sum -- * >SHA256SUMS)
printf '%s\n' "$dist"/*
