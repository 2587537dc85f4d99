#!/bin/sh
# fuzz.sh BUILD SECONDS [TARGET]: runs every fuzz target for that long, JOBS (2) at a time, from its corpus in
# tests/corpus/. New inputs stay in BUILD/corpus/; what crashed, in BUILD/crashes/.
. "$(dirname -- "$0")/lib.sh"

build=$1
seconds=$2
mkdir -p "$build/crashes"

# run TARGET
run() {
    name=${1##*/fuzz_}
    seeds=$root/tests/corpus/$name
    [ -d "$seeds" ] || die "there is no corpus $seeds"
    mkdir -p "$build/corpus/$name"
    log=$build/crashes/$name.log
    if ! "$1" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="$build/crashes/$name-" "$build/corpus/$name" "$seeds" >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        die "$name: the input that failed is in $build/crashes"
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    say "fuzz: $name: $runs inputs in $seconds s, none failed"
}

if [ $# -gt 2 ]; then
    run "$3"
    exit
fi
targets=$(find "$build/tests" -maxdepth 1 -name 'fuzz_*' -type f -perm -u+x | sort)
[ -n "$targets" ] || die "no fuzz target in $build/tests"
printf '%s\n' "$targets" | xargs -n 1 -P "${JOBS:-2}" "$0" "$build" "$seconds" || die "a target failed"
