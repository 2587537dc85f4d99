#!/usr/bin/env bash
# tandem plan without a part, and plan platforms: advice as its users get it, as text, JSON and page; limits,
# bad input with the way out, machines and models of one's own, a model from a file.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import html.parser
import math
import sys

sys.path.insert(0, ".")
from e2e import *

TANDEM = os.path.join(BIN, "tandem")
SOURCE = os.environ.get("TANDEM_SOURCE", "..")
CONFIG = os.path.join(DIR, "config")
for name in [n for n in os.environ if n.startswith("TANDEM_") and n not in ("TANDEM_BIN", "TANDEM_SOURCE")]:
    del os.environ[name]
os.environ.update(TANDEM_CONFIG=CONFIG, TANDEM_SHARE=os.path.join(SOURCE, "share"), LC_ALL="C")
PAIR = ["--machines", "dgx-spark,mac-studio-m3-ultra", "--model", "llama-3.1-8b", "--quant", "f16", "--prompt", "8192", "--gen", "32"]


def plan(*args, rc=0, env=None):
    p = subprocess.run([TANDEM, "plan", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60,
                       env={**os.environ, **(env or {})})
    check(p.returncode == rc, args, "ended with", p.returncode, p.stdout, p.stderr)
    return p


def advice(*args):
    return json.loads(plan(*args, "--json").stdout)


def figures_hang_together():
    d = advice("--model", "gpt-oss-120b", "--prompt", "16384", "--gen", "400", "--budget", "15000", "--top", "0")
    check(d["kind"] == "advice" and d["version"] == 1 and d["engine"] == "llama.cpp", d["kind"])
    check(len(d["options"]) == d["options_found"] == len(d["points"]) > 10, len(d["options"]))
    for o in d["options"]:
        check(o["price_usd"] <= 15000 and o["total_s"]["low"] < o["total_s"]["value"] < o["total_s"]["high"], o)
        check(math.isclose(o["prefill_s"] + o["tail_s"] + o["decode_s"], o["total_s"]["value"], rel_tol=1e-6), o)
        check(o["why"] and o["joules_per_answer"] > 0 and 0 < o["busy"] <= 0.8, o)
    work = [o["work_s_per_hour"] for o in d["options"]]
    check(work == sorted(work), "not in order", work)
    check(any("fits" in x["why"] or "needs" in x["why"] for x in d["left_out"]), d["left_out"])
    for name in {n for o in d["options"] for n in o["machines"]}:
        check(d["sources"][name][0]["url"].startswith("http"), name)
    cheap = advice("--model", "gpt-oss-120b", "--by", "money", "--top", "1")["options"]
    check(len(cheap) == 1 and cheap[0]["usd_per_year"] <= min(o["usd_per_year"] for o in d["options"]), cheap)


def known_pair():
    d = advice(*PAIR, "--engine", "published")
    totals = {o["name"]: o["total_s"] for o in d["options"]}
    for name, wanted in (("dgx-spark", 4.34), ("mac-studio-m3-ultra", 6.42), ("dgx-spark + mac-studio-m3-ultra", 2.32)):
        check(abs(totals[name]["value"] / wanted - 1) < 0.1 and totals[name]["low"] is None, name, totals)
    pair = d["pair"]
    check(pair["worth_it"] and pair["other_engine"]["engine"] == "llama.cpp", pair)
    at = {round(p["x"]): p for p in d["curves"]["answer"]}
    check(abs(at[32]["over_writer"] - 2.8) < 0.1 and at[8192]["gain"] < 1.05, at)
    check(d["curves"]["link"][0]["gain"] < 1 < d["curves"]["link"][-1]["gain"], "link")
    for change, says in ((["--gen", "4000"], "the answer is long"), (["--prompt", "100"], "the prompt is short"),
                         (["--link", "1gbe"], "the link is slow"), (["--warm", "0.99"], "in the cache"), (["--budget", "12000"], "$16,398")):
        d = advice(*PAIR, "--engine", "published", *change)
        check(not d["pair"]["worth_it"] and any(says in w for w in d["pair"]["why"]), change, d["pair"]["why"])
    text = plan(*PAIR).stdout
    for words in ("Predicted for llama.cpp", "with published rates: 1.88 times", "worth it", "for 3.44 times its yearly cost", "A pair", "Why", "nothing that costs less", "~ waits"):
        check(words in " ".join(text.split()), words, "is not in", text)


class Page(html.parser.HTMLParser):
    """Every element closed in order, ids once, and nothing that would be fetched."""
    VOID = {"meta", "br", "rect", "path", "line", "circle"}

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.charts, self.tables, self.labels = [], set(), 0, 0, []

    def handle_starttag(self, tag, attrs):
        at = dict(attrs)
        check(tag not in ("script", "link", "img", "iframe", "object") and "src" not in at and "onclick" not in at, tag, at)
        if "id" in at:
            check(at["id"] not in self.ids, "twice:", at["id"])
            self.ids.add(at["id"])
        if tag == "svg":
            check(at.get("role") == "img", at)
            self.labels += at["aria-labelledby"].split()
        self.charts += tag == "svg"
        self.tables += tag == "table"
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        check(self.open and self.open[-1] == tag, "</%s> closes" % tag, self.open[-3:])
        self.open.pop()


def page_read(path):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    page = Page()
    page.feed(text)
    check(not page.open and set(page.labels) <= page.ids, page.open, page.labels)
    check("prefers-color-scheme" in text and "@media print" in text and "@import" not in text, "no styles")
    return page


def pages():
    path = os.path.join(DIR, "advice.html")
    plan("--model", "gpt-oss-120b", "--train-share", "0.1", "--images", "4", "--html", path)
    page = page_read(path)
    check(page.charts >= 7 and page.tables >= page.charts, page.charts, page.tables)
    plan("compare", *PAIR, "--html", path)
    check(page_read(path).charts >= 6, "charts of a pair")
    plan("platforms", "--html", path)
    check(page_read(path).tables >= 3, "tables of platforms")
    p = plan("platforms", "--html", os.path.join(DIR, "no", "such", "x.html"), rc=1)
    check("--html" in p.stderr and "x.html" in p.stderr, p.stderr)


def platforms():
    p = json.loads(plan("platforms", "--json").stdout)["platforms"]
    work = {w["id"]: w for w in p["work"]}
    check({"fine-tuning", "large models", "images", "conversation", "long prompts", "energy"} <= set(work), work.keys())
    names = [m["name"] for m in p["machines"]]
    large = work["large models"]["values"]
    check(large[names.index("mac-studio-m3-ultra")] is not None and large[names.index("strix-halo")] is None, large)
    said = {c["said"]: c for c in p["claims"]}
    check(all(c["verdict"] in ("agrees", "differs") and c["here"] for c in said.values()) and len(said) >= 9, said)
    check("1.9 times the Spark" in json.dumps(p["claims"]), p["claims"])
    text = plan("platforms", "--machines", "dgx-spark,m3-ultra,strix-halo").stdout
    check("best" in text and "What is said of them" in text and "agrees:" in text, text)


def bad_input():
    good = {"--model": "gpt-oss-20b"}
    for change, rc, says in (({"--model": None}, 2, "--model ID is missing"), ({"--model": "gpt-oss-20"}, 1, "gpt-oss-20b"),
                             ({"--quant": "q4km"}, 1, "q4_k_m"), ({"--budget": "0"}, 2, "more than 0"), ({"--budget": "-3"}, 2, "more than 0"),
                             ({"--budget": "nan"}, 2, "nan"), ({"--budget": "10"}, 3, "a budget of $"), ({"--prompt": "0"}, 2, "--prompt"),
                             ({"--gen": "inf"}, 2, "--gen"), ({"--requests": "-1"}, 2, "--requests"), ({"--train-share": "1.5"}, 2, "--train-share"),
                             ({"--warm": "1"}, 2, "--warm"), ({"--years": "0"}, 2, "--years"), ({"--noise": "loudest"}, 2, "quiet, audible, loud"),
                             ({"--by": "speed"}, 2, "time, money"), ({"--engine": "steam"}, 2, "published"), ({"--machines": "dgx-sprak"}, 1, "dgx-spark"),
                             ({"--own": "m3ultra"}, 1, "m3-ultra"), ({"--link": "10gb"}, 1, "10gbe"), ({"--train-model": "lama-3.1-8b"}, 1, "llama-3.1-8b"),
                             ({"--power-max": "50"}, 3, "--power-max"), ({"--memory-min": "2000"}, 3, "--memory-min"),
                             ({"--model": "kimi-k2.5", "--quant": "F16"}, 3, "smaller --quant"), ({"--engine": "published"}, 3, "--engine llama.cpp"),
                             ({"--model": "no/such.gguf"}, 1, "no/such.gguf"), ({"--machines": ",".join(["dgx-spark"] * 17)}, 1, "--machines")):
        args = [x for kv in {**good, **change}.items() if kv[1] is not None for x in kv]
        p = plan(*args, rc=rc)
        check(says in p.stderr and p.stdout == "", change, p.stdout, p.stderr)
    check("exclude each other" in plan("--model", "gpt-oss-20b", "--private", "--cloud", rc=2).stderr, "private and cloud")
    check("compare" in plan("--help").stdout, "the parts are not in --help")


def ones_own():
    os.makedirs(os.path.join(CONFIG, "catalogue"))
    path = os.path.join(CONFIG, "catalogue", "mine.json")
    with open(path, "w") as f:
        json.dump({"machines": [{"name": "attic", "memory_gib": 48, "bandwidth_gbs": 600, "fp16_tflops": 80, "backends": ["CUDA"],
                                 "price_usd": 1200, "load_w": 300, "idle_w": 30, "os": "Linux", "network": ["10gbe"]}],
                   "models": [{"id": "mine-9b", "params_b": 9, "layers": 40, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_size": 128,
                               "vocab": 128000}],
                   "tasks": [{"id": "attic-images", "kind": "image", "machine": "attic", "pflop": 2.5, "seconds": 50}]}, f)
    d = advice("--model", "mine-9b", "--quant", "Q4_K_M", "--machines", "attic,dgx-spark")
    names = [o["name"] for o in d["options"]]
    check("attic" in names and "dgx-spark" in names, names)
    check("attic" in plan("--model", "gpt-oss-20b", "--machines", "attik", rc=1).stderr, "one's own names are not near")
    check("mine-9b" in plan("--model", "mine-9c", rc=1).stderr, "one's own models are not near")
    check(plan("--model", "mine-9b", "--machines", "attic", "--own", "attic", "--budget", "1").stdout, "owned costs nothing")
    os.remove(path)
    if MODEL:
        d = advice("-m", MODEL, "--machines", "mac-studio-m2-ultra,strix-halo")
        check(len(d["options"]) >= 2 and d["question"]["quant"], d["question"])
    else:
        print("no model file: not tried")


def options_file():
    path = os.path.join(CONFIG, "tandem.ini")
    with open(path, "w") as f:
        f.write("[plan]\nbudget = 3000\nyears = 5\n")
    q = advice("--model", "gpt-oss-20b")["question"]
    check(q["budget_usd"] == 3000 and q["years"] == 5, q)
    plan("predict", "--machine", "dgx-spark", "--model", "gpt-oss-20b", "--test", "tg")  # whose options are others
    os.remove(path)


def terminal():
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {}):
        check("\033" not in plan("--model", "gpt-oss-20b", env=env).stdout, "colour without a terminal", env)


for test in (figures_hang_together, known_pair, pages, platforms, bad_input, ones_own, options_file, terminal):
    test()
print("plan advice: ok")
PYTHON
