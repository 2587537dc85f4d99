#!/usr/bin/env bash
# tandem plan, as its users call it: the known table, predictions beside published rows, what does not fit, bad
# input, a catalogue of one's own, and the script that fits against the program that predicts.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import sys

sys.path.insert(0, ".")
from e2e import *

TANDEM = os.path.join(BIN, "tandem")
SOURCE = os.environ.get("TANDEM_SOURCE", "..")
CONFIG = os.path.join(DIR, "config")
for name in [n for n in os.environ if n.startswith("TANDEM_") and n not in ("TANDEM_BIN", "TANDEM_SOURCE")]:
    del os.environ[name]
os.environ.update(TANDEM_CONFIG=CONFIG, TANDEM_SHARE=os.path.join(SOURCE, "share"), LC_ALL="C")
PAIR = ["--machines", "dgx-spark,mac-studio-m3-ultra", "--link", "10gbe", "--model", "llama-3.1-8b", "--quant", "f16",
        "--prompt", "8192", "--gen", "32"]


def plan(*args, rc=0):
    p = subprocess.run([TANDEM, "plan", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    check(p.returncode == rc, args, "ended with", p.returncode, p.stdout, p.stderr)
    return p


def predict(*args, rc=0):
    return json.loads(plan("predict", *args, "--json", rc=rc).stdout)


def known_table():
    r = json.loads(plan("compare", *PAIR, "--json").stdout)
    check(r["engine"] == "published", r)
    totals = {s["name"]: s["total_s"] for s in r["solo"]}
    for got, wanted in ((totals["dgx-spark"], 4.34), (totals["mac-studio-m3-ultra"], 6.42), (r["hybrid"]["total_s"], 2.32)):
        check(abs(got / wanted - 1) < 0.1, got, "is not", wanted)
    check(0 <= r["hybrid"]["tail_s"] < 0.1 and r["serial"]["total_s"] > r["hybrid"]["total_s"], r)
    check(set(r["breakeven"]) >= {"prompt_tokens", "gen_tokens", "link_gbps"}, r["breakeven"])
    llama = r["other_engine"]
    check(llama["engine"] == "llama.cpp" and 2 < llama["solo"][0]["prefill_s"] < 6, llama)
    other = json.loads(plan("compare", *PAIR, "--engine", "llama.cpp", "--json").stdout)
    check(other["engine"] == "llama.cpp" and other["other_engine"]["engine"] == "published", other)
    text = plan("compare", *PAIR).stdout
    for words in ("with published rates", "predicted for llama.cpp", "did not run llama.cpp", "begins to pay", "~~~"):
        check(words in text, words, "is not in", text)


def predictions():
    a = predict("--machine", "dgx-spark", "--model", "qwen2.5-coder-7b", "--quant", "Q8_0", "--test", "pp", "--n-prompt", "2048",
                "--backend", "CUDA")
    check(a["fits"] and a["low"] < 2276 < a["high"] and a["bound"] == "compute", a)
    a = predict("--machine", "strix-halo", "--model", "gpt-oss-120b", "--quant", "MXFP4", "--test", "tg", "--n-prompt", "0",
                "--depth", "32768", "--batch", "1", "--backend", "Vulkan")
    check(a["low"] < 43 < a["high"] and a["bound"] == "bandwidth", a)
    check(predict("--machine", "m3-ultra", "--model", "llama-3.3-70b", "--quant", "Q4_K_M", "--test", "tg")["low"] < 14.41, "alias")
    one = predict("--machine", "dgx-spark", "--model", "gpt-oss-20b", "--quant", "mxfp4", "--test", "tg")
    many = predict("--machine", "dgx-spark", "--model", "gpt-oss-20b", "--quant", "mxfp4", "--test", "tg", "--batch", "32")
    check(one["tokens_per_s"] * 4 < many["tokens_per_s"] < one["tokens_per_s"] * 32, one, many)
    text = plan("predict", "--machine", "dgx-spark", "--model", "gpt-oss-20b", "--quant", "mxfp4", "--test", "tg").stdout
    check("writes" in text and "#" in text and "weights" in text, text)


def what_does_not_fit():
    args = ["--machine", "rtx-3090", "--model", "llama-3.1-70b", "--quant", "F16", "--test", "tg"]
    a = predict(*args, rc=3)
    check(a["fits"] is False and a["tokens_per_s"] is None and "GB" in a["error"], a)
    check("does not fit" in plan("predict", *args, rc=3).stderr, "no reason")
    r = json.loads(plan("compare", *PAIR[:4], "--model", "llama-3.1-405b", "--quant", "f16", "--json", rc=3).stdout)
    check(r["hybrid"] is None and not r["solo"][0]["fits"] and "GB" in r["solo"][0]["error"], r)


def bad_input():
    good = {"--machine": "dgx-spark", "--model": "llama-3.1-8b", "--quant": "F16", "--test": "tg"}
    for change, rc, says in (({"--machine": "dgx-sprak"}, 1, "dgx-spark"), ({"--model": "llama-3.1-8"}, 1, "llama-3.1-8b"),
                             ({"--quant": "q4km"}, 1, "q4_k_m"), ({"--test": "xx"}, 2, "pp"), ({"--depth": "-1"}, 2, "-1"),
                             ({"--depth": "nan"}, 2, "nan"), ({"--batch": "0"}, 2, "0"), ({"--batch": "inf"}, 2, "inf"),
                             ({"--n-prompt": "-5"}, 2, "-5"), ({"--backend": "steam"}, 2, "CUDA"),
                             ({"--test": "pp", "--n-prompt": "0"}, 2, "--n-prompt is 0"), ({"--model": "no/such.gguf", "--quant": None}, 1, "no/such.gguf"),
                             ({"--model": "no/such.gguf"}, 2, "quantised already")):
        args = [x for kv in {**good, **change}.items() if kv[1] is not None for x in kv]
        p = plan("predict", *args, rc=rc)
        check(says in p.stderr and p.stdout == "", change, p.stderr)
    for args, says in ((["--machines", "dgx-spark", *PAIR[2:]], "two names"), ([*PAIR[:2], "--link", "10gb", *PAIR[4:]], "10gbe"),
                       ([*PAIR, "--gen", "0"], "0"), ([*PAIR, "--prompt", "NaN"], "NaN"), ([*PAIR, "--engine", "steam"], "published")):
        p = subprocess.run([TANDEM, "plan", "compare", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
        check(p.returncode in (1, 2) and says in p.stderr, args, p.returncode, p.stderr)
    check("compare" in plan("comprae", rc=2).stderr, "no nearest part")


def a_file():
    if not MODEL:
        print("no model file: not tried")
        return
    a = predict("--machine", "mac-studio-m2-ultra", "-m", MODEL, "--test", "tg")
    check(a["fits"] and a["tokens_per_s"] > 50 and a["interval_of"] == "model", a)
    bad = os.path.join(DIR, "bad.gguf")
    with open(bad, "wb") as f:
        f.write(b"GGUF" + b"\xff" * 100)
    check("bad.gguf" in plan("predict", "--machine", "m5", "-m", bad, "--test", "tg", rc=1).stderr, "no file name")


def ones_own():
    os.makedirs(os.path.join(CONFIG, "catalogue"))
    path = os.path.join(CONFIG, "catalogue", "mine.json")
    with open(path, "w") as f:
        json.dump({"machines": [{"name": "attic", "memory_gib": 48, "bandwidth_gbs": 600, "fp16_tflops": 80, "backends": ["CUDA"]}]}, f)
    a = predict("--machine", "attic", "--model", "llama-3.1-8b", "--quant", "Q4_K_M", "--test", "tg")
    check(a["interval_of"] == "machine" and 30 < a["tokens_per_s"] < 130, a)
    with open(path, "w") as f:
        f.write("{")
    check("mine.json" in plan("predict", "--machine", "attic", "--model", "x", "--test", "tg", rc=2).stderr, "no file name")
    os.remove(path)


def script_and_program_agree():
    subprocess.run([sys.executable, os.path.join(SOURCE, "scripts", "plan_fit.py"), "--tandem", TANDEM], check=True, timeout=120)


for test in (known_table, predictions, what_does_not_fit, bad_input, a_file, ones_own, script_and_program_agree):
    test()
print("plan: ok")
PYTHON
