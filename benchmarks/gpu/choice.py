"""From files of results, what `lstm_xp/engines/cuda/measured.json` holds: the quickest engines at each size."""

import json
import re
from statistics import fmean

from lstm_xp import engines
from lstm_xp.engines.cuda import choice

from .. import records
from .sizes import KINDS
from .verdict import is_wrong

WHATS = {"inference": False, "training": True}


def joined(results):
    """Several results of one device as one: the first, with the records and commands of all."""
    records = [record for result in results for record in result["records"]]
    rehearsal = any(result["rehearsal"] for result in results)
    commands = "; ".join(dict.fromkeys(result.get("command", "") for result in results))
    return {**results[0], "rehearsal": rehearsal, "records": records, "command": commands}


def add(result, file, source):
    """Put what a result says of its device into the table, in place of what was known of it. Returns the device.

    An engine with a wrong number anywhere in the result is left out of all of it.
    """
    device = _device(result, source)
    wrong = {record.get("engine") or record.get("contender") for record in result["records"] if is_wrong(record)}
    ours, times = set(engines.candidates("cupy")) - set(engines.ANY_LIBRARY), {}
    for record in result["records"]:
        name = record.get("contender")
        if record["part"] == "engines" and name in ours and "median_s" in record:
            N, T, _, H = record["size"]
            taken = times.setdefault((record["kind"], record["what"], N, H), {})
            taken.setdefault(name, []).append(record["median_s"] / T)
    found = []
    for (kind, what, N, H), taken in times.items():
        # Of several lengths or input sizes, what a step takes on the mean.
        order = [name for name in sorted(taken, key=lambda name: fmean(taken[name])) if name not in wrong]
        point = {
            "dtype": KINDS[kind].dtype,
            "precision": KINDS[kind].precision,
            "training": WHATS[what],
            "N": N,
            "H": H,
        }
        found.append(point | {"engines": order})
    if not found:
        raise records.BadFile(f"{source}: no engine has a time in it; measure the part 'engines'")
    table = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"format": choice.FORMAT, "devices": {}}
    chip = next(record for record in result["records"] if record["part"] == "environment")
    table["devices"][device] = {
        "capability": chip["compute capability"],
        "processors": chip["SMs"],
        "from": result["machine"],
        "command": result.get("command"),
        "quickest": found,
    }
    records.replace(file, as_text(table))
    return device


def as_text(table):
    """The table as JSON, with one line for each point."""
    text = json.dumps(table, indent=1)
    return re.sub(r'\{[^{}]*"engines"[^{}]*\}', lambda point: json.dumps(json.loads(point[0])), text) + "\n"


def _device(result, source):
    if result["rehearsal"]:
        raise records.BadFile(f"{source}: a rehearsal on a CPU; its figures count for no GPU")
    proved = any(record["part"] == "correctness" and "share" in record for record in result["records"])
    if not proved:
        raise records.BadFile(f"{source}: nothing was proved in it; measure the part 'correctness', too")
    found = {record.get("GPU") for record in result["records"] if record["part"] == "environment"}
    if len(found) > 1:
        raise records.BadFile(f"{source}: they are of several devices, {', '.join(sorted(map(str, found)))}")
    device = next(iter(found), None)
    if not device or device.startswith("unknown"):
        raise records.BadFile(f"{source}: it does not say which GPU was measured")
    return device
