#!/usr/bin/env python3
"""Fits the planner's efficiencies to published measurements; prints how wrong the result is.

usage: plan_fit.py [--write] [--no-cross] [--worst] [--tandem PROGRAM]

Reads machines, models, quantisations and measurements.csv of share/catalogue. The formula is that of
src/sched/cost.h (docs/cost-model.md explains it): a time is a sum of terms, each a physical quantity
(bytes, operations, layers) times the inverse of a rate, times exp of a sum of fitted numbers. The fit
is robust (Student's t) in the logarithm of the time, with every number shrunk towards zero, that is
towards the mean of its class. --write puts the numbers into efficiency.json; --no-cross leaves out the
cross-validation (and with it the intervals); --worst lists the rows that fit worst; --tandem fits
nothing and compares this formula with what that program predicts.
Fitting needs numpy.
"""
import csv
import json
import math
import os
import subprocess
import sys

CATALOGUE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "share", "catalogue")
KV_BYTES = 2  # F16 keys and values
GIGA, TERA = 1e9, 1e12
ALIKE = 0.8  # tokens of a batch choose alike: n of them reach as many experts as n**ALIKE independent ones
DEEP = 8192.0  # tokens beyond which attention outgrows the caches of a GPU
STUDENT = 4.0  # degrees of freedom of the loss
NOISE = {"tg": 0.06, "pp": 0.09}  # what two runs of the same thing differ by, as a standard deviation
VAGUE = 2.0  # rows that do not say prompt or depth count as so many times noisier

# How far a number may stray from its class before the measurements must insist: standard deviations of
# the logarithm. The first word of a number's name says which.
PRIOR = {"all": 0.7, "engine": 0.5, "quant": 0.2, "engine-quant": 0.2, "moe": 0.5, "split": 0.4, "era": 0.6,
         "machine": 0.2, "machine-engine": 0.15, "model": 0.12, "model-engine": 0.1}
# Where the numbers of the class "all" begin: inverse efficiencies of a good kernel, seconds per layer.
START = {"weights": math.log(1.25), "kv": math.log(1.8), "compute": math.log(2.0), "attention": math.log(3.0),
         "floor": math.log(1.8), "layer": math.log(25e-6), "hop": math.log(5e-3)}
# Terms that share the effects of machine and model: what the memory does, what the arithmetic does.
RESOURCE = {"weights": "memory", "kv": "kv", "floor": "floor", "compute": "compute", "attention": "attention"}


def load(name, key):
    with open(os.path.join(CATALOGUE, name), encoding="utf-8") as f:
        return json.load(f)[key]


class Catalogue:
    def __init__(self):
        self.machines = {m["name"]: m for m in load("machines.json", "machines")}
        self.models = {m["id"]: m for m in load("models.json", "models")}
        self.quants = {}
        for q in load("quantisations.json", "quantisations"):
            for name in [q["id"]] + q["aliases"]:
                self.quants[name.lower()] = q

    def bits(self, model, quant):
        own = {k.lower(): v for k, v in model.get("bits", {}).items()}
        return model.get("native_bits") or own.get(quant.lower()) or self.quants[quant.lower()]["bits"]


def engine_of(engine, backend, machine):
    """The class of kernels that ran: engine and backend of a row as one name."""
    engine, backend = engine.lower(), backend.lower()
    if engine == "ds4":
        return {"metal": "ds4", "cuda": "ds4-cuda", "rocm": "ds4-rocm"}[backend]
    if engine in ("mlx",):
        return "mlx"
    if engine in ("vllm", "sglang", "trt-llm", "vllm nim", "pegainfer"):
        return "vllm"
    backend = backend.split(",")[0].split("+")[0]
    if backend in ("gpu", "gpu/cpu"):
        backend = machine["backends"][0].lower()
    return backend


# ---- the formula: the same as src/sched/cost.c ----------------------------------------------------------

