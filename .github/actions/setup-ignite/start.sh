#!/usr/bin/env bash
# Starts ignite for the rest of a job. Reads BINARY, SHA256, ORG and ARGS; writes what later steps
# need into the runner's files.
set -euo pipefail

say() { printf 'setup-ignite: %s\n' "$*" >&2; }
home="${RUNNER_TEMP:?this is for GitHub runners}/ignite"
mkdir -p "$home/bin"
case "$BINARY" in
    https://*)
        [ -n "$SHA256" ] || { say "what is downloaded needs its sha256 (SHA256SUMS of the release)"; exit 1; }
        curl -fsSL --retry 3 -o "$home/download" "$BINARY"
        echo "$SHA256  $home/download" | sha256sum --check --quiet
        case "$BINARY" in
            *.tar.gz) tar -xzf "$home/download" -C "$home/bin" --strip-components=1 ;;
            *) mv "$home/download" "$home/bin/ignite" ;;
        esac
        ;;
    *) cp "$BINARY" "$home/bin/ignite" ;;
esac
chmod +x "$home/bin/ignite"
ln -sf ignite "$home/bin/dodil"

export IGNITE_DATA_DIR="$home/data"
# Words of the flags are to be split.
# shellcheck disable=SC2086
nohup "$home/bin/ignite" serve --ephemeral --http-addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0 $ARGS \
    >"$home/ready.json" 2>"$home/log" &
server=$!
"$home/bin/ignite" ready --wait 30s >/dev/null &
waiting=$!
# Whichever ends first: a server that cannot start is not waited for.
if ! wait -n "$server" "$waiting" || ! kill -0 "$server" 2>/dev/null; then
    kill "$waiting" 2>/dev/null || true
    say "the server is not ready; its log:"
    tail -n 50 "$home/log" >&2
    exit 1
fi
endpoint=http://$(sed -n 's/.*"http":"\([^"]*\)".*/\1/p' "$home/ready.json")
token=$("$home/bin/ignite" token create --org "$ORG" --ttl 24h)
echo "::add-mask::$token"
echo "$home/bin" >>"$GITHUB_PATH"
{
    echo "IGNITE_DATA_DIR=$IGNITE_DATA_DIR"
    echo "IGNITE_URL=$endpoint"
    echo "IGNITE_TOKEN=$token"
    echo "IGNITE_ORG_NAME=$ORG"
} >>"$GITHUB_ENV"
{
    echo "endpoint=$endpoint"
    echo "token=$token"
} >>"$GITHUB_OUTPUT"
say "ready at $endpoint"
