# The output of a part: tables, its targets, and its place in the manual.

# A row of a table, of any number of columns.
row() { printf '|'; printf ' %s |' "$@"; printf '\n'; }

targets=()
# A row of the targets: WHAT MEASURED RELATION TARGET.
target() {
    targets+=("$(awk -v what="$1" -v r="$2" -v rel="$3" -v t="$4" 'BEGIN {
        met = rel == "at least" ? r >= t : r <= t
        printf "| %s | %.2f | %s %s | %s |", what, r, rel, t, met ? "met" : "missed" }')")
}
show_targets() {
    printf '\n'
    row '' measured target ''
    row --- --- --- ---
    printf '%s\n' "${targets[@]}"
}

performance_page=$root/src/docs/performance.md
# The parts that have a place in the manual, in its order.
parts_in_manual() { sed -n 's/^<!-- bench:\(.*\) -->$/\1/p' "$performance_page"; }

# When and on what a part was measured.
machine() {
    printf 'Measured on %s: %s, %s cores, %s, Docker %s (%s).' "$(date +%F)" \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n1)" "$(nproc)" "$(uname -sr)" \
        "$(docker version --format '{{.Server.Version}}')" "$(docker info --format '{{.Driver}}')"
}

# Puts what a part printed into its place: PART FILE.
into_manual() {
    { printf '\n%s\n\n' "$(machine)"; sed '/./,$!d' "$2"; printf '\n'; } >"$work/block"
    awk -v mark="<!-- bench:$1 -->" -v block="$work/block" '
        $0 == "<!-- /bench -->" { within = 0 }
        !within { print }
        $0 == mark { within = 1; while ((getline line < block) > 0) print line }' "$performance_page" >"$work/page"
    cat "$work/page" >"$performance_page"
}
