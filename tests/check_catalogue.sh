#!/bin/sh
# share/catalogue: units, ranges, sources and dates are there, names occur once, and every measurement speaks
# of a machine and a model that are known.
set -eu
cd "$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)/share/catalogue"
exec python3 - <<'PYTHON'
import csv
import json
import math
import re

failures = []


def bad(what, *why):
    failures.append(" ".join([what] + [str(w) for w in why]))


def entries(name, key):
    def pairs(items):
        if len({k for k, _ in items}) != len(items):
            bad(name, "a member occurs twice:", items[0])
        return dict(items)

    with open(name, encoding="utf-8") as f:
        return json.load(f, object_pairs_hook=pairs)[key]


def number(what, entry, member, low, high, needed=True):
    value = entry.get(member)
    if value is None:
        if needed:
            bad(what, member, "is missing")
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        bad(what, member, "is", value, "and not a number from", low, "to", high)


def source(what, url, date):
    if not re.fullmatch(r"https?://[\w.-]+(/\S*)?", url or ""):
        bad(what, "has no source URL but", url)
    if not re.fullmatch(r"20[12]\d(-\d\d(-\d\d)?)?", date or ""):
        bad(what, "has no date of its source but", date)


def unique(what, names):
    lower = [n.lower() for n in names]
    for n in {n for n in lower if lower.count(n) > 1}:
        bad(what, n, "occurs twice")


machines = entries("machines.json", "machines")
models = entries("models.json", "models")
quants = entries("quantisations.json", "quantisations")
links = entries("links.json", "links")
tasks = entries("tasks.json", "tasks")

for m in machines:
    what = "machine %s:" % m.get("name")
    number(what, m, "gpus", 1, 64)
    number(what, m, "memory_gib", 4, 1024)
    number(what, m, "bandwidth_gbs", 50, 8000)
    number(what, m, "fp16_tflops", 1, 1000)
    number(what, m, "int8_tops", 10, 4000, False)
    number(what, m, "fp4_tflops", 10, 20000, False)
    number(what, m, "load_w", 10, 6000)
    number(what, m, "idle_w", 1, m.get("load_w", 6000))
    number(what, m, "price_usd", 200, 100000, False)
    if ("price_usd" in m) != ("price_date" in m):
        bad(what, "a price and its date go together")
    if m.get("kind") not in ("unified", "discrete"):
        bad(what, "kind is", m.get("kind"))
    if not m.get("title") or not m.get("backends") or not m.get("os") or not m.get("good_for"):
        bad(what, "title, backends, os and good_for must be there")
    number(what, m, "achieved_tflops", 1, m["fp16_tflops"], False)
    if m.get("noise") not in ("quiet", "audible", "loud"):
        bad(what, "noise is", m.get("noise"))
    if m.get("variant_of", m["name"]) not in {x["name"] for x in machines}:
        bad(what, "variant of an unknown machine", m["variant_of"])
    for p in m.get("older_prices", []):
        number(what, p, "usd", 200, 100000)
        source(what + " older price:", p.get("url"), p.get("date"))
    if "price_usd" in m and not any(re.search(r"price|\$", s.get("figures", "")) for s in m.get("sources", [])):
        bad(what, "no source says that it is one of its price")
    if not m.get("sources"):
        bad(what, "has no sources")
    for s in m.get("sources", []):
        source(what, s.get("url"), s.get("date"))
        if not s.get("figures"):
            bad(what, "a source must say for which figures")
    for r in m.get("rates", []):
        source(what, r.get("url"), r.get("date"))
        number(what, r, "prefill_tokens_per_s", 1, 1e6)
        number(what, r, "decode_tokens_per_s", 0.1, 1e5)
        if r.get("model_id") not in {x["id"] for x in models}:
            bad(what, "rates of an unknown model", r.get("model_id"))
    for n in m.get("network", []):
        if n not in {x["id"] for x in links}:
            bad(what, "an unknown link", n)

