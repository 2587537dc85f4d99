"""bounds.py PARTS-FOLDER OUT.json: the measured parts of acceptance.sh against what they must reach.

Prints one line per bound and writes everything with date and machine. What OUT.json holds of parts that were not
measured now stays, with its own date and machine. Exit code 3 when a bound of what was measured now is missed.
"""
import datetime
import json
import os
import pathlib
import platform
import sys

MAC, SPARK = "mac-studio-m3-ultra", "dgx-spark"


def transfer_floor_ratio(part):
    """Total against the time that the link and the decode take at least."""
    hybrid = part["hybrid"]
    decode_alone = part["solo"][1]["decode_s"]
    return hybrid["total_s"] / (hybrid["kv_bytes"] / hybrid["link_bytes_per_s"] + decode_alone)


def slow_readers_ratio(part):
    """How long the fast streams take beside slow readers, against without them."""
    return part["slow"]["fast_streams_s"] / part["fast"]["fast_streams_s"]


def choice_us(part, nodes):
    """The median of a choice in a fleet of so many."""
    return next(f["median_us"] for f in part["fleets"] if f["nodes"] == nodes)


# part, what, value of the part, "at least" or "at most", bound
BOUNDS = [
    ("emulated", "efficiency", lambda p: p["efficiency"], ">=", 0.98),
    ("emulated", "overruns", lambda p: p["overruns"], "<=", 0),
    ("emulated", "output identical", lambda p: int(p["output_identical"]), ">=", 1),
    ("emulated", "speedup over the emulated Mac", lambda p: p["speedup"][MAC], ">=", 2.7),
    ("emulated", "speedup over the emulated Spark", lambda p: p["speedup"][SPARK], ">=", 1.82),
    ("emulated", "serial / hybrid", lambda p: p["serial_ratio"], ">=", 1.35),
    ("emulated", "unpaced efficiency", lambda p: p["unpaced"]["efficiency"], ">=", 0.96),
    ("streaming", "streaming costs prefill", lambda p: p["cost"], "<=", 0.02),
    ("slow-link", "total / transfer-bound floor", transfer_floor_ratio, "<=", 1.03),
    ("slow-link", "overruns", lambda p: p["overruns"], "<=", 0),
    ("long", "efficiency", lambda p: p["efficiency"], ">=", 0.985),
    ("long", "overruns", lambda p: p["overruns"], "<=", 0),
    ("long", "output identical", lambda p: int(p["output_identical"]), ">=", 1),
    ("link", "link GB/s", lambda p: p["link"]["gb_per_s"], ">=", 1.2),
    ("local", "decode / llama-bench tg", lambda p: p["decode_ratio"], ">=", 0.98),
    ("local", "prefill / llama-bench pp", lambda p: p["prefill_ratio"], ">=", 0.98),
    ("gateway", "CPU ms per request", lambda p: p["single"]["cpu_ms_per_request"], "<=", 0.5),
    ("gateway", "CPU us per streamed token", lambda p: p["streams"]["cpu_us_per_token"], "<=", 20),
    ("gateway", "MiB, 1,000 streams and 5,000 idle", lambda p: p["streams"]["peak_memory_mib"], "<=", 300),
    ("gateway", "idle connections kept", lambda p: p["streams"]["idle_still_open"], ">=", 5000),
    ("gateway", "fast streams beside slow / alone", slow_readers_ratio, "<=", 1.1),
    ("place", "us of a choice, 8 nodes", lambda p: choice_us(p, 8), "<=", 50),
    ("place", "us of a choice, 1,000 nodes", lambda p: choice_us(p, 1000), "<=", 1000),
    ("llama-server", "8 streams / llama-server -kvu", lambda p: p["streams"]["to_kvu"], ">=", 1.00),
    ("llama-server", "8 streams / its best", lambda p: p["streams"]["to_best"], ">=", 0.97),
    ("llama-server", "time to first token / its best", lambda p: p["ttft"]["to_best"], "<=", 1.02),
    ("llama-server", "p99 between tokens, busy / quiet", lambda p: p["stall"]["tandem"]["p99_ratio"], "<=", 2),
    ("llama-server", "second turn / cold, local", lambda p: p["turns"]["local_ratio"], "<=", 0.08),
    ("llama-server", "second turn / cold, hybrid", lambda p: p["turns"]["hybrid_ratio"], "<=", 0.08),
    ("grid", "regret, mean", lambda p: p["regret_mean"], "<=", 0.03),
    ("grid", "regret, worst cell", lambda p: p["regret_max"], "<=", 0.15),
    ("grid", "prediction off by, after ten", lambda p: p["mape"], "<=", 0.08),
    ("grid", "prediction off by, first request", lambda p: p["mape_first"], "<=", 0.20),
    ("grid", "cells", lambda p: p["n_cells"], ">=", 24),
    ("grid", "cells where hybrid loses", lambda p: p["hybrid_loses"], ">=", 1),
    ("grid", "seconds", lambda p: p["seconds"], "<=", 600),
    ("fleet", "two Sparks / one, a link each", lambda p: p["speedup"], ">=", 1.5),
    ("fleet", "shared link, of the bound", lambda p: p["shared_of_bound"], ">=", 0.97),
    ("stalls", "worst stall / quiet p99", lambda p: p["worst_ratio"], "<=", 1.5),
    ("stalls", "prompts' first token / llama-server", lambda p: p["ttft_ratio"], "<=", 2.2),
    ("goodput", "goodput / llama-server's best", lambda p: p["ratio"], ">=", 1.5),
    ("images", "a picture / the library's own", lambda p: 1 + p["overhead"]["gateway"]["overhead_share"], "<=", 1.02),
    ("images", "added to a picture, ms", lambda p: p["overhead"]["gateway"]["overhead_ms"], "<=", 50),
    ("images", "chats' p99 at most a step later", lambda p: int(p["chats"]["bounded"]), ">=", 1),
    ("memory", "added MB", lambda p: p["added_bytes"] / 1e6, "<=", 60),
]


