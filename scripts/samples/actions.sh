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
