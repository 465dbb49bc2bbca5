#!/usr/bin/env bash
# Coverage-guided random bytes against properties that must hold for any input: requests to app URLs
# and to the JSON API, invocation envelopes, code. Succeeds if nothing was found.
#
#   scripts/fuzz.sh [SECONDS]     60 in all, shared by the targets; the build takes minutes at first
#
# TARGETS names some of the targets. Inputs that reach new code are kept in target/fuzz/ for the
# next run, and so are failures: fix the fault, then add the input to the seeds in
# fixtures/fuzz/seeds.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

seconds=${1:-60}
read -ra targets <<<"${TARGETS:-gateway json envelope code}"
die() { printf 'fuzz: %s\n' "$*" >&2; exit 1; }
[[ "$seconds" =~ ^[0-9]+$ ]] || die "$seconds is no number of seconds"

./scripts/setup.sh >&2
if ! command -v c++ >/dev/null; then
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || die "install a C++ compiler first: the engine needs one"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends g++ >&2
fi

# The fuzzing engine learns from counters that the compiler puts at every branch and comparison.
# With a named target, programs that run during the build have none.
host=$(rustc -vV | sed -n 's/^host: //p')
flags=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares)
out=$PWD/target/fuzz
RUSTFLAGS="${flags[*]}" cargo build --locked --profile fuzz --target "$host" --target-dir "$out/build" \
    --package ignite-fuzz --features libfuzzer >&2
fuzz=$out/build/$host/fuzz/ignite-fuzz

each=$((seconds / ${#targets[@]}))
[ "$each" -gt 0 ] || die "$seconds seconds are too few for ${#targets[@]} targets"
printf '| target | executions | kept inputs |\n| --- | --- | --- |\n'
for target in "${targets[@]}"; do
    [ -d "fixtures/fuzz/seeds/$target" ] || die "there is no target $target"
    mkdir -p "$out/corpus/$target" "$out/failed"
    # Inputs go to the first folder; the others are only read.
    FUZZ_TARGET=$target "$fuzz" -max_total_time="$each" -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="$out/failed/$target-" \
        "$out/corpus/$target" "fixtures/fuzz/seeds/$target" >"$out/$target.log" 2>&1 \
        || { tail -n 40 "$out/$target.log" >&2; die "$target failed; the input is in $out/failed, the log in $out/$target.log"; }
    printf '| %s | %s | %s |\n' "$target" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$target.log")" \
        "$(find "$out/corpus/$target" -type f | wc -l)"
done
