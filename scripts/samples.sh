#!/usr/bin/env bash
# Runs four public programs that were written for the cloud platform, unchanged, by the command lines
# of their READMEs, and prints each action with its outcome. Clone them into one folder first:
#
#     git clone https://github.com/dodil-samples/support-desk        (product-analytics, ask-your-notes)
#     git clone https://github.com/davidmiheev/research-agent
#     scripts/samples.sh FOLDER [NAME…]
#
# Stand-ins take the place of what is not here: K3 and the models (samples/stand_in.py); base images
# that are neither here nor to be pulled (base-image.sh), and then modules of jsr: (samples/std). Only
# host names differ from the READMEs. Those of apps do not with SAMPLES_TLS=yes, which needs containers
# that trust the local authority.
# IGNITE_BIN names another binary than the debug build.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] && [ -d "$1" ] || { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$(cd "$1" && pwd)
shift
chosen=("$@")
[ ${#chosen[@]} -gt 0 ] || chosen=(support-desk product-analytics ask-your-notes research-agent)

for name in $(compgen -e IGNITE_ || true) $(compgen -e DODIL_ || true); do
    [ "$name" = IGNITE_BIN ] || unset "$name"
done
ignite=$(realpath "${IGNITE_BIN:-$here/../target/debug/ignite}")
work=$(mktemp -d)
mkdir "$work/bin" "$work/config"
ln -s "$ignite" "$work/bin/dodil"
export PATH="$work/bin:$PATH" IGNITE_DATA_DIR="$work/data" DODIL_CONFIG_DIR="$work/config"
encrypted=${SAMPLES_TLS:-no} ORG=${SAMPLES_ORG:-acme} failures=0 actions=0 pids=() tagged=()

finish() {
    local code=$?
    trap - EXIT
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null && wait "$pid" || true; done
    [ ${#tagged[@]} -eq 0 ] || docker rmi "${tagged[@]}" >/dev/null 2>&1 || true
    if [ -n "${KEEP:-}" ]; then echo "kept: $work" >&2; else rm -rf "$work"; fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

. "$here/samples/prepare.sh"
. "$here/samples/actions.sh"
dodil config set org_id "$ORG" >/dev/null
printf '\nThe client\n'
action "dodil auth status" dodil auth status
for sample in "${chosen[@]}"; do
    printf '\n%s\n' "$sample"
    . "$here/samples/$sample.sh"
done
printf '\n%s passed, %s failed\n' "$((actions - failures))" "$failures"
[ "$failures" -eq 0 ]