def shape_of(model, bits):
    full = model.get("full_layers", model["layers"])
    window_layers = model["layers"] - full if "window" in model else 0
    latent = model.get("kv_latent", 0)
    head, value = model["head_size"], model.get("value_size", model["head_size"])
    window_head = model.get("window_head_size", head)
    window_kv = model.get("window_kv_heads", model["kv_heads"])
    table = model["vocab"] * model["hidden"]
    params = model["params_b"] * GIGA
    active = model.get("active_params_b", model["params_b"]) * GIGA
    routed, share = 0.0, 1.0
    if active < params:
        share = model["experts_used"] / model["experts"]
        routed = min((params - active) / (1 - share), 0.98 * params)
    lookup = 0 if model.get("tied") else table
    return {
        "layers": model["layers"],
        "weight_bytes": params * bits / 8,
        "fixed_bytes": (params - routed - lookup) * bits / 8,
        "routed_bytes": routed * bits / 8,
        "routed_share": share,
        "flops": 2 * max(active - lookup, 0.5 * active),
        "head_flops": 2.0 * table,
        "full_kv_bytes": full * (latent or 2 * model["kv_heads"] * head) * KV_BYTES,
        "window_kv_bytes": window_layers * 2 * window_kv * window_head * KV_BYTES,
        "full_pair_flops": full * 2.0 * model["heads"] * (head + value),
        "window_pair_flops": window_layers * 4.0 * model["heads"] * window_head,
        "window": model.get("window", 0),
    }


def touched(s, tokens):
    """Bytes of weights that a batch of so many tokens reads."""
    return s["fixed_bytes"] + s["routed_bytes"] * (1 - (1 - s["routed_share"]) ** (tokens**ALIKE))


def seen(window, depth, tokens):
    """Pairs of a token and one that it sees, of `tokens` after `depth`, within the window (0: none)."""
    if window == 0 or depth + tokens <= window:
        return tokens * (depth + tokens / 2)
    rising = max(min(window - depth, tokens), 0)
    return rising * (depth + rising / 2) + (tokens - rising) * window


def matrix_flops(machine, engine):
    """llama.cpp multiplies in INT8, or FP16 with FP16 sums, on NVIDIA's tensor cores; the latter is half the former."""
    if engine == "cuda" and "int8_tops" in machine:
        return machine["int8_tops"] / 2 * TERA
    return machine["fp16_tflops"] * TERA


def quantities(s, machine, row):
    """What has to be moved and computed: {term: amount of seconds at the nominal rates}."""
    test, n, depth, batch, ubatch = (row[k] for k in ("test", "n", "depth", "batch", "ubatch"))
    speed, pair_flops = machine["bandwidth_gbs"] * GIGA, machine["fp16_tflops"] * TERA
    flops = matrix_flops(machine, row["engine"])
    if test == "tg":
        kv = s["full_kv_bytes"] * depth + s["window_kv_bytes"] * min(depth, s["window"])
        return {"weights": touched(s, batch) / speed, "kv": batch * kv / speed,
                "compute": batch * s["flops"] / flops, "layer": s["layers"], "hop": 1.0}
    tokens = n * batch
    chunk = min(ubatch, tokens)
    chunks = math.ceil(tokens / chunk)
    pairs = batch * (s["full_pair_flops"] * seen(0, depth, n) + s["window_pair_flops"] * seen(s["window"], depth, n))
    return {"compute": tokens * max(s["flops"] - s["head_flops"], 0.5 * s["flops"]) / flops,
            "attention": pairs / pair_flops, "floor": chunks * touched(s, chunk) / speed,
            "layer": chunks * s["layers"], "hop": chunks}


