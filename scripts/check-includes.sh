#!/bin/sh
# check-includes.sh [TREE]: rooms of src/ include only themselves and the rooms they may use;
# the model library's headers appear in its engine alone; includes are written from src/.
. "$(dirname -- "$0")/lib.sh"

cd "${1:-$root}/src"

# The rooms that a room may use, apart from itself.
may_use() {
    case $1 in
    base) ;;
    os) echo base ;;
    net) echo base os ;;
    models) echo base os net ;;
    wire) echo base os net ;;
    engine) echo base os models ;;
    image) echo base os models ;;
    kv) echo base os net wire engine ;;
    train) echo base os engine ;;
    sched) echo base os ;;
    node) echo base os net models image wire engine kv sched ;;
    gateway) echo base os net models image wire engine kv sched node jobs ;;
    jobs) echo base os net models ;;
    plan) echo base os models sched engine node ;;
    cli) echo base os net models image wire engine kv sched node gateway jobs plan ;;
    *) return 1 ;;
    esac
}

# "file:line: room/header" of every include with quotes.
includes() {
    grep -rnE --include='*.[ch]' --include='*.cpp' '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' . |
        sed -E 's|^\./([^:]*:[0-9]*):[^"]*"([^"]*)".*|\1 \2|'
}

model_headers='^(llama|ggml|gguf|common|chat|sampling|json-schema|nlohmann)[a-z0-9/_.-]*$'
bad=$(
    for dir in */; do
        may_use "${dir%/}" >/dev/null || echo "src/$dir: not a room that scripts/check-includes.sh knows"
    done
    includes | while read -r place header; do
        file=${place%:*}
        from=${file%%/*}
        to=${header%%/*}
        if printf '%s\n' "$header" | grep -qE "$model_headers"; then
            case $file in
            engine/llama* | engine/quantize* | train/*) ;;
            *) echo "src/$place: \"$header\" belongs to the model library; only src/engine/llama*, quantize* and src/train may include it" ;;
            esac
            continue
        fi
        case $file in
        # The model library's C++ part is spread over plainly named headers.
        engine/llama*.cpp) [ -f "$header" ] || continue ;;
        esac
        [ -f "$header" ] || { echo "src/$place: \"$header\" is not a path from src/"; continue; }
        # Files directly in src/ are mains and may use everything.
        [ "$from" = "$file" ] && continue
        case " $from $(may_use "$from" | tr '\n' ' ') " in
        *" $to "*) ;;
        *) echo "src/$place: room $from may not include \"$header\"" ;;
        esac
    done
    # The trainer builds graphs of its own on ggml; llama.h it does not need.
    grep -rnE --include='*.[ch]' --include='*.cpp' '#[[:space:]]*include[[:space:]]*<(llama|ggml|gguf)' . |
        grep -vE '^\./(engine/(llama|quantize)|train/[^:]*:[0-9]*:.*<g)' | sed 's|^\./\(.*\)|src/\1: only src/engine/llama* may include this|'
    grep -rn --include='*.[ch]' '#[[:space:]]*include[[:space:]]*[<"]stable-diffusion' . | grep -v '^\./image/draw_sd\.c:' |
        sed 's|^\./\(.*\)|src/\1: only src/image/draw_sd.c may include this|'
    find . -name '*.cpp' ! -path './engine/llama*' | sed 's|^\./\(.*\)|src/\1: C++ lives in src/engine/llama* only|'
)
if [ -n "$bad" ]; then
    say "$bad"
    die "the direction of the rooms is broken"
fi
say "includes: ok"
