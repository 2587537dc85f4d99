#!/bin/sh
# acceptance.sh [PART...]: measures what the main job has to reach and holds it against the bounds.
#
#   emulated   2048 tokens in, 8 out on the emulated pair, and the same unpaced (medians of 3)
#   slow-link  the same with KV time / prefill time = 1.5
#   streaming  what streaming costs the prefill node, unpaced (7 pairs in turns)
#   link       the peer link alone, TLS on loopback
#   local      the local path against llama-bench (bench/local.sh)
#   memory     what gateway and nodes add
#   gateway    what a request, a streamed token and thousands of connections cost (bench/gateway.sh)
#   place      how long a choice between nodes takes, by size of fleet (bench/place.c)
#   grid       regret and predictions of the gateway's choices (`tandem bench --grid`), six to ten minutes
#   fleet      two emulated Sparks and a Mac against one and a Mac (bench/fleet.sh), three minutes
#   stalls     chats while long prompts come, on two cores, beside llama-server (bench/goodput.sh), a quarter of an hour
#   goodput    both at several rates, half an hour
#   images     what worker and gateway add to the image library's command line (bench/image_overhead.sh), and what a picture
#              costs the chats beside it (bench/image_chats.sh), five minutes
#   llama-server  tandem beside llama-server of the same build (bench/llama_server.sh), about half an hour;
#              only when asked for
#   long       7168 tokens in, 28 out, one run; only when asked for
#
# Writes bench/results/acceptance.json with date and machine (what of it is not measured now stays) and prints a table. Exit code 3 when a
# bound is missed. About an hour and a half; the machine should have nothing else to do.
# TANDEM_BIN: the build folder. TANDEM_TEST_MODEL: the model.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
model=${TANDEM_TEST_MODEL:?}
export TANDEM_BIN="$bin"
results=$root/bench/results
parts=$results/tmp
rm -rf "$parts"
mkdir -p "$parts"

measure_emulated() {
    "$bin/tandem" bench -m "$model" --prompt 2048 --gen 8 --runs 3 --svg "$results/emulated.svg" \
        --report "$results/emulated.txt" --json-file "$1" >&2
}
measure_slow_link() {
    "$bin/tandem" bench -m "$model" --prompt 2048 --gen 8 --runs 1 --unpaced-runs 1 \
        --link-ratio 1.5 --svg "$results/slow-link.svg" --json-file "$1" >&2
}
measure_streaming() {
    "$root/bench/streaming.sh" >"$1"
}
measure_link() {
    "$bin/bench/link" >"$1"
}
measure_local() {
    "$root/bench/local.sh" >"$1"
}
measure_memory() {
    "$root/bench/memory.sh" >"$1"
}
measure_gateway() {
    "$root/bench/gateway.sh" >"$1"
}
measure_place() {
    "$bin/bench/place" >"$1"
}
measure_grid() {
    "$bin/tandem" bench -m "$model" --grid --svg "$results/grid.svg" --report "$results/grid.txt" \
        --json-file "$1" >&2
}
measure_fleet() {
    SVG="$results/fleet.svg" "$root/bench/fleet.sh" >"$1"
}
measure_stalls() {
    "$root/bench/goodput.sh" stalls >"$1"
}
measure_goodput() {
    SVG="$results/goodput.svg" "$root/bench/goodput.sh" goodput >"$1"
}
measure_images() {
    overhead=$("$root/bench/image_overhead.sh") && chats=$("$root/bench/image_chats.sh") &&
        printf '{"overhead":%s,"chats":%s}\n' "$overhead" "$chats" >"$1"
}
measure_llama_server() {
    "$root/bench/llama_server.sh" >"$1"
}
measure_long() {
    "$bin/tandem" bench -m "$model" --prompt 7168 --gen 28 --runs 1 --svg "$results/long.svg" \
        --json-file "$1" >&2
}

[ $# -gt 0 ] || set -- link memory local gateway place streaming emulated slow-link grid fleet stalls goodput images
for part in "$@"; do
    say "acceptance: $part"
    function=measure_$(printf '%s' "$part" | tr - _)
    "$function" "$parts/$part.new.json" || die "$part could not be measured"
    mv "$parts/$part.new.json" "$parts/$part.json"
    case $part in
    place | grid | fleet | stalls | goodput) cp "$parts/$part.json" "$results/$part.json" ;;
    esac
done

python3 "$root/bench/bounds.py" "$parts" "$results/acceptance.json"