def cpu_name():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def check(parts):
    rows = []
    for part, what, value_of, sense, bound in BOUNDS:
        if part not in parts:
            continue
        value = value_of(parts[part])
        # What could not be measured meets no bound.
        ok = value is not None and (value >= bound if sense == ">=" else value <= bound)
        rows.append({"part": part, "what": what, "value": value, "bound": f"{sense} {bound}", "ok": ok})
    return rows


def earlier(out):
    """The parts of the last results, each with its date and machine."""
    try:
        last = json.loads(pathlib.Path(out).read_text())
    except (OSError, ValueError):
        return {}
    return {name: {"date": last["date"], "machine": last["machine"], **part} for name, part in last["parts"].items()}


def trim(value):
    """Single requests stay in the results of their own, bench/results/PART.json."""
    if isinstance(value, list):
        return [trim(v) for v in value]
    if not isinstance(value, dict):
        return value
    return {k: trim(v) for k, v in value.items() if k not in ("timeline", "requests", "choices") or not isinstance(v, list)}


def main(folder, out):
    now = {f.stem: trim(json.loads(f.read_text())) for f in sorted(pathlib.Path(folder).glob("*.json"))
           if not f.stem.endswith(".new")}
    today = datetime.date.today().isoformat()
    for part in now.values():
        part["date"] = today
    parts = {**earlier(out), **now}
    rows = check(parts)
    result = {
        "date": today,
        "machine": {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0))
                    if hasattr(os, "sched_getaffinity") else os.cpu_count(),
                    "system": f"{platform.system()} {platform.machine()}"},
        "bounds": rows,
        "parts": parts,
    }
    pathlib.Path(out).write_text(json.dumps(result, indent=1) + "\n")
    measured = [row for row in rows if row["part"] in now]
    for row in measured:
        value = "unknown" if row["value"] is None else f"{row['value']:.4f}"
        print(f"{'ok    ' if row['ok'] else 'MISSED'} {row['part']:12} {row['what']:34} {value:>10}   {row['bound']}")
    return 0 if all(row["ok"] for row in measured) else 3


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
