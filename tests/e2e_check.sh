#!/bin/sh
# `tandem check` on real and on tiny random models: the mode that it finds for each kind of cache, exact
# between two processes, with a control that differs; and what it says of files that are no models.
set -eu
bin=${TANDEM_BIN:?} source=${TANDEM_SOURCE:?} model=${TANDEM_TEST_MODEL:?}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

fail() {
    echo "e2e_check: $*" >&2
    exit 1
}

# expect MODE MODEL: runs the check and judges its answer.
expect() {
    rc=0
    "$bin/tandem" check --json -m "$2" >"$dir/answer" 2>"$dir/stderr" || rc=$?
    python3 - "$1" "$rc" "$dir/answer" "${2##*/}" <<'PYTHON' || {
import json, sys

mode, rc, path, name = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
answer = json.load(open(path))
keys = {"handoff", "max_logit_diff", "kv_bytes_per_token", "state_bytes", "control_logit_diff", "reason"}
assert set(answer) == keys, f"members are {sorted(answer)}"
assert answer["handoff"] == mode, f"handoff is {answer}"
assert answer["reason"], "no reason"
if mode == "none":
    assert rc == 3, f"exit code {rc}"
    assert answer["max_logit_diff"] is None and answer["kv_bytes_per_token"] == 0
else:
    assert rc == 0, f"exit code {rc}"
    assert answer["max_logit_diff"] == 0, answer
    assert answer["control_logit_diff"] > 0, answer
    assert "4 ranges of 200 tokens" in answer["reason"], answer["reason"]
    assert answer["kv_bytes_per_token"] > 0 or answer["state_bytes"] > 0, answer
assert (answer["state_bytes"] > 0) == (mode in ("ranges-late-state", "whole")), answer
print(f"{name}: {mode}, control {answer['control_logit_diff']}")
PYTHON
        cat "$dir/answer" "$dir/stderr" >&2
        fail "$2"
    }
}

expect ranges "$model"

# One of every kind of cache: dense, MoE, sliding window, MLA, recurrent, hybrid, its own, none.
"$source/scripts/archs.sh" "$dir/archs" llama qwen3moe gemma3 gpt-oss deepseek2 mamba mamba2 jamba \
    qwen35 falcon-h1 nemotron_h granitehybrid lfm2 minimax-01 deepseek4 llada >/dev/null 2>"$dir/log" ||
    fail "no tiny models: $(cat "$dir/log")"
for file in "$dir"/archs/*.gguf; do
    name=${file##*/}
    case ${name%-*} in
    mamba | mamba2 | jamba | qwen35 | falcon-h1 | nemotron_h | granitehybrid | lfm2 | minimax-01)
        expect ranges-late-state "$file" ;;
    deepseek4) expect whole "$file" ;;
    llada) expect none "$file" ;;
    *) expect ranges "$file" ;;
    esac
done

# A sliding window on a real model, where the file can be had.
if gemma=$("$source/scripts/gemma.sh" 2>"$dir/log"); then
    expect ranges "$gemma"
else
    echo "gemma: SKIPPED, the file could not be had: $(tail -n 1 "$dir/log")"
fi

# refuse TEXT MODEL: exit code 1 and words that contain TEXT.
refuse() {
    rc=0
    "$bin/tandem" check -m "$2" >"$dir/answer" 2>"$dir/stderr" || rc=$?
    [ "$rc" = 1 ] || fail "$2: exit code $rc"
    grep -q -- "$1" "$dir/stderr" || fail "$2: no '$1' in: $(cat "$dir/stderr")"
}
refuse "no model file at" "$dir/absent.gguf"
head -c 30000000 "$model" >"$dir/cut.gguf"
refuse "cut short: 30000000 bytes of" "$dir/cut.gguf"
head -c 3000 "$model" >"$dir/head.gguf"
refuse "cut short" "$dir/head.gguf"
cp "$0" "$dir/script.gguf"
refuse "not a GGUF file" "$dir/script.gguf"
refuse "not a regular file" "$dir"
rc=0
"$bin/tandem" check >/dev/null 2>"$dir/stderr" || rc=$?
[ "$rc" = 2 ] || fail "without a model: exit code $rc"

# People read the other form.
"$bin/tandem" check -m "$dir/archs/llama-dense.gguf" >"$dir/answer" || fail "text form"
grep -q "largest logit difference to the un-split run  0$" "$dir/answer" || fail "text form: $(cat "$dir/answer")"

# A quantised copy appears whole or not at all.
tiny=$dir/archs/llama-dense.gguf
"$bin/tandem-worker" quantize "$tiny" "$dir/q8.gguf" Q8_0 2>"$dir/log" || fail "quantize: $(cat "$dir/log")"
expect ranges "$dir/q8.gguf"
if "$bin/tandem-worker" quantize "$dir/cut.gguf" "$dir/never.gguf" Q8_0 2>"$dir/log"; then
    fail "a cut model was quantised"
fi
[ ! -e "$dir/never.gguf" ] || fail "a broken copy was left"
[ -z "$(find "$dir" -name '*.part')" ] || fail "a part file was left"
echo "e2e_check: ok"