def terms_of(s, machine, row):
    """[(seconds, {name of a fitted number: factor})]"""
    e, q, test = row["engine"], row["class"], row["test"]
    out = []
    for term, amount in quantities(s, machine, row).items():
        if amount <= 0:
            continue
        names = {"all/" + term: 1.0, "engine/%s/%s" % (term, e): 1.0}
        if term in ("weights", "compute", "floor"):
            names["quant/%s/%s" % (term, q)] = 1.0
            names["engine-quant/%s/%s/%s" % (term, e, q)] = 1.0
            if s["routed_bytes"] > 0:
                names["all/moe-" + term] = 1.0
                names["moe/%s/%s" % (term, e)] = 1.0
        if row["old"]:
            names["era/%s/%s" % (term, e)] = 1.0
        if term == "attention":
            names["all/deep"] = names["engine/deep/" + e] = math.log1p(row["depth"] / DEEP)
        if term in RESOURCE:
            r = RESOURCE[term]
            names["machine/%s/%s" % (r, row["machine"])] = 1.0
            names["machine-engine/%s/%s/%s" % (r, row["machine"], e)] = 1.0
            names["model/%s/%s" % (r, row["family"])] = 1.0
        gpus = machine["gpus"]
        if gpus > 1 and term in RESOURCE:
            way = "tensor" if e == "vllm" else "layer"
            names["split/%s/%s" % ("prefill" if test == "pp" else "decode", way)] = -math.log(gpus)
        if term == "hop":
            if machine.get("split") != "rpc":
                continue
            amount *= gpus - 1
            if amount <= 0:
                continue
        out.append((amount, names))
    return out


def least_of(s, machine, row):
    """The same for what a prompt takes at the least: every chunk reads its weights once."""
    if row["test"] == "tg":
        return terms_of(s, machine, row)
    tokens = row["n"] * row["batch"]
    chunk = min(row["ubatch"], tokens)
    chunks = math.ceil(tokens / chunk)
    step = terms_of(s, machine, dict(row, test="tg", depth=0, batch=chunk))
    gpus = machine["gpus"]
    way = "tensor" if row["engine"] == "vllm" else "layer"
    out = []
    for amount, names in step:
        if any(k.startswith("all/") and k[4:] in ("weights", "layer", "hop") for k in names):
            names = dict(names)
            if "split/decode/" + way in names:
                del names["split/decode/" + way]
                names["split/prefill/" + way] = -math.log(gpus)
            out.append((amount * chunks, names))
    return out


def start(name):
    kind, term = name.split("/")[:2]
    if kind == "all":
        return START.get(term, 0.0)
    if name == "split/decode/tensor" or name == "split/prefill/tensor":
        return 0.7
    if name == "split/prefill/layer":
        return 0.2
    return 0.0


# ---- rows -----------------------------------------------------------------------------------------------

def refusal(r):
    """Why a row of measurements.csv is not fitted on; None: it is."""
    note = r["notes"].lower()
    for good in ("no mtp", "mtp off", "without mtp", "no spec-dec", "spec-off", "182 with mtp", "28.3 with mtp"):
        note = note.replace(good, "")
    for bad in ("mtp", "dflash", "speculative", "power limit", "w limit", "w cap", "w/card", "disowned", "quoted", "copy of",
                "did not reproduce", "host ram", "includes end-to-end", "throttles ~", "prefer mlx", "bogus", "warmed;", "fallback q8"):
        if bad in note:
            return bad
    if "rpc" in r["backend"].lower() or "rpc" in r["engine"].lower() or "rdma" in r["machine"].lower() or "tcp" in r["machine"].lower():
        return "rpc"
    if r["source_date"][:4] < "2025":
        return "old build"
    if r["test"] not in ("pp", "tg") or not r["value"]:
        return "not a rate"
    if "ubatch 1 at" in note:
        return "unclear setting"
    if r["engine"].lower().startswith("exo") or r["backend"] in ("mixed", "CUDA+CPU", "CPU", "GPU/CPU") or r["n_prompt"] == "short" or r["n_depth"] == "short":
        return "unclear setting"
    if int(r["batch"]) > 64:
        return "unclear setting"
    if r["backend"] == "MLX":
        return "unclear setting"
    return None


def ubatch_of(r, n):
    for word in r["notes"].replace("=", "").lower().split():
        if word.startswith("ub") and word[2:].isdigit():
            return int(word[2:])
    if "hipblaslt" in r["notes"]:
        return 512
    return default_ubatch(n)


def default_ubatch(n):
    return 2048 if n >= 2048 else 512