for m in models:
    what = "model %s:" % m.get("id")
    source(what, m.get("source_url"), m.get("source_date"))
    if not m.get("family"):
        bad(what, "has no family")
    if "unknown" in m:
        continue
    number(what, m, "params_b", 0.1, 3000)
    number(what, m, "active_params_b", 0.1, m["params_b"], False)
    number(what, m, "layers", 8, 200)
    number(what, m, "hidden", 256, 32768)
    number(what, m, "heads", 4, 256)
    number(what, m, "kv_heads", 1, m["heads"])
    number(what, m, "head_size", 32, 1024)
    number(what, m, "vocab", 10000, 500000)
    number(what, m, "context", 1024, 2e7)
    number(what, m, "full_layers", 1, m["layers"], False)
    number(what, m, "window", 64, 100000, False)
    if "active_params_b" in m and not 1 <= m.get("experts_used", 0) < m.get("experts", 0):
        bad(what, "a mixture needs experts_used below experts")
    if not m.get("licence"):
        bad(what, "has no licence")
    for q, b in m.get("bits", {}).items():
        if q.lower() not in {n.lower() for x in quants for n in [x["id"]] + x["aliases"]} or not 1 < b < 33:
            bad(what, "bits of", q, b)

for q in quants:
    what = "quantisation %s:" % q.get("id")
    number(what, q, "bits", 1, 32)
    source(what, q.get("source_url"), q.get("source_date"))
    if not q.get("class"):
        bad(what, "has no class")
for link in links:
    what = "link %s:" % link.get("id")
    number(what, link, "gbps", 0.1, 1000)
    number(what, link, "achieved_share", 0.1, 1)
    number(what, link, "latency_us", 0.1, 1e5)
    source(what, link.get("source_url"), link.get("source_date"))

for t in tasks:
    what = "task %s:" % t.get("id")
    source(what, t.get("source_url"), t.get("source_date"))
    if t.get("kind") not in ("train", "image", "video") or not ("value" in t and "unit" in t or "outcome" in t):
        bad(what, "kind, value and unit must be there")
    if "machine" in t and t["machine"] not in {m["name"] for m in machines}:
        bad(what, "an unknown machine", t["machine"])
    number(what, t, "peak_mem_gb", 1, 1024, False)
    number(what, t, "params_b", 0.1, 3000, False)
    if "pflop" in t:
        number(what, t, "pflop", 1e-4, 1e4)
        number(what, t, "seconds", 1e-3, 1e6)

unique("machine", [n for m in machines for n in [m["name"]] + m.get("aliases", [])])
unique("model", [m["id"] for m in models])
unique("quantisation", [n for q in quants for n in [q["id"]] + q["aliases"]])
unique("task", [t["id"] for t in tasks])
unique("link", [n for x in links for n in [x["id"]] + x["aliases"]])

known_machines, known_models = {m["name"] for m in machines}, {m["id"] for m in models}
known_quants = {n.lower() for q in quants for n in [q["id"]] + q["aliases"]} | {""}
with open("measurements.csv", encoding="utf-8", newline="") as f:
    rows = list(csv.DictReader(f))
units = {"pp": ("tok/s",), "tg": ("tok/s",), "ttft": ("s", "ms"), "e2e": ("s",)}
for i, r in enumerate(rows, 2):
    what = "measurements.csv line %d:" % i
    if r["machine_id"] not in known_machines or r["model_id"] not in known_models or r["quant"].lower() not in known_quants:
        bad(what, "machine, model or quantisation is not known:", r["machine_id"], r["model_id"], r["quant"])
    if r["unit"] not in units.get(r["test"], ()):
        bad(what, "unit", r["unit"], "of test", r["test"])
    value = float(r["value"])
    if not (math.isfinite(value) and 0 < value < 1e6) or not r["batch"].isdigit() or int(r["batch"]) < 1:
        bad(what, "value", r["value"], "batch", r["batch"])
    if not r["source_url"].startswith("http") or not r["source_date"].startswith("20"):
        bad(what, "no source")

with open("efficiency.json", encoding="utf-8") as f:
    efficiency = json.load(f)
families = {m["family"] for m in models}
for run in efficiency["runs"]:
    machine, family, _, _ = run.split("/")
    if machine not in known_machines or family not in families:
        bad("efficiency.json:", "run", run, "is not of the catalogue; run scripts/plan_fit.py --write")
for kind, tests in efficiency["spread"].items():
    for test, (low, high) in tests.items():
        if not low < 0 < high:
            bad("efficiency.json:", "spread of", kind, test, "is", low, high)

print("\n".join(failures) or "catalogue: %d machines, %d models, %d quantisations, %d links, %d tasks, %d measurements" % (
    len(machines), len(models), len(quants), len(links), len(tasks), len(rows)))
raise SystemExit(bool(failures))
PYTHON
