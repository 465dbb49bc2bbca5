# Actions: each is printed with its outcome.

# Notes the outcome of the action just tried.
outcome() {
    local name=$1 is_good=$2 why=${3:-}
    actions=$((actions + 1))
    if [ "$is_good" = yes ]; then
        printf '  ok      %s\n' "$name"
        return
    fi
    failures=$((failures + 1))
    printf '  FAILED  %s\n' "$name"
    printf '%s\n' "$why" | cut -c1-600 | tail -n 20 | sed 's/^/            /'
}

# A command that has to succeed.
action() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then outcome "$name" yes; else outcome "$name" no "$output"; fi
    printf '%s\n%s\n' "== $name" "$output" >>"$work/output"
}

# A command whose answer has to be JSON of which a filter of jq holds, now or soon.
answers() {
    local name=$1 filter=$2 output='' tries=${TRIES:-1}
    shift 2
    while :; do
        output=$("$@" 2>&1) || true
        if printf '%s' "$output" | jq -e "$filter" >/dev/null 2>&1; then
            outcome "$name" yes
            printf '%s' "$output" >"$work/answer"
            return
        fi
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || break
        sleep 1
    done
    printf '{}' >"$work/answer"
    outcome "$name" no "$output"
}

# A field of the last answer.
field() { jq -r "$1 // empty" <"$work/answer"; }

# curl, for which the hosts of apps are this server's.
ask() { curl -sS -m 120 --connect-to "::$listener" "$@"; }

post() {
    local url=$1 body=$2
    shift 2
    ask -X POST "$url" -H 'content-type: application/json' -d "$body" "$@"
}

# What a browser asks before a page of another origin may post JSON.
preflight() {
    local url=$1 head
    head=$(ask -o /dev/null -D - -X OPTIONS "$url" -H 'Origin: https://page.example' \
        -H 'Access-Control-Request-Method: POST' -H 'Access-Control-Request-Headers: content-type' | tr -d '\r')
    if grep -qE '^HTTP/[0-9.]+ 20[04]' <<<"$head" \
        && grep -qiE '^access-control-allow-origin: (\*|https://page.example)$' <<<"$head" \
        && grep -qiE '^access-control-allow-headers:.*content-type' <<<"$head"; then
        outcome "preflight of $url" yes
    else
        outcome "preflight of $url" no "$head"
    fi
}

# An answer that a page of another origin may read.
readable() {
    local name=$1 head
    shift
    head=$(post "$@" -o /dev/null -D - -H 'Origin: https://page.example' | tr -d '\r')
    if grep -qiE '^access-control-allow-origin: ' <<<"$head"; then outcome "$name" yes; else outcome "$name" no "$head"; fi
}

# A page whose text has these words.
page() {
    local name=$1 url=$2 words=$3 text
    text=$(ask -f "$url" 2>&1) || true
    if grep -q "$words" <<<"$text"; then outcome "$name" yes; else outcome "$name" no "$text"; fi
}

# A program for Playwright, with variables for it: its library for Node comes with the one for Python,
# and the browser is Debian's.
browse() {
    local name=$1 program library at revision browser port
    program=$(realpath "$2")
    shift 2
    if ! command -v chromium-headless-shell >/dev/null; then
        printf '  not run %s: there is no chromium-headless-shell\n' "$name"
        return
    fi
    library=$("$python" -c 'import os, playwright; print(os.path.dirname(playwright.__file__))')/driver/package
    revision=$(jq -r '.browsers[] | select(.name == "chromium-headless-shell") | .revision' "$library/browsers.json")
    at=$(mktemp -d "$work/browse-XXXX")
    mkdir "$at/node_modules"
    ln -s "$library" "$at/node_modules/playwright"
    cp "$program" "$at/program.mjs"
    browser=$at/browsers/chromium_headless_shell-$revision
    mkdir -p "$browser/chrome-headless-shell-linux64"
    touch "$browser/INSTALLATION_COMPLETE"
    [ "$encrypted" = no ] && port=${listener##*:} || port=443
    printf '#!/bin/sh\nexec chromium-headless-shell --host-resolver-rules="MAP *:%s %s" %s "$@"\n' "$port" "$listener" \
        '--ignore-certificate-errors --no-sandbox' >"$browser/chrome-headless-shell-linux64/chrome-headless-shell"
    chmod +x "$browser/chrome-headless-shell-linux64/chrome-headless-shell"
    action "$name" env -C "$at" PLAYWRIGHT_BROWSERS_PATH="$at/browsers" "$@" timeout 300 "$node" program.mjs
}