def rows_of(catalogue):
    rows = []
    with open(os.path.join(CATALOGUE, "measurements.csv"), encoding="utf-8", newline="") as f:
        for r in csv.DictReader(f):
            model, machine = catalogue.models[r["model_id"]], catalogue.machines[r["machine_id"]]
            why = refusal(r)
            if r["test"] not in ("pp", "tg") or "layers" not in model:
                continue
            quant = r["quant"] or "Q4_K_M"
            vague = r["n_depth"] == "" or (r["test"] == "pp" and r["n_prompt"] == "")
            n = int(r["n_prompt"]) if r["n_prompt"].isdigit() else 2048
            depth = float(r["n_depth"]) if r["n_depth"].isdigit() else (256.0 if r["test"] == "tg" else 0.0)
            bits = float(r["bits_per_weight"]) if r["bits_per_weight"] and r["bits_per_weight"] not in ("4", "8") else catalogue.bits(model, quant)
            rows.append({"machine": r["machine_id"], "model": r["model_id"], "family": model["family"], "quant": quant, "class": "mxfp4" if "native_bits" in model else catalogue.quants[quant.lower()]["class"],
                         "engine": engine_of(r["engine"], r["backend"], machine), "test": r["test"], "n": n, "depth": depth,
                         "batch": int(r["batch"]), "ubatch": ubatch_of(r, n), "value": float(r["value"]), "vague": vague,
                         "bits": bits, "refusal": why, "old": r["source_date"] < "2026" and r["backend"] in ("ROCm", "Vulkan"), "note": r["notes"]})
    for r in rows:
        machine, model = catalogue.machines[r["machine"]], catalogue.models[r["model"]]
        shape = shape_of(model, r["bits"])
        r["terms"] = terms_of(shape, machine, r)
        r["least"] = least_of(shape, machine, dict(r, old=False))
        r["terms_now"] = terms_of(shape, machine, dict(r, old=False))
        tokens = r["batch"] * (r["n"] if r["test"] == "pp" else 1)
        r["log_s"] = math.log(tokens / r["value"])
        r["sd"] = NOISE[r["test"]] * (VAGUE if r["vague"] else 1)
    return rows


# ---- the fit --------------------------------------------------------------------------------------------

def known(terms, theta):
    """The logarithm of the time; numbers that were not fitted are those of their class."""
    return math.log(sum(a * math.exp(sum(theta.get(k, start(k)) * f for k, f in names.items())) for a, names in terms))


def prior_of(name):
    # ds4 is written for one model and tuned chip by chip: that says little of the machine.
    if name.startswith("machine-engine/") and "ds4" in name:
        return 0.4
    return PRIOR[name.split("/")[0]]


def fit(rows, theta=None, rounds=14):
    """Gauss-Newton with a weight per row from Student's t: {number: value}"""
    import numpy as np

    names = sorted({k for r in rows for _, t in r["terms"] for k in t})
    index = {k: i for i, k in enumerate(names)}
    at = np.array([(theta or {}).get(k, start(k)) for k in names])
    begin = np.array([start(k) for k in names])
    prior = np.array([1 / prior_of(k) ** 2 for k in names])
    sd = np.array([r["sd"] for r in rows])
    seen_s = np.array([r["log_s"] for r in rows])
    owner, amount, effects = [], [], []
    for i, r in enumerate(rows):
        for x, t in r["terms"]:
            line = np.zeros(len(names))
            for k, f in t.items():
                line[index[k]] = f
            owner.append(i)
            amount.append(math.log(x))
            effects.append(line)
    owner, amount, effects = np.array(owner), np.array(amount), np.array(effects)
    sums = np.zeros((len(rows), len(owner)))
    sums[owner, np.arange(len(owner))] = 1
    for _ in range(rounds):
        x = np.exp(amount + effects @ at)
        total = sums @ x
        slope = sums @ (effects * (x / total[owner])[:, None])
        miss = seen_s - np.log(total)
        weight = (STUDENT + 1) / (STUDENT + (miss / sd) ** 2) / sd**2
        step = np.linalg.solve((slope * weight[:, None]).T @ slope + np.diag(prior),
                               slope.T @ (weight * miss) + prior * (begin - at))
        longest = np.abs(step).max()
        at = at + step * min(1.0, 1.0 / longest)
        if longest < 2e-3:
            break
    return {k: float(v) for k, v in zip(names, at)}


# ---- how wrong is it ------------------------------------------------------------------------------------

def median(values):
    v = sorted(values)
    return (v[len(v) // 2] + v[(len(v) - 1) // 2]) / 2 if v else float("nan")


def quantile(values, share):
    v = sorted(values)
    at = share * (len(v) - 1)
    low = int(at)
    return v[low] + (v[min(low + 1, len(v) - 1)] - v[low]) * (at - low)


def error(miss):
    return 100 * abs(math.exp(miss) - 1)


def leave_out(rows, theta, key):
    """Misses of rows whose machine or model the fit did not see: {test: [(group, row, miss)]}"""
    out = []
    groups = sorted({r[key] for r in rows})
    for g in groups:
        rest = [r for r in rows if r[key] != g]
        without = {k: v for k, v in theta.items() if g not in k.split("/")}
        part = fit(rest, without, 4)
        out += [(g, r, r["log_s"] - known(r["terms"], part)) for r in rows if r[key] == g]
    return out


def run_of(r):
    return "%s/%s/%s/%s" % (r["machine"], r["family"], r["class"], r["engine"])


def folds(rows, theta, key, n=8):
    """Misses of rows held out one nth at a time; rows of the same key stay together."""
    place = {k: i % n for i, k in enumerate(sorted({key(r) for r in rows}))}
    out = []
    for f in range(n):
        part = fit([r for r in rows if place[key(r)] != f], theta, 4)
        out += [(f, r, r["log_s"] - known(r["terms"], part)) for r in rows if place[key(r)] == f]
    return out


def table(title, misses, by):
    print("\n" + title)
    for test in ("tg", "pp"):
        own = [m for m in misses if m[1]["test"] == test]
        if own:
            print("  %s: %d rows, median %.1f %%, 80th percentile %.1f %%" % (
                test, len(own), median([error(m[2]) for m in own]), quantile([error(m[2]) for m in own], 0.8)))
    if not by:
        return
    print("  %-44s %14s %14s" % (by, "tg: rows, %", "pp: rows, %"))
    for g in sorted({m[0] for m in misses}):
        text = []
        for test in ("tg", "pp"):
            own = [error(m[2]) for m in misses if m[0] == g and m[1]["test"] == test]
            text.append("%4d %8.1f" % (len(own), median(own)) if own else "   -        -")
        print("  %-44s  %s  %s" % (g, text[0], text[1]))


def spread(misses, test, by_group):
    """The 10th and 90th percentile of the misses; by group: each group counts the same."""
    own = [m for m in misses if m[1]["test"] == test]
    size = {}
    for m in own:
        size[m[0]] = size.get(m[0], 0) + 1
    line = sorted((m[2], 1 / size[m[0]] if by_group else 1.0) for m in own)
    total, out = sum(w for _, w in line), []
    for share in (0.1, 0.9):
        so_far = 0.0
        for miss, w in line:
            so_far += w
            if so_far >= share * total:
                out.append(round(miss, 4))
                break
    return out


def coverage(misses, n=8):
    """How many of the misses lie in an interval that was made from the others."""
    text = []
    for test in ("tg", "pp"):
        own = [m for m in misses if m[1]["test"] == test]
        keys = sorted({run_of(m[1]) for m in own})
        place = {k: i % n for i, k in enumerate(keys)}
        inside = 0
        for f in range(n):
            low, high = spread([m for m in own if place[run_of(m[1])] != f], test, False)
            inside += sum(low <= m[2] <= high for m in own if place[run_of(m[1])] == f)
        text.append("%s %.0f %%" % (test, 100 * inside / len(own)))
    return ", ".join(text)


CROSS = (("row", "single rows (the rest of the run was seen)", ""), ("run", "runs: machine, model, class of quantisation and engine", ""),
         ("machine", "machines", "machine"), ("model", "models, with all that share their shape", "model"))


def cross(use, theta):
    parts = {"row": folds(use, theta, lambda r: (r["machine"], r["model"], r["engine"], r["test"], r["n"], r["depth"], r["batch"], r["value"])),
             "run": folds(use, theta, run_of), "machine": leave_out(use, theta, "machine"), "model": leave_out(use, theta, "family")}
    for kind, what, by in CROSS:
        table("held out: " + what, parts[kind], by)
        if not by:
            print("  an 80 %% interval made from the others holds: %s" % coverage(parts[kind]))
    return {k: {t: spread(m, t, k in ("machine", "model")) for t in ("tg", "pp")} for k, m in parts.items()}


def compare(rows, numbers, program):
    """The largest difference between this formula and the program's, over all rows."""
    asked = [{"machine": r["machine"], "model": r["model"], "quant": r["quant"], "test": r["test"], "n_prompt": r["n"], "depth": r["depth"],
              "batch": r["batch"], "backend": r["engine"], "ubatch": r["ubatch"], "bits": r["bits"]} for r in rows]
    answer = subprocess.run([program, "plan", "predict", "--batch-file", "-", "--json"], input=json.dumps(asked), text=True,
                            stdout=subprocess.PIPE, check=True).stdout
    worst, told = 0.0, json.loads(answer)
    for r, a in zip(rows, told, strict=True):
        tokens = r["batch"] * (r["n"] if r["test"] == "pp" else 1)
        ours = tokens / math.exp(max(known(r["terms_now"], numbers), known(r["least"], numbers)))
        worst = max(worst, abs(a["tokens_per_s"] / ours - 1))
    print("%d rows, largest difference to %s: %.2g" % (len(rows), os.path.basename(program), worst))
    return worst


def main():
    args = sys.argv[1:]
    catalogue = Catalogue()
    rows = rows_of(catalogue)
    if "--tandem" in args:
        with open(os.path.join(CATALOGUE, "efficiency.json"), encoding="utf-8") as f:
            numbers = json.load(f)["numbers"]
        sys.exit(compare(rows, numbers, args[args.index("--tandem") + 1]) > 1e-3)
    use = [r for r in rows if r["refusal"] is None]
    theta = fit(use)
    print("%d rows, %d fitted on, %d numbers" % (len(rows), len(use), len(theta)))
    table("fitted on", [(r["machine"], r, r["log_s"] - known(r["terms"], theta)) for r in use], "")
    bound = sum(known(r["least"], theta) > known(r["terms_now"], theta) + 1e-9 for r in use)
    print("%d fitted rows are predicted faster than their weights can be read" % bound)
    apart = [r for r in rows if r["refusal"] == "old build"]
    table("builds of 2023 and 2024, never fitted on", [(r["machine"], r, r["log_s"] - known(r["terms"], theta)) for r in apart], "machine")
    spreads = cross(use, theta) if "--no-cross" not in args else None
    if "--worst" in args:
        for r in sorted(use, key=lambda r: -abs(r["log_s"] - known(r["terms"], theta)))[:40]:
            print("%7.1f %%  %s" % (100 * math.expm1(r["log_s"] - known(r["terms"], theta)),
                                   " ".join(str(r[k]) for k in ("machine", "model", "quant", "engine", "test", "n", "depth", "batch"))))
    always = ["all/" + k for k in START] + ["split/%s/%s" % (a, b) for a in ("prefill", "decode") for b in ("layer", "tensor")]
    numbers = {k: round(theta.get(k, start(k)), 4) for k in sorted(set(theta) | set(always)) if not k.startswith("era/")}
    result = {"about": "Written by scripts/plan_fit.py; docs/cost-model.md says what the numbers mean. They are logarithms of factors.",
              "alike": ALIKE, "deep_tokens": DEEP, "spread": spreads, "runs": sorted({run_of(r) for r in use}),
              "numbers": {k: v for k, v in numbers.items() if v or k in always}}
    if "--write" in args:
        if spreads is None:
            sys.exit("plan_fit.py: --write needs the cross-validation for the intervals; leave out --no-cross")
        with open(os.path.join(CATALOGUE, "efficiency.json"), "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
